package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"tarima/proxy/ratelimit"
	"tarima/proxy/routes"
)

const (
	maxLimits   = 500
	maxHeaders  = 100
	maxUsers    = 1000
	maxNetworks = 1000
	maxHSTS     = 2 * 365 * 24 * 3600 // seconds
	maxCost     = 14                  // of bcrypt: above it one log-in takes seconds
)

// checkDoor checks what a host says beside where its requests go.
func checkDoor(h *routes.Host) error {
	if h.HSTS < 0 || h.HSTS > maxHSTS {
		return fmt.Errorf("hsts %d s: 0 to %d", h.HSTS, maxHSTS)
	}
	if err := checkHeaders(h.Headers); err != nil {
		return err
	}
	if h.Auth != nil {
		if err := checkAuth(h.Auth); err != nil {
			return err
		}
	}
	if m := h.Maintenance; m != nil {
		if len(m.Networks) > maxNetworks {
			return fmt.Errorf("%d networks of maintenance, %d are possible", len(m.Networks), maxNetworks)
		}
		if slices.ContainsFunc(m.Networks, func(n netip.Prefix) bool { return !n.IsValid() }) {
			return fmt.Errorf("a network of maintenance is not valid")
		}
		if m.Pass != "" && (len(m.Pass) < 16 || checkText(string(m.Pass)) != nil) {
			return fmt.Errorf("the pass of maintenance has %d characters: 16 or more", len(m.Pass))
		}
	}
	if len(h.Limits) > maxLimits {
		return fmt.Errorf("%d limits, %d are possible", len(h.Limits), maxLimits)
	}
	for i := range h.Limits {
		if err := checkLimit(&h.Limits[i]); err != nil {
			return fmt.Errorf("limit %q: %w", h.Limits[i].Name, err)
		}
	}
	return nil
}

func checkHeaders(headers map[string]string) error {
	if len(headers) > maxHeaders {
		return fmt.Errorf("%d headers, %d are possible", len(headers), maxHeaders)
	}
	for name, value := range headers {
		if name == "" || !isPlainName(name) || checkText(value) != nil {
			return fmt.Errorf("header %q: letters, digits and -, and a value in one line", name)
		}
		switch strings.ToLower(name) {
		case "content-length", "transfer-encoding", "connection", "upgrade", "trailer", "te", "keep-alive":
			return fmt.Errorf("header %q belongs to the connection", name)
		}
	}
	return nil
}

func checkAuth(a *routes.Auth) error {
	if checkText(a.Realm) != nil || strings.ContainsAny(a.Realm, `"\`) {
		return fmt.Errorf("realm: one line without quotes")
	}
	if len(a.Users) == 0 || len(a.Users) > maxUsers {
		return fmt.Errorf("%d users: 1 to %d", len(a.Users), maxUsers)
	}
	for name, hash := range a.Users {
		if name == "" || checkText(name) != nil || strings.Contains(name, ":") {
			return fmt.Errorf("user %q: one line without a colon", name)
		}
		// The library's error quotes nothing but numbers; ours quotes nothing.
		if c, err := bcrypt.Cost([]byte(hash)); err != nil || c > maxCost || len(hash) != 60 {
			return fmt.Errorf("user %q: not a bcrypt hash of a cost up to %d", name, maxCost)
		}
	}
	return nil
}

func checkLimit(l *routes.RateLimit) error {
	if !isLabel(l.Name) {
		return fmt.Errorf("name: letters, digits, - and _, at most 63")
	}
	if err := checkRulePath(l.Path); err != nil {
		return err
	}
	if l.Burst < 1 || l.Every < time.Millisecond || l.Every > ratelimit.MaxSpan || int64(l.Burst) > int64(ratelimit.MaxSpan/l.Every) {
		return fmt.Errorf("burst %d, every %s: at least 1 and 1ms, together at most %s", l.Burst, l.Every, ratelimit.MaxSpan)
	}
	for _, m := range l.Methods {
		if m == "" || m != strings.ToUpper(m) || !isPlainName(m) {
			return fmt.Errorf("method %q", m)
		}
	}
	return nil
}
