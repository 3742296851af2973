package proxy

import (
	"net/http"

	"tarima/proxy/compress"
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
