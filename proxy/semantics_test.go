package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarima/proxy/routes"
)

// document is an upstream that knows HTTP as net/http knows it.
func document() http.Handler {
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	mux := http.NewServeMux()
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "part\n")
			_ = http.NewResponseController(w).Flush()
		}
	})
	mux.HandleFunc("/none", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprint(w, n)
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "no", http.StatusForbidden)
	})
	return mux
}

// What HTTP says about answers without a body, parts of one, and the rest
// holds whatever the protocol to the visitor is.
func TestSemantics(t *testing.T) {
	r := start(t, func(c *Config) { c.HTTP3 = true })
	r.put(one(1, address(upstreamServer(t, document())), routes.Ready))
	until(t, "HTTP/3 is served", func() bool { return strings.Contains(r.logs.String(), "http=3") })
	for protocol, browser := range map[string]*http.Client{"h1": r.browser(false), "h2": r.browser(true), "h3": r.browser3()} {
		for _, c := range []struct {
			name, method, path string
			header             []string
			status             int
			length             int64 // -1: not told
			body               string
		}{
			{"whole", "GET", "/file", nil, 200, 100_000, strings.Repeat("0123456789", 10_000)},
			{"HEAD", "HEAD", "/file", nil, 200, 100_000, ""},
			{"HEAD of a stream", "HEAD", "/stream", nil, 200, -1, ""},
			{"stream", "GET", "/stream", nil, 200, -1, "part\npart\npart\n"},
			{"range", "GET", "/file", []string{"Range", "bytes=5-14"}, 206, 10, "5678901234"},
			{"last bytes", "GET", "/file", []string{"Range", "bytes=-3"}, 206, 3, "789"},
			{"range of another version", "GET", "/file", []string{"Range", "bytes=5-14", "If-Range", `"v0"`}, 200, 100_000, strings.Repeat("0123456789", 10_000)},
			{"range that is not there", "GET", "/file", []string{"Range", "bytes=200000-"}, 416, -2, "invalid range: failed to overlap\n"},
			{"not modified", "GET", "/file", []string{"If-None-Match", `"v1"`}, 304, -2, ""},
			{"no content", "GET", "/none", nil, 204, -2, ""},
			{"OPTIONS", "OPTIONS", "/none", nil, 204, -2, ""},
		} {
			t.Run(c.name+" over "+protocol, func(t *testing.T) {
				req, _ := http.NewRequest(c.method, "https://lms.test"+c.path, nil)
				resp, body := r.do(browser, req, c.header...)
				if resp.StatusCode != c.status || body != c.body {
					t.Errorf("%s with %d bytes, want %d with %d", resp.Status, len(body), c.status, len(c.body))
				}
				if c.length != -2 && resp.ContentLength != c.length {
					t.Errorf("Content-Length %d, want %d", resp.ContentLength, c.length)
				}
				if c.status == 206 && resp.Header.Get("Content-Range") == "" {
					t.Error("no Content-Range")
				}
			})
		}
	}
}

// Who asks before sending a body gets an answer first, and a body that nobody
// wants is not sent.
func TestExpectContinue(t *testing.T) {
	r := start(t)
	s := one(1, address(upstreamServer(t, document())), routes.Ready)
	s.Hosts[0].MaxBody = 1 << 20
	r.put(s)
	for _, h2 := range []bool{false, true} {
		transport := r.browser(h2).Transport.(*http.Transport)
		transport.ExpectContinueTimeout = time.Minute // nothing is sent unasked
		browser := &http.Client{Transport: transport}
		for _, c := range []struct {
			path   string
			size   int64
			status int
			asked  bool
		}{
			{"/take", 1000, 200, true},
			{"/take", 2 << 20, 413, false},
		} {
			continued := atomic.Bool{}
			trace := &httptrace.ClientTrace{Got100Continue: func() { continued.Store(true) }}
			body := &zeros{left: c.size}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, "https://lms.test"+c.path, body)
			req.ContentLength = c.size
			resp, got := r.do(browser, req, "Expect", "100-continue")
			if resp.StatusCode != c.status || continued.Load() != c.asked {
				t.Errorf("h2 %v, %s: %s %.50s, told to go on %v", h2, c.path, resp.Status, got, continued.Load())
			}
			if sent := c.size - body.left; c.asked != (sent > 0) {
				t.Errorf("h2 %v, %s: %d bytes were sent", h2, c.path, sent)
			}
		}
	}
}

// HTTP/1.0 clients exist: health checks and old tools.
func TestHTTP10(t *testing.T) {
	r := start(t, func(c *Config) { c.HTTPS = nil })
	r.put(one(1, address(upstreamServer(t, document())), routes.Ready))
	for name, c := range map[string]struct{ request, status, body string }{
		"sized":      {"GET /none HTTP/1.0\r\nHost: lms.test\r\n\r\n", "HTTP/1.0 204", ""},
		"stream":     {"GET /stream HTTP/1.0\r\nHost: lms.test\r\n\r\n", "HTTP/1.0 200", "part\npart\npart\n"},
		"post":       {"POST /take HTTP/1.0\r\nHost: lms.test\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.0 200", "3"},
		"without":    {"GET /stream HTTP/1.0\r\n\r\n", "HTTP/1.0 400", ""},
		"keep-alive": {"GET /take HTTP/1.0\r\nHost: lms.test\r\nConnection: keep-alive\r\n\r\nGET /take HTTP/1.0\r\nHost: lms.test\r\n\r\n", "HTTP/1.0 200", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, "tcp", r.http)
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, c.request)
			data, err := io.ReadAll(conn)
			if err != nil {
				t.Fatal(err)
			}
			head, body, _ := strings.Cut(string(data), "\r\n\r\n")
			// net/http writes the version that it speaks itself.
			if !strings.HasPrefix(strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1), c.status) || strings.Contains(strings.ToLower(head), "transfer-encoding") {
				t.Errorf("%s", head)
			}
			if c.body != "" && !strings.HasSuffix(body, c.body) {
				t.Errorf("body %q", body)
			}
			if want := strings.Count(c.request, "HTTP/1.0"); strings.Count(string(data), "HTTP/1.") != want {
				t.Errorf("%d answers, want %d: %q", strings.Count(string(data), "HTTP/1."), want, data)
			}
		})
	}
}

// On a connection of many streams, one that stands still or trickles is reset
// alone.
func TestSlowStreamsOfHTTP2(t *testing.T) {
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			_, _ = io.Copy(w, &zeros{left: 100 << 20})
			return
		}
		document().ServeHTTP(w, r)
	}))
	r := start(t, func(c *Config) { c.Limits.Stall, c.Limits.MinRate = 300*time.Millisecond, 1000 })
	r.put(one(1, address(up), routes.Ready))
	browser := r.browser(true)
	reused := func() {
		t.Helper()
		var again atomic.Bool
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { again.Store(i.Reused) }}
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, "https://lms.test/stream", nil)
		if _, body := r.do(browser, req); body != "part\npart\npart\n" || !again.Load() {
			t.Errorf("%q, on the same connection: %v", body, again.Load())
		}
	}
	r.get(browser, "https://lms.test/stream")
	for name, pause := range map[string]time.Duration{"stands still": time.Hour, "trickles": 50 * time.Millisecond} {
		t.Run("upload that "+name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			body, feed := io.Pipe()
			fed := make(chan struct{})
			go func() {
				defer close(fed)
				timer := time.NewTimer(0)
				defer timer.Stop()
				for {
					select {
					case <-timer.C:
					case <-ctx.Done():
						return
					}
					if _, err := feed.Write([]byte("x")); err != nil {
						return
					}
					timer.Reset(pause)
				}
			}()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://lms.test/take", body)
			if resp, got := r.do(browser, req); resp.StatusCode != http.StatusRequestTimeout {
				t.Errorf("%s %.80s", resp.Status, got)
			}
			reused()
			cancel()
			_ = body.Close()
			<-fed
		})
	}
	t.Run("answer that nobody reads", func(t *testing.T) {
		resp, err := browser.Get("https://lms.test/big")
		if err != nil {
			t.Fatal(err)
		}
		until(t, "the request is cut", func() bool { return strings.Contains(r.access.String(), `"path":"/big"`) })
		reused()
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("the answer came as a whole")
		}
		_ = resp.Body.Close()
	})
}

// A body that the upstream does not wait for does not keep its answer back.
func TestAnswerBeforeTheBody(t *testing.T) {
	r := start(t)
	r.put(one(1, address(upstreamServer(t, document())), routes.Ready))
	c := r.dialTLS("lms.test", "http/1.1")
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "POST /refuse HTTP/1.1\r\nHost: lms.test\r\nContent-Length: 1000000\r\n\r\nbegin")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("%v, %v", resp, err)
	}
}
