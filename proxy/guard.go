package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Paths below /-/ are the proxy's own, where a host wants them.
const (
	passPath  = "/-/pass/"
	proofPath = "/-/proof"
)

// guard answers the requests that are not to reach the site, and says whether
// it did. The cheapest question comes first, and a password last: to compare
// one costs as much as a page.
func (x *exchange) guard(d destination) (answered bool) {
	x.dress(d)
	if d.host.Redirect != "" {
		return false
	}
	switch {
	case d.host.Maintenance != nil && x.maintenance(d.host):
	case d.host.Maintenance == nil && strings.HasPrefix(x.r.URL.Path, passPath):
		x.seeOther("/") // it is open again: no pass is needed, and none shall go further
	case d.host.Closed && x.r.URL.Path == "/robots.txt":
		x.robots()
	case d.rule != nil && d.rule.Status != 0:
		x.page(d.rule.Status, statusMessage(d.rule.Status))
	case len(d.host.limits) > 0 && x.limited(d.host):
	case d.host.Proof && x.proof(d.host):
	case d.host.Auth != nil && x.auth(d.host):
	default:
		return false
	}
	return true
}

// guardHeld is for a request that waited while the routes changed: what was
// asked of it already is not asked again.
func (x *exchange) guardHeld(d destination) (answered bool) {
	x.dress(d)
	switch {
	case d.host.Maintenance != nil && x.maintenance(d.host):
	case d.rule != nil && d.rule.Status != 0:
		x.page(d.rule.Status, statusMessage(d.rule.Status))
	default:
		return false
	}
	return true
}

// robots keeps search engines out (RFC 9309).
func (x *exchange) robots() {
	const text = "User-agent: *\nDisallow: /\n"
	h := x.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	x.w.WriteHeader(http.StatusOK)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write([]byte(text)) // the client is free to go away
	}
}

// statusMessage is the page for a rule's status.
func statusMessage(status int) string {
	switch {
	case status == http.StatusNotFound || status == http.StatusGone:
		return "missing"
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusUnavailableForLegalReasons:
		return "refused"
	case status == http.StatusTooManyRequests:
		return "often"
	case status == http.StatusServiceUnavailable:
		return "down"
	case status >= 500:
		return "broken"
	default:
		return "malformed"
	}
}

// tooOften answers 429 and says when to come again.
func (x *exchange) tooOften(wait time.Duration, note string) {
	x.note = note
	x.retryAfter(wait)
	x.page(http.StatusTooManyRequests, "often")
}

// retryAfter in whole seconds, rounded up: sooner would be refused again.
func (x *exchange) retryAfter(wait time.Duration) {
	x.w.Header().Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
}

// isPreflight is a browser's question whether another host's page may ask
// (Fetch standard, CORS-preflight). It never brings cookies or a password.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}
