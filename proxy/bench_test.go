package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"tarima/proxy/routes"
)

// BenchmarkProxied1KB is one GET of 1 KB over TLS with everything switched on;
// client and upstream run in the same process and are counted too.
func BenchmarkProxied1KB(b *testing.B) {
	page := bytes.Repeat([]byte("x"), 1024)
	up := upstreamServer(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) }))
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		b.Run(name, func(b *testing.B) {
			r := start(b, func(c *Config) {
				c.AccessLog = io.Discard
				c.Logger = slog.New(slog.DiscardHandler)
			})
			r.put(one(1, address(up), routes.Ready))
			browser := r.browser(h2)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := browser.Get("https://lms.test/")
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		})
	}
}

// BenchmarkStatic is one GET of a file over TLS, client included.
func BenchmarkStatic(b *testing.B) {
	static := b.TempDir()
	for name, size := range map[string]int{"30KB.js": 30 << 10, "1MB.js": 1 << 20} {
		if err := os.WriteFile(filepath.Join(static, name), bytes.Repeat([]byte("export const number = 1;\n"), size/25), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for protocol, h2 := range map[string]bool{"h1": false, "h2": true} {
		r := start(b, func(c *Config) {
			c.AccessLog, c.Logger = io.Discard, slog.New(slog.DiscardHandler)
			c.StaticDir = func(string) string { return static }
		})
		s := one(1, "", routes.Hold)
		s.Hosts[0].Rules = []routes.Rule{{Path: "/static/", Root: "."}}
		r.put(s)
		browser := r.browser(h2)
		for _, name := range []string{"30KB", "1MB"} {
			b.Run(protocol+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						resp, err := browser.Get("https://lms.test/static/" + name + ".js")
						if err != nil {
							b.Error(err)
							return
						}
						if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 30_000 {
							b.Errorf("%d bytes, %v", n, err)
						}
						_ = resp.Body.Close()
					}
				})
			})
		}
	}
}
