package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
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
