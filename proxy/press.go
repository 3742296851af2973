package proxy

import (
	"net/http"

	"tarima/proxy/compress"
	"tarima/proxy/meters"
)

// compress makes an upstream's answer smaller where the host allows it. What a
// rule passes on as it comes is left alone.
func (x *exchange) compress(d destination, resp *http.Response) {
	if !d.host.Compress || d.rule != nil && d.rule.Stream {
		return
	}
	x.s.presses.Apply(compress.Visit{
		Request: x.r, Secure: x.client.proto == "https",
		Own: func(host string) bool {
			h := x.table.hosts[hostName(host)]
			return h != nil && h.Site == d.host.Site
		},
	}, resp)
}

// meterContent adds the figures of static files and of compression.
func (s *server) meterContent(m *meters.Meters) {
	m.Gauge("static_memory_bytes", "Memory that holds static files.", func() float64 { return float64(s.files.Stats().Bytes) })
	m.Counter("static_hits_total", "Requests for static files that needed no look at the disk.", func() uint64 { return s.files.Stats().Hits })
	m.Counter("static_misses_total", "Requests for static files that needed a look at the disk.", func() uint64 { return s.files.Stats().Misses })
	m.Gauge("compressing", "Answers that are being compressed.", func() float64 { return float64(s.presses.Stats().Running) })
	m.Counter("compressed_total", "Answers that were compressed.", func() uint64 { return s.presses.Stats().Encoded })
	m.Counter("compression_refused_total", "Answers that were not compressed because the machine was busy.", func() uint64 { return s.presses.Stats().Refused })
}
