package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarima/proxy/routes"
)

// websocketEcho answers the handshake and then sends back what comes.
func websocketEcho() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})
}

func TestWebsocket(t *testing.T) {
	up := upstreamServer(t, websocketEcho())
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	open := func() (io.ReadWriter, *bufio.Reader) {
		c := r.dialTLS("lms.test", "http/1.1")
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// What comes in the same packet as the request must not be lost.
		_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: lms.test\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"+frame("early"))
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("handshake: %v %v", resp, err)
		}
		return c, in
	}
	c, in := open()
	_, _ = io.WriteString(c, frame(" and late"))
	want := frame("early") + frame(" and late")
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
		t.Fatalf("%q, %v", got, err)
	}
	until(t, "it counts as in flight", func() bool {
		s, err := r.client.State(context.Background())
		return err == nil && len(s.Services) == 1 && s.Services[0].Inside == 1
	})

	// A drain closes it and is told when it is gone.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := r.client.Events(ctx)
	r.put(one(2, address(up), routes.Draining))
	if rest, err := io.ReadAll(in); string(rest) != string(farewell) || isTimeout(err) {
		t.Errorf("the last words are %q, %v", rest, err)
	}
	for e := range events {
		if e.Kind == routes.Drained && e.Generation == 2 {
			break
		}
	}
	until(t, "101 in the access log", func() bool { return strings.Contains(r.access.String(), `"status":101`) })

	// The end of the proxy closes those that are left.
	r.put(one(3, address(up), routes.Ready))
	_, in = open()
	if _, err := io.ReadFull(in, make([]byte, len(frame("early")))); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(in); string(rest) != string(farewell) || isTimeout(err) {
		t.Errorf("the last words are %q, %v", rest, err)
	}
}

func TestServerSentEvents(t *testing.T) {
	next := make(chan struct{})
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	}))
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		t.Run(name, func(t *testing.T) {
			// A write deadline that is left over would reset the h2 stream
			// between two events.
			r := start(t, func(c *Config) { c.Limits.Stall = 50 * time.Millisecond })
			r.put(one(1, address(up), routes.Ready))
			resp, err := r.browser(h2).Get("https://lms.test/events")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			in := bufio.NewReader(resp.Body)
			for i := range 3 {
				// Each arrives before the next is sent.
				line, err := in.ReadString('\n')
				if err != nil || line != fmt.Sprintf("data: %d\n", i) {
					t.Fatalf("event %d: %q %v", i, line, err)
				}
				_, _ = in.ReadString('\n')
				<-time.After(120 * time.Millisecond)
				next <- struct{}{}
			}
			if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("end: %v", err)
			}
		})
	}
}

func TestInformationalAndTrailers(t *testing.T) {
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Got", r.Trailer.Get("X-Up"))
		_, _ = w.Write([]byte("body"))
		w.Header().Set("X-Sum", "42")
	}))
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		t.Run(name, func(t *testing.T) {
			var hints atomic.Int64
			trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if code == http.StatusEarlyHints && h.Get("Link") != "" {
					hints.Add(1)
				}
				return nil
			}}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace),
				http.MethodPost, "https://lms.test/", io.MultiReader(strings.NewReader("x")))
			req.Trailer = http.Header{"X-Up": {"there"}}
			resp, body := r.do(r.browser(h2), req)
			if resp.StatusCode != http.StatusOK || body != "body" || hints.Load() != 1 {
				t.Errorf("%s %q, %d early hints", resp.Status, body, hints.Load())
			}
			if resp.Trailer.Get("X-Sum") != "42" || resp.Header.Get("X-Got") != "there" {
				t.Errorf("trailers: down %q, up %q", resp.Trailer, resp.Header.Get("X-Got"))
			}
		})
	}
}

// zeros is n bytes without the memory.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.left))
	clear(p[:n])
	z.left -= int64(n)
	return n, nil
}

func TestLargeUploadInLittleMemory(t *testing.T) {
	const size = 200 << 20
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprint(w, n)
	}))
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		t.Run(name, func(t *testing.T) {
			var peak atomic.Uint64
			done := make(chan struct{})
			watching := make(chan struct{})
			go func() {
				defer close(watching)
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					peak.Store(max(peak.Load(), m.HeapInuse))
					select {
					case <-tick.C:
					case <-done:
						return
					}
				}
			}()
			req, _ := http.NewRequest(http.MethodPost, "https://lms.test/import", &zeros{left: size})
			resp, body := r.do(r.browser(h2), req)
			close(done)
			<-watching
			if resp.StatusCode != http.StatusOK || body != fmt.Sprint(size) {
				t.Errorf("%s %s", resp.Status, body)
			}
			if peak.Load() > 64<<20 {
				t.Errorf("the heap grew to %d MB", peak.Load()>>20)
			}
		})
	}
}

// A body over the limit that does not tell its size is cut at the limit, and
// the upstream never takes it for a whole one.
func TestUnsizedBodyOverTheLimit(t *testing.T) {
	var whole atomic.Int64
	up := upstreamServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	}))
	r := start(t)
	s := one(1, address(up), routes.Ready)
	s.Hosts[0].MaxBody = 100_000
	s.Hosts[0].Rules = []routes.Rule{{Path: "/api/profile_images/*/*/upload", MaxBody: 10}, {Path: "/import/", MaxBody: 1 << 20}}
	r.put(s)
	for _, c := range []struct {
		path   string
		size   int64
		status int
	}{
		{"/", 100_000, 200},
		{"/", 100_001, 413},
		{"/api/profile_images/v1/ana/upload", 11, 413},
		{"/api/profile_images/v1/ana/upload", 10, 200},
		{"/import/x", 1 << 20, 200},
		{"/import/x", 1<<20 + 1, 413},
		{"/import", 200_000, 413},
	} {
		for _, h2 := range []bool{false, true} {
			before := whole.Load()
			req, _ := http.NewRequest(http.MethodPost, "https://lms.test"+c.path, &zeros{left: c.size})
			resp, _ := r.do(r.browser(h2), req)
			if resp.StatusCode != c.status {
				t.Errorf("%s with %d bytes, h2 %v: %s", c.path, c.size, h2, resp.Status)
			}
			if c.status == 413 && whole.Load() != before {
				t.Errorf("%s with %d bytes arrived as a whole", c.path, c.size)
			}
		}
	}
}

func TestSlowClients(t *testing.T) {
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/think":
			_, _ = io.Copy(io.Discard, r.Body)
			<-time.After(700 * time.Millisecond)
		case "/big":
			_, _ = io.Copy(w, &zeros{left: 100 << 20})
			return
		default:
			_, _ = io.Copy(io.Discard, r.Body)
		}
		_, _ = w.Write([]byte("ok"))
	}))
	r := start(t, func(c *Config) {
		c.Limits.Stall, c.Limits.MinRate, c.Limits.HeadTimeout = 300*time.Millisecond, 1000, 300*time.Millisecond
	})
	r.put(one(1, address(up), routes.Ready))
	read := func(c io.Reader) string {
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return "closed"
		}
		return line
	}
	dial := func() io.ReadWriter {
		c := r.dialTLS("lms.test", "http/1.1")
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("head that never ends", func(t *testing.T) {
		c := dial()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: lms.test\r\nX-A: ")
		if got := read(c); got != "closed" && !strings.Contains(got, "408") {
			t.Errorf("answer %q", got)
		}
	})
	t.Run("body that stands still", func(t *testing.T) {
		c := dial()
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: lms.test\r\nContent-Length: 100\r\n\r\nabc")
		if got := read(c); !strings.Contains(got, "408") {
			t.Errorf("answer %q", got)
		}
	})
	t.Run("body that trickles", func(t *testing.T) {
		c := dial()
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: lms.test\r\nContent-Length: 1000\r\n\r\n")
		// A byte each 50 ms never stands still for long, but is 20 bytes/s.
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				select {
				case <-tick.C:
				case <-stop:
					return
				}
			}
		}()
		if got := read(c); !strings.Contains(got, "408") {
			t.Errorf("answer %q", got)
		}
		close(stop)
		<-stopped
	})
	t.Run("steady body takes long", func(t *testing.T) {
		for _, h2 := range []bool{false, true} {
			body, feed := io.Pipe()
			go func() {
				for range 10 {
					<-time.After(100 * time.Millisecond)
					_, _ = feed.Write(bytes.Repeat([]byte("x"), 2000))
				}
				_ = feed.Close()
			}()
			req, _ := http.NewRequest(http.MethodPost, "https://lms.test/", body)
			if resp, got := r.do(r.browser(h2), req); got != "ok" {
				t.Errorf("h2 %v: %s %q", h2, resp.Status, got)
			}
		}
	})
	t.Run("upstream that thinks longer than a body may stand", func(t *testing.T) {
		for _, h2 := range []bool{false, true} {
			req, _ := http.NewRequest(http.MethodPost, "https://lms.test/think", strings.NewReader("question"))
			if resp, got := r.do(r.browser(h2), req); got != "ok" {
				t.Errorf("h2 %v: %s %q", h2, resp.Status, got)
			}
		}
	})
	t.Run("reader that stands still", func(t *testing.T) {
		c := dial()
		_, _ = io.WriteString(c, "GET /big HTTP/1.1\r\nHost: lms.test\r\n\r\n")
		until(t, "the request is cut", func() bool { return strings.Contains(r.access.String(), `"path":"/big"`) })
	})
}
