package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// scripted is an upstream whose n-th connection answers its requests with the
// n-th script, one answer each, and closes after the last. A script "-" closes
// after the request was read; "…" says nothing until the test ends.
func scripted(t *testing.T, scripts ...[]string) (address string, connections *atomic.Int64) {
	t.Helper()
	l := listenLocal(t)
	end := make(chan struct{})
	var wait sync.WaitGroup
	connections = new(atomic.Int64)
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(connections.Add(1))
			wait.Go(func() {
				defer func() { _ = c.Close() }()
				if n > len(scripts) {
					return
				}
				in := bufio.NewReader(c)
				for _, answer := range scripts[n-1] {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					switch answer {
					case "-":
						return
					case "…":
						<-end
						return
					}
					_, _ = io.WriteString(c, strings.ReplaceAll(answer, "\n", "\r\n"))
				}
			})
		}
	})
	t.Cleanup(func() { close(end); _ = l.Close(); wait.Wait() })
	return l.Addr().String(), connections
}

func ask(t *testing.T, d *direct, ctx context.Context, method, address string) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+address+"/x?a;b", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := d.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func newDirect(t *testing.T) *direct {
	d := newUpstreams(Limits{Upstream: 5 * time.Second}).kept
	t.Cleanup(d.close)
	return d
}

func TestDirect(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"
	many := "HTTP/1.1 200 OK\nX: " + strings.Repeat("x", 4000) + "\nContent-Length: 2\n\nok"
	cases := []struct {
		name        string
		scripts     [][]string
		method      string
		answers     []string // bodies of requests one after the other; "!…": an error with that text
		connections int64
	}{
		{"kept", [][]string{{ok, ok, ok}}, "GET", []string{"ok", "ok", "ok"}, 1},
		{"closed after each answer without a word", [][]string{{ok}, {ok}, {ok}}, "GET", []string{"ok", "ok", "ok"}, 3},
		{"closed when the next request came", [][]string{{ok, "-"}, {ok}}, "GET", []string{"ok", "ok"}, 2},
		{"a new connection that says nothing is an error", [][]string{{"-"}, {ok}}, "GET", []string{"!read from", "ok"}, 2},
		{"says that it closes", [][]string{{"HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\n\nok", ok}, {ok}}, "GET", []string{"ok", "ok"}, 2},
		{"HTTP/1.0", [][]string{{"HTTP/1.0 200 OK\n\nuntil the end"}, {ok}}, "GET", []string{"until the end", "ok"}, 2},
		{"more than was asked", [][]string{{ok + "HTTP/1.1 200 OK\nContent-Length: 4\n\nevil"}, {ok}}, "GET", []string{"ok", "ok"}, 2},
		{"chunked", [][]string{{"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nA: b\n\n", ok}}, "GET", []string{"ok", "ok"}, 1},
		{"no content", [][]string{{"HTTP/1.1 204 No Content\n\n", "HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n", ok}}, "GET", []string{"", "", "ok"}, 1},
		{"HEAD", [][]string{{"HTTP/1.1 200 OK\nContent-Length: 5\n\n", "HTTP/1.1 200 OK\nContent-Length: 5\n\n"}}, "HEAD", []string{"", ""}, 1},
		{"early hints", [][]string{{"HTTP/1.1 103 Early Hints\nLink: </a>\n\n" + ok, ok}}, "GET", []string{"ok", "ok"}, 1},
		{"broken off", [][]string{{"HTTP/1.1 200 OK\nContent-Length: 9\n\nok"}, {ok}}, "GET", []string{"!unexpected EOF", "ok"}, 2},
		{"no HTTP", [][]string{{"SSH-2.0\n\n"}, {ok}}, "GET", []string{"!malformed", "ok"}, 2},
		{"another protocol", [][]string{{"HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade\n\n"}, {ok}}, "GET", []string{"!another protocol", "ok"}, 2},
		{"long head", [][]string{{strings.Repeat("HTTP/1.1 103 Early Hints\nX: "+strings.Repeat("x", 4000)+"\n\n", 70) + ok}, {many}}, "GET", []string{"!answer of", "ok"}, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := newDirect(t)
			address, connections := scripted(t, c.scripts...)
			for i, want := range c.answers {
				_, body, err := ask(t, d, t.Context(), c.method, address)
				if text, bad := strings.CutPrefix(want, "!"); bad {
					if err == nil || !strings.Contains(err.Error(), text) {
						t.Errorf("request %d: %q, %v; want an error with %q", i+1, body, err, text)
					}
					continue
				}
				if err != nil || body != want {
					t.Errorf("request %d: %q, %v; want %q", i+1, body, err, want)
				}
			}
			if n := connections.Load(); n != c.connections {
				t.Errorf("%d connections, want %d", n, c.connections)
			}
		})
	}
}

// A client that goes away takes the connection to the upstream along, before
// and within the answer.
func TestDirectGoneClient(t *testing.T) {
	for name, script := range map[string]string{"before": "…", "within": "HTTP/1.1 200 OK\nContent-Length: 9\n\nok"} {
		t.Run(name, func(t *testing.T) {
			d := newDirect(t)
			address, connections := scripted(t, []string{script, "…"})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, _, err := ask(t, d, ctx, "GET", address)
				ended <- err
			}()
			until(t, "a connection", func() bool { return connections.Load() == 1 })
			cancel()
			if err := <-ended; err == nil {
				t.Error("no error")
			} else if name == "before" && !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if d.take(address) != nil {
				t.Error("the connection was kept")
			}
		})
	}
}

func TestDirectSilentUpstream(t *testing.T) {
	d := newDirect(t)
	d.head = 30 * time.Millisecond
	address, connections := scripted(t, []string{"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "…"})
	if _, _, err := ask(t, d, t.Context(), "GET", address); err != nil {
		t.Fatal(err)
	}
	// One that thinks for too long is not asked again.
	if _, _, err := ask(t, d, t.Context(), "GET", address); !isTimeout(err) {
		t.Errorf("error %v", err)
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if _, _, err := ask(t, d, t.Context(), "GET", freeAddress(t)); !notReached(err) {
		t.Errorf("nobody listens: %v", err)
	}
}

// Connections that nobody uses are closed, and no timer stays behind.
func TestDirectSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newUpstreams(Limits{Upstream: time.Minute}).kept
		var open atomic.Int64
		d.dial = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			open.Add(1)
			go func() {
				defer open.Add(-1)
				in := bufio.NewReader(theirs)
				for {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					_, _ = io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			}()
			return ours, nil
		}
		var wait sync.WaitGroup
		for range 5 {
			wait.Go(func() {
				if _, body, err := ask(t, d, t.Context(), "GET", "10.0.0.1:80"); err != nil || body != "ok" {
					t.Errorf("%q, %v", body, err)
				}
			})
		}
		wait.Wait()
		began := open.Load()
		<-time.After(20 * time.Second)
		if _, _, err := ask(t, d, t.Context(), "GET", "10.0.0.1:80"); err != nil {
			t.Error(err)
		}
		<-time.After(25 * time.Second)
		synctest.Wait()
		if n := open.Load(); n != 1 {
			t.Errorf("%d of %d connections are open, want the one that was used", n, began)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if n := open.Load(); n != 0 || d.sweeps != nil {
			t.Errorf("%d connections are open, timer %v", n, d.sweeps)
		}
	})
}

// FuzzDirectAnswer: whatever an upstream sends, the client comes back, and
// keeps only a connection on which it knows where the next answer begins.
func FuzzDirectAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk", "HTTP/1.1 101 X\r\n\r\n", "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		d := newUpstreams(Limits{Upstream: 5 * time.Second}).kept
		defer d.close()
		var wait sync.WaitGroup
		defer wait.Wait()
		d.dial = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			wait.Go(func() {
				defer func() { _ = theirs.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(theirs)); err != nil {
					return
				}
				_, _ = theirs.Write(answer)
			})
			return ours, nil
		}
		_, body, err := ask(t, d, t.Context(), "GET", "10.0.0.1:80")
		kept := d.take("10.0.0.1:80")
		if kept == nil {
			return
		}
		_ = kept.Close()
		if err != nil || kept.r.Buffered() > 0 || !bytes.Contains(answer, []byte(body)) && !bytes.Contains(bytes.ToLower(answer), []byte("chunked")) {
			t.Errorf("kept after %q, %v, %d bytes left", body, err, kept.r.Buffered())
		}
	})
}

// An application whose answer is longer than it said: the rest is nobody's
// answer.
func TestDirectDropsWhatNobodyAskedFor(t *testing.T) {
	late := make(chan struct{})
	said := make(chan struct{})
	told := sync.OnceFunc(func() { close(said) })
	l := listenLocal(t)
	var wait sync.WaitGroup
	connections := new(atomic.Int64)
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := connections.Add(1)
			wait.Go(func() {
				defer func() { _ = c.Close() }()
				in := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")
					if n == 1 {
						<-late
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nothers")
						told()
					}
				}
			})
		}
	})
	d := newDirect(t)
	t.Cleanup(func() { d.close(); _ = l.Close(); wait.Wait() })
	if _, body, err := ask(t, d, t.Context(), http.MethodGet, l.Addr().String()); body != "mine" || err != nil {
		t.Fatalf("%q, %v", body, err)
	}
	close(late)
	<-said
	if _, body, err := ask(t, d, t.Context(), http.MethodGet, l.Addr().String()); body != "mine" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}
