package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
)

// identify gives a request its names: traceparent (W3C Trace Context) and
// X-Request-Id. A trace that the visitor's page or a proxy began goes on; the
// name of the request is believed from trusted proxies alone, for it is what
// lines of logs are found by.
func (x *exchange) identify() {
	h := x.r.Header
	if p := h["Traceparent"]; len(p) == 1 && isTraceparent(p[0]) {
		x.names[0] = p[0]
		x.id = newTraceparent()[3:35] // a trace has many requests
	} else {
		x.names[0], x.begun = newTraceparent(), true
		x.id = x.names[0][3:35]
	}
	if id := h["X-Request-Id"]; x.client.believed && len(id) == 1 && isRequestID(id[0]) {
		x.id = id[0]
	}
	x.names[1] = x.id
}

// trace is the identifier of the trace.
func (x *exchange) trace() string {
	if len(x.names[0]) < 35 {
		return "" // nobody named it
	}
	return x.names[0][3:35]
}

// passNames on to an application.
func (x *exchange) passNames(h http.Header) {
	h["Traceparent"], h["X-Request-Id"] = x.names[0:1:1], x.names[1:2:2]
	if x.begun {
		// What comes without a valid parent is nobody's (section 3.3).
		delete(h, "Tracestate")
	}
}

// newTraceparent is marked as sampled: without any, an application decides so
// by itself, and without the mark it would leave out every request.
func newTraceparent() string {
	var raw [24]byte
	for i := 0; i < len(raw); i += 8 {
		n := rand.Uint64() //nolint:gosec // a name, not a secret
		if n == 0 {
			n = 1 // a name of zeros alone is none
		}
		binary.BigEndian.PutUint64(raw[i:], n)
	}
	var b [55]byte
	copy(b[:], "00-")
	hex.Encode(b[3:], raw[:16])
	b[35] = '-'
	hex.Encode(b[36:], raw[16:])
	copy(b[52:], "-01")
	return string(b[:])
}

// isTraceparent: section 3.2 of W3C Trace Context. Later versions may be
// longer.
func isTraceparent(s string) bool {
	if len(s) < 55 || len(s) > 256 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	if len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return false
	}
	for _, part := range []string{s[:2], s[3:35], s[36:52], s[53:55]} {
		zeros := true
		for i := range len(part) {
			c := part[i]
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
			zeros = zeros && c == '0'
		}
		if zeros && len(part) > 2 {
			return false
		}
	}
	return true
}

// isRequestID bounds what a trusted proxy may call a request.
func isRequestID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '-' && c != '_' && c != '.' && c != ':' && c != '=' && c != '/' && c != '+' {
			return false
		}
	}
	return true
}
