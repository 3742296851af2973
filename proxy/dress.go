package proxy

import (
	"net/http"
	"slices"
	"strconv"

	"tarima/proxy/routes"
)

// edit sets a header of every answer, or takes it away.
type edit struct {
	name  string   // canonical
	value []string // nil: taken away
}

// edits are applied to an answer's headers in their order.
type edits []edit

func (e edits) apply(h http.Header) {
	for _, x := range e {
		if x.value == nil {
			delete(h, x.name)
		} else {
			h[x.name] = x.value
		}
	}
}

func newEdits(headers map[string]string) edits {
	var e edits
	for name, value := range headers {
		x := edit{name: http.CanonicalHeaderKey(name)}
		if value != "" {
			x.value = []string{value}
		}
		e = append(e, x)
	}
	return e
}

// hostEdits are those of a host, over HTTPS and over HTTP: browsers are to
// ignore Strict-Transport-Security over HTTP (RFC 6797 section 7.2).
func hostEdits(h *routes.Host) (secure, plain edits) {
	plain = newEdits(h.Headers)
	if h.Closed {
		plain = append(plain, edit{"X-Robots-Tag", []string{"noindex, nofollow"}})
	}
	secure = plain
	if h.HSTS > 0 {
		secure = append(slices.Clone(plain), edit{"Strict-Transport-Security", []string{"max-age=" + strconv.FormatInt(h.HSTS, 10)}})
	}
	return secure, plain
}

// dress prepares the writer for what the host and the rule want of answers.
func (x *exchange) dress(d destination) {
	x.timing = d.host.ServerTiming
	x.w.edits = d.host.plain
	if x.client.proto == "https" {
		x.w.edits = d.host.secure
	}
	x.w.ruleEdits = nil
	if d.rule != nil {
		x.w.ruleEdits = d.rule.edits
	}
}
