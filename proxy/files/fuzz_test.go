package files

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever the name, nothing hidden and nothing from outside is served.
func FuzzName(f *testing.F) {
	for _, s := range []string{"index.html", "../secret", "a/../../secret", "link/secret", "%2e%2e/secret", ".hidden", "sub/.hidden", "sub//", "\x00", "index.html/..", "sub/./index.html", "out", "absolute"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	base := f.TempDir()
	for name, text := range map[string]string{
		"secret": "secret", "app/index.html": "public", "app/sub/index.html": "public", "app/.hidden": "secret", "app/sub/.hidden": "secret",
		"other/index.html": "secret",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(base, name)), 0o750); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, name), []byte(text), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "..", "out": "../other/index.html", "absolute": "/", "sub/up": "../../secret"} {
		if err := os.Symlink(to, filepath.Join(base, "app", link)); err != nil {
			f.Fatal(err)
		}
	}
	s := New(Config{})
	f.Fuzz(func(t *testing.T, name string, spa bool) {
		w := httptest.NewRecorder()
		_, err := s.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), Ask{Base: base, Root: "app", Name: name, SPA: spa})
		if body := w.Body.String(); err == nil && body != "public" || err != nil && body != "" {
			t.Errorf("%q: %q, %v", name, body, err)
		}
	})
}

// Whatever the headers, an answer is right: the bytes are those of the range
// that it names, and a 304 or 416 has none.
func FuzzConditions(f *testing.F) {
	f.Add("bytes=0-9", `"x"`, `W/"x", *`, "gzip;q=0.5, br", "Thu, 01 Jan 1970 00:00:00 GMT")
	f.Add("bytes=-5", "", "", "*;q=0", "")
	f.Add("bytes=5-, 0-1", `"x`, `"`, "identity;q=0", "now")
	f.Add("bytes=99999999999999999999-", `,,`, `"a"b"`, "zstd", "")
	text := script("a", 3000)
	base := f.TempDir()
	if err := os.MkdirAll(filepath.Join(base, "app"), 0o750); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "app", "a.js"), []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
	if _, err := Prepare(f.Context(), base); err != nil {
		f.Fatal(err)
	}
	<-time.After(2 * tick)
	s := New(Config{Recheck: time.Hour})
	forms := map[string]string{}
	for _, accept := range []string{"", "br", "zstd", "gzip"} {
		r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
		r.Header.Set("Accept-Encoding", accept)
		if _, err := s.Serve(w, r, Ask{Base: base, Root: "app", Name: "a.js"}); err != nil {
			f.Fatal(err)
		}
		forms[w.Header().Get("Content-Encoding")] = w.Body.String()
	}
	if len(forms) != 4 {
		f.Fatalf("%d forms", len(forms))
	}
	f.Fuzz(func(t *testing.T, ranges, ifRange, ifNoneMatch, accept, date string) {
		r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
		for name, value := range map[string]string{"Range": ranges, "If-Range": ifRange, "If-None-Match": ifNoneMatch, "Accept-Encoding": accept, "If-Modified-Since": date} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		_, err := s.Serve(w, r, Ask{Base: base, Root: "app", Name: "a.js"})
		if err != nil {
			if w.Body.Len() > 0 || len(w.Header()) > 0 {
				t.Errorf("%v, and an answer", err)
			}
			return
		}
		whole, body := forms[w.Header().Get("Content-Encoding")], w.Body.String()
		switch w.Code {
		case 200:
			if body != whole {
				t.Errorf("%d bytes of %d", len(body), len(whole))
			}
		case 206:
			if strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/") {
				return
			}
			from, to, ok := strings.Cut(strings.TrimPrefix(w.Header().Get("Content-Range"), "bytes "), "-")
			to, size, _ := strings.Cut(to, "/")
			start, ok1 := number(from)
			end, ok2 := number(to)
			if !ok || !ok1 || !ok2 || size != itoa(len(whole)) || end >= int64(len(whole)) || body != whole[start:end+1] {
				t.Errorf("%s: %d bytes", w.Header().Get("Content-Range"), len(body))
			}
		case 304, 416:
			if body != "" {
				t.Errorf("%d with %d bytes", w.Code, len(body))
			}
		default:
			t.Errorf("status %d", w.Code)
		}
	})
}
