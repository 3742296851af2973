package files

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// nobody takes an answer and throws it away.
type nobody struct{ h http.Header }

func (n *nobody) Header() http.Header         { return n.h }
func (n *nobody) WriteHeader(int)             {}
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkServe(b *testing.B) {
	x := newSite(b, Config{}, map[string]string{"30k.js": script("a", 30<<10), "1m.js": script("a", 1<<20), "5m.js": script("a", 5<<20)})
	if _, err := Prepare(b.Context(), x.path(".")); err != nil {
		b.Fatal(err)
	}
	x.age()
	for _, c := range []struct{ title, name, header, value string }{
		{"30KB", "30k.js", "Accept", "*/*"},
		{"30KB-brotli", "30k.js", "Accept-Encoding", "gzip, deflate, br, zstd"},
		{"1MB", "1m.js", "Accept", "*/*"},
		{"5MB-from-disk", "5m.js", "Accept", "*/*"},
		{"304", "30k.js", "If-None-Match", "*"},
		{"range", "1m.js", "Range", "bytes=1000-1999"},
	} {
		b.Run(c.title, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set(c.header, c.value)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.s.Serve(&nobody{http.Header{}}, r, Ask{Base: x.base, Root: "app", Name: c.name}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// With the server around, and a client, over plain HTTP.
	b.Run("30KB-http", func(b *testing.B) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := x.s.Serve(w, r, Ask{Base: x.base, Root: "app", Name: "30k.js"}); err != nil {
				b.Error(err)
			}
		}))
		defer server.Close()
		b.ReportAllocs()
		for b.Loop() {
			resp, err := server.Client().Get(server.URL)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}
