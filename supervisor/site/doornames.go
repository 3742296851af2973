package site

import (
	"net/url"
	"strings"
)

// normaliseDoor brings the names of hosts and methods into their one form.
// What cannot be normalised stays, for validate to complain of.
func normaliseDoor(p *Proxy) {
	p.Certificates = normalKeys(p.Certificates)
	p.Redirects = normalKeys(p.Redirects)
	p.Auth = normalKeys(p.Auth)
	p.Headers = normalKeys(p.Headers)
	for from, to := range p.Redirects {
		if !strings.Contains(to, "://") {
			p.Redirects[from] = normalName(to)
		}
	}
	for i, w := range p.ACME.Wildcards {
		p.ACME.Wildcards[i] = normalName(w)
	}
	for name, l := range p.Limits {
		l.Host = normalName(l.Host)
		for i, m := range l.Methods {
			l.Methods[i] = strings.ToUpper(m)
		}
		p.Limits[name] = l
	}
	for name, a := range p.Apps {
		a.Host, a.HostHeader = normalName(a.Host), normalName(a.HostHeader)
		p.Apps[name] = a
	}
}

// normalKeys returns the map with host names as keys in their normal form. With
// two keys that are one name it stays as it is: one of them is wrong.
func normalKeys[V any](m map[string]V) map[string]V {
	if m == nil {
		return nil
	}
	out := make(map[string]V, len(m))
	for _, k := range sortedKeys(m) {
		to := normalName(k)
		if _, taken := out[to]; taken {
			return m
		}
		out[to] = m[k]
	}
	return out
}

// normalName is the normal form of a host name or of a wildcard, and whatever
// else as it is.
func normalName(name string) string {
	star, rest := "", name
	if strings.HasPrefix(name, "*.") {
		star, rest = "*.", name[2:]
	}
	if n, err := normalHost(rest); err == nil {
		return star + n
	}
	return name
}

// covers says whether a certificate's name serves a host: a wildcard stands
// for one label (RFC 6125 section 6.4.3).
func covers(name, host string) bool {
	if rest, wild := strings.CutPrefix(name, "*."); wild {
		_, parent, found := strings.Cut(host, ".")
		return found && parent == rest
	}
	return name == host
}

// target reads where a host is sent on to.
func (p *Proxy) target(from string) (name string, ok bool) {
	to, found := p.Redirects[from]
	if !found {
		return "", false
	}
	if u, err := url.Parse(to); err == nil && u.Host != "" {
		return strings.ToLower(u.Hostname()), true
	}
	return to, true
}

// nearestHost is the name of ours that one which is not ours resembles most:
// that of the same first label, if there is one.
func nearestHost(name string, ours []string) string {
	first, _, _ := strings.Cut(name, ".")
	for _, h := range ours {
		if label, _, _ := strings.Cut(h, "."); label == first {
			return h
		}
	}
	return Nearest(name, ours)
}
