package proxy

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"tarima/proxy/compress"
	"tarima/proxy/routes"
)

// A compressed answer keeps what stands around it: 1xx before, trailers behind,
// and pieces that come when they are sent.
func TestCompressedAnswers(t *testing.T) {
	page := strings.Repeat("<p>Bienvenidos</p>\n", 3000)
	more := make(chan struct{})
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("ETag", `"abc"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(page)))
			_, _ = io.WriteString(w, page)
		case "/pieces", "/events":
			if r.URL.Path == "/events" {
				w.Header().Set("Content-Type", "text/event-stream")
			}
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "one\n")
			w.(http.Flusher).Flush()
			<-more
			_, _ = io.WriteString(w, "two\n")
			w.Header().Set("X-Sum", "42")
		case "/broken":
			w.Header().Set("Content-Length", strconv.Itoa(len(page)+1))
			_, _ = io.WriteString(w, page)
		}
	}))
	r := start(t, func(c *Config) { c.Compress = compress.Config{MaxLoad: -1} })
	s := one(1, address(up), routes.Ready)
	s.Hosts[0].Compress = true
	s.Hosts[0].Rules = []routes.Rule{{Path: "/stream/", Rewrite: "/", Stream: true}}
	r.put(s)
	for _, h2 := range []bool{false, true} {
		browser := r.browser(h2)
		ask := func(path string) *http.Response {
			hints := 0
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil }})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://lms.test"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "gzip")
			resp, err := browser.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
			if want := path == "/page" || path == "/stream/page"; want != (hints == 1) {
				t.Errorf("%s: %d early hints", path, hints)
			}
			return resp
		}
		resp := ask("/page")
		if h := resp.Header; h.Get("Content-Encoding") != "gzip" || h.Get("ETag") != `W/"abc"` || h.Get("Vary") != "Accept-Encoding" || h.Get("Content-Length") != "" {
			t.Errorf("page: %v", h)
		}
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(z); err != nil || string(data) != page {
			t.Errorf("page: %d bytes, %v", len(data), err)
		}

		resp = ask("/pieces")
		if z, err = gzip.NewReader(resp.Body); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(z)
		if line, err := lines.ReadString('\n'); err != nil || line != "one\n" {
			t.Fatalf("first piece: %q, %v", line, err)
		}
		more <- struct{}{}
		if rest, err := io.ReadAll(lines); err != nil || string(rest) != "two\n" {
			t.Errorf("second piece: %q, %v", rest, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body) // the end of the body, behind which trailers stand
		if resp.Trailer.Get("X-Sum") != "42" {
			t.Errorf("trailers: %v", resp.Trailer)
		}

		resp = ask("/events")
		if resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("events: %v", resp.Header)
		}
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "one\n" {
			t.Errorf("events: %q, %v", line, err)
		}
		more <- struct{}{}

		if resp = ask("/stream/page"); resp.Header.Get("Content-Encoding") != "" || resp.ContentLength != int64(len(page)) {
			t.Errorf("as it comes: %v", resp.Header)
		}
		if _, err := io.Copy(io.Discard, ask("/broken").Body); err == nil {
			t.Error("an answer that broke off seems whole")
		}
		// A visitor with a session whom somebody else's page sent here.
		if resp, _ := r.get(browser, "https://lms.test/page", "Accept-Encoding", "gzip", "Cookie", "sessionid=1", "Sec-Fetch-Site", "cross-site"); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("for a stranger: %v", resp.Header)
		}
	}
	until(t, "every encoder is given back", func() bool { return strings.Contains(r.figures(), "\ntarima_proxy_compressing 0\n") })
	if figures := r.figures(); !strings.Contains(figures, "\ntarima_proxy_compressed_total 6\n") || !strings.Contains(figures, "\ntarima_proxy_compression_refused_total 0\n") {
		t.Errorf("figures:\n%s", figures)
	}
	s.Generation, s.Hosts[0].Compress = 2, false
	r.put(s)
	if resp, _ := r.get(r.browser(true), "https://lms.test/page", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Vary") != "" {
		t.Errorf("switched off: %v", resp.Header)
	}
}

// Large files over HTTP/1 and 2, with TLS and without (where the kernel sends
// them): whole, in part, and never more than was promised.
func TestLargeStaticFiles(t *testing.T) {
	static := t.TempDir()
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	if err := os.WriteFile(filepath.Join(static, "film.webm"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	// A change of just now would be looked at again.
	old := time.Now().Add(200 * time.Millisecond)
	until(t, "the file is older", func() bool { return time.Now().After(old) })
	for _, secure := range []bool{true, false} {
		r := start(t, func(c *Config) {
			c.StaticDir = func(string) string { return static }
			c.Files.Recheck = time.Hour
			if !secure {
				c.HTTPS = nil
				_ = c.Listeners[1].Close()
				c.Listeners = c.Listeners[:1]
			}
		})
		s := one(1, "", routes.Hold)
		if !secure {
			s.TLS.Mode = "none"
		}
		s.Hosts[0].Rules = []routes.Rule{{Path: "/media/", Root: "."}}
		r.put(s)
		browsers := []*http.Client{{Transport: &http.Transport{DisableCompression: true}}}
		url := "http://" + r.http
		if secure {
			browsers, url = []*http.Client{r.browser(false), r.browser(true)}, "https://lms.test"
		}
		for _, browser := range browsers {
			for ranges, want := range map[string][]byte{
				"": content, "bytes=0-": content, "bytes=1000000-2999999": content[1000000:3000000], "bytes=5-5": content[5:6], "bytes=-700000": content[len(content)-700000:],
			} {
				req, err := http.NewRequest(http.MethodGet, url+"/media/film.webm", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = "lms.test"
				if ranges != "" {
					req.Header.Set("Range", ranges)
				}
				resp, body := r.do(browser, req)
				if body != string(want) || resp.ContentLength != int64(len(want)) || resp.Header.Get("Content-Type") != "video/webm" {
					t.Errorf("secure %v, %q: %s, %d bytes, %v", secure, ranges, resp.Status, len(body), resp.Header)
				}
			}
			browser.CloseIdleConnections()
		}
		if figures := r.figures(); !strings.Contains(figures, "\ntarima_proxy_static_misses_total 1\n") || strings.Contains(figures, "\ntarima_proxy_static_memory_bytes 0\n") {
			t.Errorf("figures:\n%s", figures)
		}
	}
}
