package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarima/proxy/routes"
)

// upstreamProcess serves an echo until it is killed.
func upstreamProcess(address string) {
	deadline := time.Now().Add(5 * time.Second)
	l, err := net.Listen("tcp", address)
	for err != nil && time.Now().Before(deadline) {
		// The killed predecessor's port may take a moment to be free.
		<-time.After(10 * time.Millisecond)
		l, err = net.Listen("tcp", address)
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	_ = http.Serve(l, echo())
}

// startUpstream runs this binary as an upstream process.
func startUpstream(t *testing.T, address string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PROXY_TEST_UPSTREAM="+address)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l := listenLocal(t)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// load asks with n clients until it is stopped and counts the answers that
// are not 200.
type load struct {
	ok, failed atomic.Int64
	first      atomic.Pointer[string]
	wait       sync.WaitGroup
	stop       context.CancelFunc
}

func startLoad(n int, browser *http.Client, url string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	for range n {
		l.wait.Go(func() {
			for ctx.Err() == nil {
				resp, err := browser.Get(url)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if err == nil && resp.StatusCode != http.StatusOK {
						err = fmt.Errorf("answer %s", resp.Status)
					}
				}
				if err != nil {
					l.failed.Add(1)
					text := err.Error()
					l.first.CompareAndSwap(nil, &text)
					continue
				}
				l.ok.Add(1)
			}
		})
	}
	return l
}

func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.wait.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed, the first with: %s", n, n+l.ok.Load(), *l.first.Load())
	}
}

// An upstream process that dies and comes back is not seen by who asks.
func TestKilledUpstreamLosesNoGET(t *testing.T) {
	r := start(t)
	up := freeAddress(t)
	cmd := startUpstream(t, up)
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	r.put(one(1, up, routes.Ready))
	load := startLoad(16, r.browser(false), "https://lms.test/page")
	for range kills {
		before := load.ok.Load()
		until(t, "answers", func() bool { return load.ok.Load() > before+50 || load.failed.Load() > 0 })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		cmd = startUpstream(t, up)
	}
	before := load.ok.Load()
	until(t, "answers after the last restart", func() bool { return load.ok.Load() > before+50 || load.failed.Load() > 0 })
	load.end(t)
}

// The supervisor's way to replace a container: drain, wait for the event,
// stop, start elsewhere, ready.
func TestDrainedReplacementLosesNothing(t *testing.T) {
	r := start(t)
	slow := func() (string, func()) {
		l := listenLocal(t)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-time.After(3 * time.Millisecond)
			_, _ = w.Write(bytes.Repeat([]byte("x"), 100_000))
		})}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }()
		return l.Addr().String(), func() { _ = srv.Close(); <-done }
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := r.client.Events(ctx)
	up, kill := slow()
	generation := uint64(1)
	r.put(one(generation, up, routes.Ready))
	load := startLoad(12, r.browser(false), "https://lms.test/page")
	var posts load2
	posts.start(r.browser(false), "https://lms.test/post", 4)
	for range 20 {
		before := load.ok.Load()
		until(t, "answers", func() bool { return load.ok.Load() > before+20 || load.failed.Load() > 0 })
		generation++
		r.put(one(generation, up, routes.Draining))
		for e := range events {
			if e.Kind == routes.Drained && e.Generation == generation {
				if e.Service != "lms" || e.Site != "default" {
					t.Fatalf("event %+v", e)
				}
				break
			}
		}
		kill()
		up, kill = slow()
		generation++
		r.put(one(generation, up, routes.Ready))
	}
	load.end(t)
	posts.end(t)
	kill()
}

// load2 sends bodies.
type load2 struct {
	stop   atomic.Bool
	wait   sync.WaitGroup
	ok     atomic.Int64
	failed atomic.Int64
	first  atomic.Pointer[string]
}

func (l *load2) fail(why string) {
	l.failed.Add(1)
	l.first.CompareAndSwap(nil, &why)
}

func (l *load2) start(browser *http.Client, url string, n int) {
	for range n {
		l.wait.Go(func() {
			for !l.stop.Load() {
				resp, err := browser.Post(url, "application/octet-stream", bytes.NewReader(make([]byte, 20_000)))
				if err != nil {
					l.fail(err.Error())
					continue
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					l.fail(fmt.Sprintf("%s, %v", resp.Status, err))
					continue
				}
				l.ok.Add(1)
			}
		})
	}
}

func (l *load2) end(t *testing.T) {
	t.Helper()
	l.stop.Store(true)
	l.wait.Wait()
	if l.failed.Load() > 0 || l.ok.Load() == 0 {
		why := "none"
		if first := l.first.Load(); first != nil {
			why = *first
		}
		t.Errorf("POST: %d failed, %d ok, the first failure: %s", l.failed.Load(), l.ok.Load(), why)
	}
}

// An upstream that closes kept connections without a word, as uWSGI does,
// fails no POST.
func TestRudeUpstreamFailsNoPOST(t *testing.T) {
	r := start(t)
	l := listenLocal(t)
	// One answer per connection, "keep-alive" in the head, closed all the same.
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 64<<10)
				var got []byte
				for !bytes.HasSuffix(got, []byte("END")) {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					got = append(got, buf[:n]...)
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok")
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); served.Wait() })
	r.put(one(1, l.Addr().String(), routes.Ready))
	browser := r.browser(false)
	var wait sync.WaitGroup
	var failed atomic.Int64
	for range 8 {
		wait.Go(func() {
			for range 50 {
				resp, err := browser.Post("https://lms.test/", "text/plain", bytes.NewReader([]byte("some data END")))
				if err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
				}
				if err == nil {
					_ = resp.Body.Close()
				}
			}
		})
	}
	wait.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of 400 POSTs failed", n)
	}
}

// Requests with a body that come while the upstream is dead wait for it, and
// are sent once.
func TestPOSTWaitsForADeadUpstream(t *testing.T) {
	r := start(t)
	up := freeAddress(t)
	r.put(one(1, up, routes.Ready))
	browser := r.browser(false)
	for range 3 {
		var posts sync.WaitGroup
		var failed atomic.Int64
		for range 12 {
			posts.Go(func() {
				resp, err := browser.Post("https://lms.test/post", "application/octet-stream", bytes.NewReader(make([]byte, 20_000)))
				if err != nil {
					failed.Add(1)
					return
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"Body":20000`)) {
					failed.Add(1)
				}
			})
		}
		until(t, "all wait", func() bool { return waiting(r) == 12 })
		cmd := startUpstream(t, up)
		posts.Wait()
		_ = cmd.Process.Kill() // it has answered everything
		_ = cmd.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of 12 POSTs failed", n)
		}
	}
}

// An upstream that closes kept connections when it likes, with and without
// having read the next request, fails neither GET nor POST.
func TestMoodyUpstreamFailsNothing(t *testing.T) {
	l := listenLocal(t)
	var served sync.WaitGroup
	served.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer func() { _ = c.Close() }()
				in := bufio.NewReader(c)
				// As many answers as its number says; then it reads one more
				// request, or not, and closes.
				for range 1 + n%4 {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					if n%3 == 0 { // idle for a moment too long
						_ = c.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
					}
				}
				if n%2 == 0 {
					_, _ = http.ReadRequest(in) // its end is the answer
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); served.Wait() })
	r := start(t) // and so it ends before, with its connections
	r.put(one(1, l.Addr().String(), routes.Ready))
	browser := r.browser(false)
	var wait sync.WaitGroup
	var failed atomic.Int64
	for i := range 8 {
		wait.Go(func() {
			for n := range 100 {
				var resp *http.Response
				var err error
				if i%2 == 0 {
					resp, err = browser.Get("https://lms.test/")
				} else {
					resp, err = browser.Post("https://lms.test/", "text/plain", bytes.NewReader([]byte("data")))
				}
				if err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
				}
				if err == nil {
					_ = resp.Body.Close()
				}
				if n%10 == 0 {
					<-time.After(2 * time.Millisecond) // so that it comes as it closes
				}
			}
		})
	}
	wait.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of 800 requests failed", n)
	}
}
