package certs

import (
	"encoding/base64"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"

	"tarima/proxy/routes"
)

// Modes of routes.TLS.
const (
	ModeLocal = "local"
	ModeACME  = "acme"
	ModeNone  = "none"
)

// maxWildcards and maxAuthorities are far above what one server needs.
const (
	maxWildcards   = 100
	maxAuthorities = 8
)

// CheckSource says what is wrong with a description of where certificates
// come from; it is nil or an ErrSource. No secret is in its text.
func CheckSource(t routes.TLS) error {
	switch t.Mode {
	case ModeLocal, ModeACME, ModeNone:
	default:
		return fmt.Errorf("%w: mode %q: local, acme or none", ErrSource, t.Mode)
	}
	if t.Email != "" {
		if a, err := mail.ParseAddress(t.Email); err != nil || a.Address != t.Email {
			return fmt.Errorf("%w: email %q: not an address like ana@example.org", ErrSource, t.Email)
		}
	}
	for _, a := range authorities(t) {
		if err := checkAuthority(a); err != nil {
			return err
		}
	}
	if len(t.Fallback) > maxAuthorities {
		return fmt.Errorf("%w: %d fallback authorities, %d are possible", ErrSource, len(t.Fallback), maxAuthorities)
	}
	if t.DNS != nil {
		if _, err := newProvider(*t.DNS); err != nil {
			return err
		}
	}
	return checkWildcards(t)
}

func checkAuthority(a routes.Authority) error {
	u, err := url.Parse(a.Directory)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%w: directory %q: not the https:// address of an ACME authority", ErrSource, a.Directory)
	}
	if e := a.Account; e != nil {
		if e.KeyID == "" || e.Key == "" {
			return fmt.Errorf("%w: external account for %s: both the key's id and the key are needed", ErrSource, u.Host)
		}
		if key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(string(e.Key), "=")); err != nil || len(key) == 0 {
			// The error would quote a part of the key.
			return fmt.Errorf("%w: external account for %s: the key is not base64url (copy it again as the authority shows it)", ErrSource, u.Host)
		}
	}
	return nil
}

func checkWildcards(t routes.TLS) error {
	if len(t.Wildcards) > maxWildcards {
		return fmt.Errorf("%w: %d wildcards, %d are possible", ErrSource, len(t.Wildcards), maxWildcards)
	}
	for _, w := range t.Wildcards {
		base, ok := strings.CutPrefix(w, "*.")
		if !ok || strings.Contains(base, "*") || !strings.Contains(base, ".") || base != strings.ToLower(base) ||
			!certmagic.SubjectQualifiesForCert(w) {
			return fmt.Errorf("%w: wildcard %q: not like *.learn.example.org", ErrSource, w)
		}
		if t.Mode == ModeACME && t.DNS == nil {
			return fmt.Errorf("%w: wildcard %q: an authority gives one only for a proof in the zone: name the DNS provider", ErrSource, w)
		}
	}
	return nil
}

// authorities to ask, in order.
func authorities(t routes.TLS) []routes.Authority {
	first := routes.Authority{Directory: t.Directory, Account: t.Account}
	if first.Directory == "" {
		first.Directory = certmagic.LetsEncryptProductionCA
	}
	all := []routes.Authority{first}
	for _, a := range t.Fallback {
		if !slices.ContainsFunc(all, func(b routes.Authority) bool { return b.Directory == a.Directory }) {
			all = append(all, a)
		}
	}
	return all
}

// wildcardOf returns the wildcard that covers a name; "": none. A wildcard
// stands for one label (RFC 6125 section 6.4.3).
func wildcardOf(name string, wildcards []string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	_, rest, found := strings.Cut(name, ".")
	if found && slices.Contains(wildcards, "*."+rest) {
		return "*." + rest
	}
	return ""
}
