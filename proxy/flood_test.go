package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"tarima/proxy/routes"
)

// attacker is an HTTP/2 client without manners.
type attacker struct {
	*http2.Framer
	conn *counted
	head []byte
	next uint32 // stream
}

// counted counts what is written to a connection.
type counted struct {
	*tls.Conn
	written atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

func (r *running) attack(method, path string) *attacker {
	r.t.Helper()
	conn := &counted{Conn: r.dialTLS("lms.test", "h2")}
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	a := &attacker{Framer: http2.NewFramer(conn, conn), conn: conn, next: 1}
	a.AllowIllegalWrites, a.AllowIllegalReads = true, true
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: method},
		{Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "lms.test"},
		{Name: ":path", Value: path},
	} {
		// Not indexed: each head alone says everything.
		f.Sensitive = true
		if err := enc.WriteField(f); err != nil {
			r.t.Fatal(err)
		}
	}
	a.head = head.Bytes()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		r.t.Fatal(err)
	}
	if err := a.WriteSettings(); err != nil {
		r.t.Fatal(err)
	}
	return a
}

// open a stream.
func (a *attacker) open(endStream, endHeaders bool) (stream uint32, err error) {
	stream = a.next
	a.next += 2
	return stream, a.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: a.head, EndStream: endStream, EndHeaders: endHeaders,
	})
}

// Nothing that is no request keeps a connection open for long or goes on for
// ever, and everybody else is served meanwhile. The connection is cut before
// mostBytes of it were taken.
func TestFloods(t *testing.T) {
	const mostBytes = 32 << 20
	var atUpstream atomic.Int64
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		atUpstream.Add(1)
		if r.URL.Path == "/wait" {
			// Only who has read a body learns that its sender is gone.
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write([]byte("ok"))
	}))
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	requests := int64(0)
	for _, c := range []struct {
		name, method, path string
		// begin returns the step that is repeated.
		begin func(*attacker) func() error
		deaf  bool // reads nothing
	}{
		{name: "PING", begin: func(a *attacker) func() error {
			return func() error { return a.WritePing(false, [8]byte{1}) }
		}},
		{name: "PING, deaf", deaf: true, begin: func(a *attacker) func() error {
			return func() error { return a.WritePing(false, [8]byte{1}) }
		}},
		{name: "PING beside a request that lasts", method: "GET", path: "/wait", begin: func(a *attacker) func() error {
			_, _ = a.open(true, true)
			return func() error { return a.WritePing(false, [8]byte{1}) }
		}},
		{name: "SETTINGS", begin: func(a *attacker) func() error {
			return func() error { return a.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) }
		}},
		{name: "SETTINGS, deaf", deaf: true, begin: func(a *attacker) func() error {
			return func() error { return a.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) }
		}},
		{name: "PRIORITY", begin: func(a *attacker) func() error {
			return func() error { return a.WritePriority(1, http2.PriorityParam{Weight: 3}) }
		}},
		{name: "WINDOW_UPDATE", begin: func(a *attacker) func() error {
			return func() error { return a.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 0, 1}) }
		}},
		{name: "unknown frames", begin: func(a *attacker) func() error {
			junk := make([]byte, 16<<10)
			return func() error { return a.WriteRawFrame(0xbe, 0, 0, junk) }
		}},
		{name: "CONTINUATION", method: "GET", path: "/", begin: func(a *attacker) func() error {
			stream, _ := a.open(true, false)
			more := []byte("\x40\x05x-aaa\x05value") // a header as it stands, not indexed
			return func() error { return a.WriteContinuation(stream, false, more) }
		}},
		{name: "empty CONTINUATION", method: "GET", path: "/", begin: func(a *attacker) func() error {
			stream, _ := a.open(true, false)
			return func() error { return a.WriteContinuation(stream, false, nil) }
		}},
		{name: "empty DATA", method: "POST", path: "/", begin: func(a *attacker) func() error {
			stream, _ := a.open(false, true)
			return func() error { return a.WriteData(stream, false, nil) }
		}},
		{name: "rapid reset", method: "GET", path: "/wait", begin: func(a *attacker) func() error {
			return func() error {
				stream, err := a.open(true, true)
				return errors.Join(err, a.WriteRSTStream(stream, http2.ErrCodeCancel))
			}
		}},
		{name: "made you reset", method: "POST", path: "/wait", begin: func(a *attacker) func() error {
			return func() error {
				stream, err := a.open(false, true)
				// A window of zero more is an error that the server resets for.
				return errors.Join(err, a.WriteRawFrame(http2.FrameWindowUpdate, 0, stream, []byte{0, 0, 0, 0}))
			}
		}},
		{name: "rapid reset of requests without a head", method: "GET", path: "/", begin: func(a *attacker) func() error {
			a.head = a.head[:len(a.head)-3]
			return func() error {
				stream, err := a.open(true, true)
				return errors.Join(err, a.WriteRSTStream(stream, http2.ErrCodeCancel))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := r.attack(c.method, c.path)
			if !c.deaf {
				go func() { _, _ = io.Copy(io.Discard, a.conn.Conn) }()
			}
			step := c.begin(a)
			for a.conn.written.Load() < mostBytes {
				if err := step(); err != nil {
					if isTimeout(err) {
						t.Fatalf("not cut, but no longer read, after %d KB", a.conn.written.Load()>>10)
					}
					break
				}
			}
			sent := a.conn.written.Load()
			t.Logf("cut after %d KB, %d streams; %d requests at the upstream", sent>>10, a.next/2, atUpstream.Load()-requests)
			if sent >= mostBytes {
				t.Errorf("%d MB were taken", sent>>20)
			}
			if n := atUpstream.Load() - requests; n > 4*spareResets {
				t.Errorf("%d requests reached the upstream", n)
			}
			if resp, _ := r.get(r.browser(true), "https://lms.test/"); resp.StatusCode != http.StatusOK {
				t.Errorf("another client: %s", resp.Status)
			}
			requests = atUpstream.Load()
		})
	}
}

// Connections that say nothing, or never say all, are closed, though not by
// the time limit of idle ones.
func TestSilentConnections(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.HeadTimeout, c.Limits.IdleTimeout = 300*time.Millisecond, time.Hour })
	r.put(one(1, address(upstreamServer(t, echo())), routes.Ready))
	used := r.browser(true)
	r.get(used, "https://lms.test/")
	for name, begin := range map[string]func() net.Conn{
		"nothing":           func() net.Conn { return dial(t, "tcp", r.https) },
		"half a handshake":  func() net.Conn { c := dial(t, "tcp", r.https); _, _ = c.Write([]byte{22, 3, 1, 2, 0, 1}); return c },
		"no HTTP/1 request": func() net.Conn { return r.dialTLS("lms.test", "http/1.1") },
		"no HTTP/2 preface": func() net.Conn { return r.dialTLS("lms.test", "h2") },
		"no HTTP/2 request": func() net.Conn { return r.attack("GET", "/").conn },
		"HEADERS without END_HEADERS": func() net.Conn {
			a := r.attack("GET", "/")
			_, _ = a.open(true, false)
			return a.conn
		},
		"PINGs alone": func() net.Conn {
			a := r.attack("GET", "/")
			go func() {
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for a.WritePing(false, [8]byte{}) == nil {
					<-tick.C
				}
			}()
			return a.conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := begin()
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, c); isTimeout(err) {
				t.Error("still open")
			}
		})
	}
	// A connection that is used stays.
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, "https://lms.test/", nil)
	if r.do(used, req); !reused {
		t.Error("a connection that was used is closed as well")
	}
}

func TestLedger(t *testing.T) {
	l := ledger{since: time.Now()}
	if !l.took(spareBytes) || l.took(1<<20) {
		t.Error("bytes of no request")
	}
	post, _ := http.NewRequest(http.MethodPost, "https://lms.test/", strings.NewReader("x"))
	l.request(post)
	if !l.took(headWorth) {
		t.Error("bytes of a request")
	}
	for range spareResets {
		if !l.reset() {
			t.Fatal("a person gives up as often")
		}
	}
	if l.reset() {
		t.Error("nothing but resets")
	}
	l.requests.Store(10 * spareResets)
	if !l.reset() {
		t.Error("one reset among many requests")
	}
}

func TestConnectionCapacity(t *testing.T) {
	for _, c := range []struct {
		memory, files uint64
		want          int
	}{
		{0, 0, 4000},
		{2 << 30, 65536, 4096},
		{1 << 30, 65536, 2048},
		{64 << 20, 65536, leastConnections},
		{64 << 30, 1 << 20, mostConnections},
		{64 << 30, 20_000, 6600},
		{2 << 30, 1024, 274},
		{2 << 30, 64, 100},
	} {
		if got := connectionCapacity(c.memory, c.files); got != c.want {
			t.Errorf("%d MB, %d files: %d, want %d", c.memory>>20, c.files, got, c.want)
		}
	}
	dir := t.TempDir()
	self := filepath.Join(dir, "cgroup")
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cgroup": "1:cpu:/x\n0::/a/b\n", "a/memory.max": "1000000\n", "a/b/memory.max": "max\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := controlGroupMemory(self, dir); got != 1_000_000 {
		t.Errorf("control group: %d", got)
	}
	if got := controlGroupMemory(filepath.Join(dir, "none"), dir); got != 0 {
		t.Errorf("no control group: %d", got)
	}
}
