package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	passCookie = "tarima_pass"
	passLife   = 24 * time.Hour
	// maintenanceWait is for clients when nobody knows how long it takes.
	maintenanceWait = 5 * time.Minute
)

// maintenance answers what comes to a closed host, but for those who may see
// it.
func (x *exchange) maintenance(h *host) (answered bool) {
	m := h.Maintenance
	if given, ok := strings.CutPrefix(x.r.URL.Path, passPath); ok && m.Pass != "" {
		// It is as good as a password, and the log is read by many.
		x.r.URL.Path, x.r.RequestURI = passPath+"…", passPath+"…"
		if !equalSecret(given, string(m.Pass)) {
			x.page(http.StatusForbidden, "refused")
			return true
		}
		x.setCookie(h, passCookie, x.s.signer.sign(x.start.Add(passLife), "pass", h.Site, string(m.Pass)), passLife)
		x.seeOther("/")
		return true
	}
	if contains(m.Networks, x.client.addr) || m.Pass != "" && x.cookie(passCookie, "pass", h.Site, string(m.Pass)) {
		return false
	}
	wait := maintenanceWait
	if left := m.Until.Sub(x.start); left > 0 {
		wait = left
		x.until = m.Until
	}
	x.retryAfter(wait)
	x.page(http.StatusServiceUnavailable, "maintenance")
	return true
}

// equalSecret compares in a time that tells nothing, not even the length.
func equalSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
