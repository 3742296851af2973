package site

import (
	"cmp"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
)

// Validate checks a Config that was not read by [Parse], or one that was
// completed by [Defaults]. The error is [Problems], without places.
func Validate(c Config) error {
	return validate(&c, func([]string) bool { return true }).err()
}

// checker gathers the problems of a Config's meaning.
type checker struct {
	problems Problems
	readable func(path []string) bool
}

// validate checks what a value means. Where readable says no, the value could
// not be decoded and was complained of already.
func validate(c *Config, readable func(path []string) bool) Problems {
	k := &checker{readable: readable}
	k.site(&c.Site)
	k.proxy(c)
	k.network(&c.Network)
	k.path(c.Engine.Socket, "engine", "socket")
	if r := c.Engine.Runtime; strings.Contains(r, "/") {
		k.path(r, "engine", "runtime")
	}
	k.images(&c.Images)
	k.size(c)
	k.mail(c)
	k.services(c)
	return k.problems
}

// check records the error of the value at path, unless there is none or the
// value was complained of before.
func (k *checker) check(err error, path ...string) {
	if err != nil && k.readable(path) {
		k.problems = append(k.problems, problem(path, "%s", err))
	}
}

// name records a name that is not among the allowed ones; the place is the
// key's when the name is a key.
func (k *checker) name(name string, allowed []string, onKey bool, path ...string) {
	if slices.Contains(allowed, name) || !k.readable(path) {
		return
	}
	p := problem(path, "%q is not known; allowed: %s", name, choices(allowed))
	p.Nearest, p.onKey = Nearest(name, allowed), onKey
	k.problems = append(k.problems, p)
}

func (k *checker) site(s *Site) {
	if s.Host == "" {
		k.check(fmt.Errorf(`is missing: the public name of the LMS, as in host = "learn.example.org"`), "site", "host")
	}
	hosts := []struct{ key, said, name string }{
		{"host", s.Host, s.Host},
		{"studio", s.Studio, cmp.Or(s.Studio, "studio."+s.Host)},
		{"apps", s.Apps, cmp.Or(s.Apps, "apps."+s.Host)},
		{"search", s.Search, cmp.Or(s.Search, "meilisearch."+s.Host)},
	}
	for i, h := range hosts {
		if h.said == "" {
			continue
		}
		_, err := normalHost(h.name)
		for j, other := range hosts {
			// Of two equal names the later one that the file says is wrong.
			if err == nil && j != i && other.name == h.name && (j < i || other.said == "") {
				err = fmt.Errorf("%q is already the name of site.%s: each part of the site needs a name of its own", h.name, other.key)
			}
		}
		k.check(err, "site", h.key)
	}
	k.check(checkLength(s.Name, 250), "site", "name")
	k.check(checkMail(s.Contact), "site", "contact")
	k.check(checkLanguage(s.Language), "site", "language")
	for i, l := range s.Languages {
		err := checkLanguage(l)
		if err == nil && slices.Index(s.Languages, l) < i {
			err = fmt.Errorf("%q is there twice", l)
		}
		k.check(err, "site", "languages", index(i))
	}
	k.check(checkTimezone(s.Timezone), "site", "timezone")
	if s.Release != "" && !releaseName.MatchString(s.Release) {
		k.check(fmt.Errorf("%q is not a release's name: write it in lower case, as in %q", s.Release, DefaultRelease), "site", "release")
	}
}

var releaseName = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,39}$`)

func (k *checker) network(n *Network) {
	if p := n.Range4; p.IsValid() {
		k.check(checkRange4(p), "network", "range4")
	}
	if p := n.Range6; p.IsValid() {
		err := checkRange6(p)
		if err == nil && n.IPv6 != nil && !*n.IPv6 {
			err = fmt.Errorf("contradicts ipv6 = false: leave one of them out")
		}
		k.check(err, "network", "range6")
	}
}

func checkRange4(p netip.Prefix) error {
	switch {
	case !p.Addr().Is4():
		return fmt.Errorf(`%s is not an IPv4 range; as in "10.213.0.0/24"`, p)
	case p.Bits() < 16 || p.Bits() > 26:
		return fmt.Errorf("/%d is not allowed: /16 to /26", p.Bits())
	case p != p.Masked():
		return fmt.Errorf("%s has bits set behind /%d; did you mean %s?", p, p.Bits(), p.Masked())
	case !p.Addr().IsPrivate() && !sharedRange.Contains(p.Addr()):
		return fmt.Errorf("%s is a public range: choose one within 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10", p)
	}
	return nil
}

// sharedRange is RFC 6598: not private by name, but by use.
var sharedRange = netip.MustParsePrefix("100.64.0.0/10")

func checkRange6(p netip.Prefix) error {
	switch {
	case !p.Addr().Is6() || p.Addr().Is4In6():
		return fmt.Errorf(`%s is not an IPv6 range; as in "fd12:3456:789a::/64"`, p)
	case p.Bits() != 64:
		return fmt.Errorf("/%d is not allowed: a /64 is wanted", p.Bits())
	case p != p.Masked():
		return fmt.Errorf("%s has bits set behind /64; did you mean %s?", p, p.Masked())
	case !localRange.Contains(p.Addr()):
		return fmt.Errorf("%s is not a unique local range: choose one within fd00::/8", p)
	}
	return nil
}

// localRange is the half of fc00::/7 whose numbers are chosen locally
// (RFC 4193).
var localRange = netip.MustParsePrefix("fd00::/8")

func (k *checker) images(i *Images) {
	for registry, mirrors := range i.Mirrors {
		path := []string{"images", "mirrors", registry}
		if err := checkRegistry(registry); err != nil && k.readable(path) {
			p := problem(path, "%s", err)
			p.onKey = true
			k.problems = append(k.problems, p)
		}
		if len(mirrors) == 0 {
			k.check(fmt.Errorf("names no mirror"), path...)
		}
		for n, m := range mirrors {
			k.check(checkMirror(m), append(slices.Clone(path), index(n))...)
		}
	}
	for n, r := range i.Insecure {
		k.check(checkRegistry(r), "images", "insecure", index(n))
	}
	k.path(i.Credentials, "images", "credentials")
	for name, ref := range i.Use {
		k.name(name, ImageNames(), true, "images", "use", name)
		if _, err := reference.ParseNormalizedNamed(ref); err != nil {
			k.check(fmt.Errorf(`%q is not an image's name, as in "docker.io/overhangio/openedx:21.0.8": %w`, ref, err), "images", "use", name)
		}
	}
}

func checkRegistry(r string) error {
	if strings.Contains(r, "/") {
		return fmt.Errorf("%q is more than a registry's name: write HOST or HOST:PORT", r)
	}
	host, port, err := net.SplitHostPort(r)
	if err != nil {
		host, port = r, "443"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no valid port: 1 to 65535", r)
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return nil
	}
	if host == "localhost" {
		return nil
	}
	if err := checkName(host); err != nil {
		return fmt.Errorf("%q is not a registry's name: %w", r, err)
	}
	return nil
}

func checkMirror(m string) error {
	u, err := url.Parse(m)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf(`is not a mirror's address; as in "https://mirror.example.org"`)
	case u.User != nil:
		return fmt.Errorf("holds a user name or a password: put them into the file that images.credentials names")
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("has more than scheme, host and path")
	}
	return nil
}

func (k *checker) size(c *Config) {
	const least = 512 * MB
	if m := c.Size.Memory; m != 0 && m < least {
		k.check(fmt.Errorf("%s is too little for a site: %s or more", m, least), "size", "memory")
	}
	if n := c.Size.Cores; n < 0 || n > 4096 {
		k.check(fmt.Errorf("%d is not a number of cores: 1 to 4096", n), "size", "cores")
	}
	if c.Size.Memory == 0 {
		return
	}
	var sum Bytes
	for name, s := range c.Services {
		if c.Enabled(name) && s.Memory > 0 {
			sum += min(s.Memory, TiB*1024)
		}
	}
	if sum > c.Size.Memory {
		k.check(fmt.Errorf("the memory of the services adds up to %s, which is more than the %s of size.memory", sum, c.Size.Memory), "services")
	}
}

func (k *checker) mail(c *Config) {
	m := &c.Mail
	if m.Smarthost != "" {
		err := checkName(m.Smarthost)
		if _, port, split := net.SplitHostPort(m.Smarthost); split == nil {
			err = fmt.Errorf("%q holds a port: write it as mail.port = %s", m.Smarthost, port)
		} else if _, addr := netip.ParseAddr(m.Smarthost); addr == nil {
			err = nil
		}
		k.check(err, "mail", "smarthost")
	}
	if m.Port != 0 && m.Smarthost == "" {
		k.check(fmt.Errorf("means nothing without mail.smarthost"), "mail", "port")
	}
	if m.User != "" && m.Smarthost == "" {
		k.check(fmt.Errorf("means nothing without mail.smarthost"), "mail", "user")
	}
	switch {
	case m.PasswordFile != "" && m.User == "":
		k.check(fmt.Errorf("means nothing without mail.user"), "mail", "password_file")
	case m.User != "" && m.PasswordFile == "":
		k.check(fmt.Errorf("mail.password_file is missing: the path of a file with the password, readable by root alone"), "mail", "user")
	}
	k.path(m.PasswordFile, "mail", "password_file")
	k.check(checkMail(m.From), "mail", "from")
	if !c.Enabled("smtp") && m.Smarthost == "" {
		k.check(fmt.Errorf("the relay can be left out only with mail.smarthost"), "services", "smtp", "enabled")
	}
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (k *checker) services(c *Config) {
	for name, s := range c.Services {
		at := func(rest ...string) []string { return append([]string{"services", name}, rest...) }
		k.name(name, ServiceNames(), true, at()...)
		const least = 16 * MB
		if s.Memory != 0 && s.Memory < least {
			k.check(fmt.Errorf("%s is too little: %s or more", s.Memory, least), at("memory")...)
		}
		// 0 is what a file that says nothing has, and cgroup v2 does not know it.
		if s.CPUWeight > 10_000 {
			k.check(fmt.Errorf("%d is not a weight: 1 to 10000, usual is 100", s.CPUWeight), at("cpu_weight")...)
		}
		if s.Enabled != nil && !*s.Enabled && slices.Contains(ServiceNames(), name) && !slices.Contains(OptionalServices(), name) {
			k.check(fmt.Errorf("a site needs %s; only %s can be left out", name, strings.Join(OptionalServices(), ", ")), at("enabled")...)
		}
		if t := s.StopTimeout; t != 0 && (t < time.Second || t > time.Hour) {
			k.check(fmt.Errorf(`%s is not allowed: "1s" to "1h"`, t), at("stop_timeout")...)
		}
		for key := range s.Env {
			path := at("env", key)
			if !envName.MatchString(key) && k.readable(path) {
				p := problem(path, "%q is not the name of an environment variable: letters, digits and _, no digit first", key)
				p.onKey = true
				k.problems = append(k.problems, p)
			}
		}
	}
}

func (k *checker) path(p string, path ...string) {
	if p != "" {
		k.check(checkAbsolute(p), path...)
	}
}

func checkAbsolute(p string) error {
	if !filepath.IsAbs(p) || filepath.Clean(p) != p {
		return fmt.Errorf("%q is not an absolute path in its shortest form", p)
	}
	return nil
}

// checkListen checks an address to listen on: ":80", "192.0.2.1:80",
// "[2001:db8::1]:80".
func checkListen(a string) error {
	if a == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf(`%q is not an address to listen on: write ":PORT" or "ADDRESS:PORT"`, a)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no valid port: 1 to 65535", a)
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("%q does not begin with an IP address of this machine; leave it out to listen on all", a)
		}
	}
	return nil
}

func checkMail(a string) error {
	if a == "" {
		return nil
	}
	parsed, err := mail.ParseAddress(a)
	if err != nil || parsed.Address != a || strings.ContainsAny(a, "\"'() ") {
		return fmt.Errorf(`%q is not a mail address, as in "contact@example.org"`, a)
	}
	return nil
}

func checkLength(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("has %d bytes; at most %d are allowed", len(s), most)
	}
	return nil
}
