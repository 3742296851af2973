package site

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/text/language"
)

// normalise brings names into the one form that the rest of the house uses.
// What cannot be normalised stays, for validate to complain of.
func normalise(c *Config) {
	for _, h := range []*string{&c.Site.Host, &c.Site.Studio, &c.Site.Apps, &c.Site.Search, &c.Mail.Smarthost} {
		if n, err := normalHost(*h); err == nil {
			*h = n
		}
	}
	normaliseDoor(&c.Proxy)
	c.Site.Language = normalLanguage(c.Site.Language)
	for i := range c.Site.Languages {
		c.Site.Languages[i] = normalLanguage(c.Site.Languages[i])
	}
}

// profile is how browsers turn a name into what is looked up (UTS 46,
// non-transitional), with the checks of the host name rules.
var profile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// normalHost checks a public host name and returns it in lower case and
// punycode.
func normalHost(name string) (string, error) {
	switch {
	case strings.Contains(name, "://"):
		return "", fmt.Errorf("%q is an address of a page: write the name alone, without %q", name, name[:strings.Index(name, "://")+3])
	case strings.ContainsAny(name, "/?#@"):
		return "", fmt.Errorf("%q is more than a host name", name)
	case strings.HasPrefix(name, "*."):
		return "", fmt.Errorf("%q is a wildcard: write the name in full", name)
	}
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return "", fmt.Errorf("%q is an IP address: a site needs a name, since its parts are told apart by name", name)
	}
	if strings.Contains(name, ":") {
		return "", fmt.Errorf("%q holds a port: ports are set by proxy.http and proxy.https", name)
	}
	ascii, err := profile.ToASCII(name)
	if err != nil {
		return "", fmt.Errorf("%q is not a host name: labels of letters, digits and hyphens, joined by dots, at most 63 characters each and 253 in all", name)
	}
	if err := checkName(ascii); err != nil {
		return "", err
	}
	if !strings.Contains(ascii, ".") {
		return "", fmt.Errorf(`%q has no dot: write the full name, as in "learn.example.org"`, name)
	}
	return ascii, nil
}

// checkName checks an ASCII host name by RFC 1123 section 2.1, and that its
// last label is no number, so that it cannot be read as an address.
func checkName(name string) error {
	wrong := fmt.Errorf("%q is not a host name", name)
	if name == "" || len(name) > 253 {
		return wrong
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return wrong
		}
		for _, r := range l {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
				return wrong
			}
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("%q ends in a number, as only addresses do", name)
	}
	return nil
}

// normalLanguage writes a language as Open edX does: lower case, hyphens.
func normalLanguage(l string) string {
	return strings.ToLower(strings.ReplaceAll(l, "_", "-"))
}

func checkLanguage(l string) error {
	if l == "" {
		return nil
	}
	if _, err := language.Parse(l); err != nil {
		return fmt.Errorf(`%q is not a language tag, as in "es", "es-419" or "pt-br"`, l)
	}
	return nil
}

func checkTimezone(z string) error {
	if z == "" {
		return nil
	}
	if z == "Local" {
		return errors.New(`"Local" is no time zone's name: write the name, as in "America/Bogota"`)
	}
	if _, err := time.LoadLocation(z); err != nil {
		return fmt.Errorf(`%q is not a time zone's name, as in "UTC" or "America/Bogota"`, z)
	}
	return nil
}

// localNames are the endings that no public authority certifies: RFC 6761,
// RFC 6762, RFC 8375 and ICANN's reservation of .internal.
var localNames = []string{".localhost", ".local", ".test", ".internal", ".home.arpa", ".example", ".invalid"}

func isLocalName(host string) bool {
	for _, end := range localNames {
		if strings.HasSuffix(host, end) {
			return true
		}
	}
	return false
}
