package site

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"tarima/proxy/routes"
)

var (
	labelName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)
	groupName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	// headerName is a token of RFC 9110 section 5.6.2, without what a CGI-like
	// application reads as another.
	headerName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	methods    = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
)

const (
	maxHSTS       = 2 * 365 * 24 * time.Hour
	maxPath       = 2048 // bytes
	maxSocketPath = 98   // sockaddr_un, less what a name for its making takes
)

func (k *checker) proxy(c *Config) {
	// Rules may speak of names that the file leaves to their defaults.
	named := *c
	hostDefaults(&named.Site)
	c = &named
	p := &c.Proxy
	k.listeners(p, c.Site.Host)
	k.check(checkMail(p.Email), "proxy", "email")
	if h := p.Hold; h != nil && (*h < 0 || *h > 10*time.Minute) {
		k.check(fmt.Errorf(`%s is not allowed: "0s" (do not wait) to "10m"`, *h), "proxy", "hold")
	}
	if p.HSTS < 0 || p.HSTS > maxHSTS {
		k.check(fmt.Errorf(`%s is not allowed: "0s" (off) to "17520h" (two years)`, p.HSTS), "proxy", "hsts")
	}
	k.networks(p.Trusted, "proxy", "trusted")
	k.networks(p.Maintenance.Networks, "proxy", "maintenance", "networks")
	k.acme(c)
	k.certificates(c)
	k.redirects(c)
	k.apps(c)
	k.auth(c)
	k.headers(c)
	k.limits(c)
	k.paths(p.Block.Paths, "proxy", "block", "paths")
	k.counts(c)
	k.log(&p.Log)
	k.metrics(p.Metrics.Address)
}

// counts keeps lists below what the proxy can take.
func (k *checker) counts(c *Config) {
	const (
		maxNetworks = 500
		maxPaths    = 200 // blocked, of one host's applications, and of limits
		maxHosts    = 500
	)
	p := &c.Proxy
	few := func(n, most int, path ...string) {
		if n > most {
			k.check(fmt.Errorf("%d are too many: at most %d", n, most), path...)
		}
	}
	few(len(p.Trusted), maxNetworks, "proxy", "trusted")
	few(len(p.Maintenance.Networks), maxNetworks, "proxy", "maintenance", "networks")
	few(len(p.Block.Paths), maxPaths, "proxy", "block", "paths")
	few(len(p.Redirects), maxHosts, "proxy", "redirects")
	few(len(p.Apps), maxPaths, "proxy", "apps")
	few(len(p.Headers), maxHosts, "proxy", "headers")
	limited, at := 0, map[string]int{}
	for _, l := range p.Limits {
		limited += len(l.Paths)
	}
	few(limited, maxPaths, "proxy", "limits")
	for _, name := range sortedKeys(p.Apps) {
		a := p.Apps[name]
		at[a.Host] += max(1, len(a.Paths))
		few(at[a.Host], maxPaths, "proxy", "apps", name, "paths")
	}
	for host, headers := range p.Headers {
		few(len(headers), 90, "proxy", "headers", host)
	}
}

// listeners checks where the proxy listens and how TLS is ended.
func (k *checker) listeners(p *Proxy, host string) {
	if p.TLS != "" {
		k.name(string(p.TLS), []string{string(TLSLocal), string(TLSACME), string(TLSNone)}, false, "proxy", "tls")
	}
	if p.TLS == TLSACME && isLocalName(host) {
		k.check(fmt.Errorf(`no public authority certifies names like %q: write tls = "local"`, host), "proxy", "tls")
	}
	none := p.TLS == TLSNone
	httpErr, httpsErr := checkDoor(p.HTTP), checkDoor(p.HTTPS)
	unix := strings.HasPrefix(p.HTTP, UnixPrefix)
	switch {
	case strings.HasPrefix(p.HTTPS, UnixPrefix):
		httpsErr = errors.New("a unix socket is for plain HTTP from a web server in front: write it as proxy.http")
	case httpsErr != nil:
	case none && p.HTTPS != "" && p.HTTPS != Off:
		httpsErr = fmt.Errorf(`contradicts tls = "none": leave it out, or write %q`, Off)
	case !none && p.HTTPS == Off:
		httpsErr = errors.New(`the site is served by HTTPS; "off" goes with tls = "none" alone, behind a web server`)
	}
	switch {
	case httpErr != nil:
	case unix && !none:
		httpErr = errors.New(`a unix socket is for a web server in front: write tls = "none" too`)
	case none && p.HTTP == Off:
		httpErr = errors.New(`with tls = "none" nobody would listen: write an address, as in "127.0.0.1:8080"`)
	}
	if plain, tls := cmp.Or(p.HTTP, ":80"), cmp.Or(p.HTTPS, ":443"); httpErr == nil && httpsErr == nil && plain == tls {
		// The one that the file says is wrong.
		if p.HTTPS != "" {
			httpsErr = fmt.Errorf("%q is already the address of proxy.http", tls)
		} else {
			httpErr = fmt.Errorf("%q is already the address of proxy.https", plain)
		}
	}
	k.check(httpErr, "proxy", "http")
	k.check(httpsErr, "proxy", "https")
	if p.HTTP3 && none {
		k.check(errors.New(`HTTP/3 needs certificates of our own: not with tls = "none"`), "proxy", "http3")
	}
	if g := p.SocketGroup; g != "" {
		switch {
		case !groupName.MatchString(g):
			k.check(fmt.Errorf("%q is not the name of a group", g), "proxy", "socket_group")
		case !unix:
			k.check(errors.New(`means nothing without a unix socket, as in http = "unix:/run/tarima-proxy/door.sock"`), "proxy", "socket_group")
		}
	}
	if p.ProxyProtocol && len(p.Trusted) == 0 && !none {
		k.check(errors.New("means nothing without proxy.trusted: the addresses of the load balancer that speaks it"), "proxy", "proxy_protocol")
	}
}

// checkDoor checks an address to listen on, "off" and unix sockets among them.
func checkDoor(a string) error {
	if a == Off {
		return nil
	}
	if p, unix := strings.CutPrefix(a, UnixPrefix); unix {
		if err := checkAbsolute(p); err != nil {
			return fmt.Errorf("%w behind %q", err, UnixPrefix)
		}
		if len(p) > maxSocketPath {
			return fmt.Errorf("the path of a socket has at most %d bytes; this one has %d", maxSocketPath, len(p))
		}
		return nil
	}
	return checkListen(a)
}

func (k *checker) networks(list []netip.Prefix, path ...string) {
	for i, n := range list {
		var err error
		switch {
		case n != n.Masked():
			err = fmt.Errorf("%s has bits set behind /%d; did you mean %s?", n, n.Bits(), n.Masked())
		case n.Bits() == 0:
			err = fmt.Errorf("%s is everybody: name the addresses themselves", n)
		case slices.Index(list, n) < i:
			err = fmt.Errorf("%s is there twice", n)
		}
		k.check(err, append(slices.Clone(path), index(i))...)
	}
}

func (k *checker) acme(c *Config) {
	p := &c.Proxy
	a := &p.ACME
	said := a.Directory != "" || a.KeyID != "" || len(a.Fallback) > 0 || len(a.Wildcards) > 0
	if said && p.TLS != "" && p.TLS != TLSACME {
		k.check(fmt.Errorf(`means nothing with tls = %q`, p.TLS), "proxy", "acme")
		return
	}
	k.authority(Authority{a.Directory, a.KeyID, a.KeyFile}, true, "proxy", "acme")
	seen := []string{a.Directory}
	for i, f := range a.Fallback {
		at := []string{"proxy", "acme", "fallback", index(i)}
		k.authority(f, false, at...)
		if f.Directory != "" && slices.Contains(seen, f.Directory) {
			k.check(errors.New("is asked already: each authority once"), append(at, "directory")...)
		}
		seen = append(seen, f.Directory)
	}
	for i, w := range a.Wildcards {
		at := []string{"proxy", "acme", "wildcards", index(i)}
		rest, wild := strings.CutPrefix(w, "*.")
		_, err := normalHost(rest)
		switch {
		case !wild:
			err = fmt.Errorf(`%q is not a wildcard, as in "*.learn.example.org"`, w)
		case err != nil:
		case !slices.ContainsFunc(c.Hosts(), func(h string) bool { return covers(w, h) }):
			err = fmt.Errorf("%q stands for none of the site's names: %s", w, strings.Join(c.Hosts(), ", "))
		case p.DNS.Provider == "":
			err = errors.New("a wildcard is proved by a record in the zone: [proxy.dns] is missing")
		}
		k.check(err, at...)
	}
	d := &p.DNS
	switch {
	case d.Provider == "" && d.SettingsFile != "":
		k.check(errors.New("means nothing without proxy.dns.provider"), "proxy", "dns", "settings_file")
	case d.Provider != "":
		k.name(d.Provider, sortedKeys(routes.DNSProviders), false, "proxy", "dns", "provider")
	}
	k.path(d.SettingsFile, "proxy", "dns", "settings_file")
}

func (k *checker) authority(a Authority, optional bool, path ...string) {
	at := func(key string) []string { return append(slices.Clone(path), key) }
	if u, err := url.Parse(a.Directory); a.Directory == "" {
		if !optional {
			k.check(errors.New("directory is missing: the https URL of the authority"), path...)
		}
	} else if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		k.check(errors.New(`is not an authority's address, as in "https://acme.example.org/directory"`), at("directory")...)
	}
	if err := checkLength(a.KeyID, 250); err != nil {
		k.check(err, at("key_id")...)
	}
	switch {
	case a.KeyID != "" && a.KeyFile == "":
		k.check(errors.New("key_file is missing: the path of a file with the key, readable by root alone"), at("key_id")...)
	case a.KeyID == "" && a.KeyFile != "":
		k.check(errors.New("key_id is missing: the name that the authority gave to the key"), at("key_file")...)
	}
	k.path(a.KeyFile, at("key_file")...)
}

func (k *checker) certificates(c *Config) {
	for _, name := range sortedKeys(c.Proxy.Certificates) {
		cert := c.Proxy.Certificates[name]
		at := []string{"proxy", "certificates", name}
		if c.Proxy.TLS == TLSNone {
			k.check(errors.New(`means nothing with tls = "none"`), at...)
			continue
		}
		hosts := c.Hosts()
		if !slices.ContainsFunc(hosts, func(h string) bool { return covers(name, h) }) {
			k.ours(name, hosts, at...)
		}
		for key, path := range map[string]string{"cert": cert.Cert, "key": cert.Key} {
			if path == "" {
				k.check(fmt.Errorf("%s is missing: the path of a PEM file", key), at...)
			}
			k.path(path, append(at, key)...)
		}
	}
}

// ours records a host name, the key at path, that is not one of ours.
func (k *checker) ours(name string, hosts []string, path ...string) {
	if slices.Contains(hosts, name) || !k.readable(path) {
		return
	}
	p := problem(path, "%q is none of the site's names: %s", name, strings.Join(hosts, ", "))
	p.Nearest, p.onKey = nearestHost(name, hosts), true
	k.problems = append(k.problems, p)
}

func (k *checker) redirects(c *Config) {
	for _, from := range sortedKeys(c.Proxy.Redirects) {
		at := []string{"proxy", "redirects", from}
		fail := func(format string, args ...any) {
			if k.readable(at) {
				p := problem(at, format, args...)
				p.onKey = true
				k.problems = append(k.problems, p)
			}
		}
		if n, err := normalHost(from); err != nil {
			fail("%s", err)
			continue
		} else if n != from {
			fail("%q is there twice", n)
			continue
		}
		if slices.Contains(c.siteHosts(), from) {
			fail("%q is the site's own name: it would not be reached any more", from)
			continue
		}
		if app := c.appAt(from); app != "" {
			fail("%q is already the name of proxy.apps.%s", from, app)
			continue
		}
		to, _ := c.Proxy.target(from)
		switch {
		case strings.Contains(c.Proxy.Redirects[from], "://"):
			u, err := url.Parse(c.Proxy.Redirects[from])
			if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
				k.check(errors.New(`is not where visitors can be sent: a host name, or a URL as in "https://learn.example.org"`), at...)
				continue
			}
		default:
			if _, err := normalHost(to); err != nil {
				k.check(err, at...)
				continue
			}
		}
		if to == from {
			k.check(errors.New("leads to itself"), at...)
		} else if next, on := c.Proxy.target(to); on {
			k.check(fmt.Errorf("%q is sent on to %q itself: write that one", to, next), at...)
		}
	}
}

func (k *checker) auth(c *Config) {
	for _, host := range sortedKeys(c.Proxy.Auth) {
		a := c.Proxy.Auth[host]
		at := []string{"proxy", "auth", host}
		k.ours(host, c.served(), at...)
		if a.Users == "" {
			k.check(errors.New("users is missing: the path of a file as `htpasswd -B` writes it, readable by root alone"), at...)
		}
		k.path(a.Users, append(at, "users")...)
		if err := checkLength(a.Realm, 100); err != nil {
			k.check(err, append(at, "realm")...)
		} else if strings.ContainsAny(a.Realm, `"\`) {
			k.check(errors.New(`holds " or \`), append(at, "realm")...)
		}
	}
}

// served are the names that answer themselves.
func (c *Config) served() []string {
	return slices.DeleteFunc(c.Hosts(), func(h string) bool { _, on := c.Proxy.Redirects[h]; return on })
}

// ownHeaders say what only the proxy can know, or what has a key of its own.
var ownHeaders = map[string]string{
	"strict-transport-security": "is set by proxy.hsts",
	"server-timing":             "is set by proxy.server_timing",
	"content-length":            "belongs to the answer itself",
	"content-encoding":          "belongs to the answer itself",
	"content-range":             "belongs to the answer itself",
	"transfer-encoding":         "belongs to the connection",
	"connection":                "belongs to the connection",
	"keep-alive":                "belongs to the connection",
	"upgrade":                   "belongs to the connection",
	"trailer":                   "belongs to the connection",
	"te":                        "belongs to the connection",
	"proxy-authenticate":        "belongs to the connection",
	"date":                      "belongs to the answer itself",
	"location":                  "belongs to the answer itself",
	"www-authenticate":          "is set by proxy.auth",
}

func (k *checker) headers(c *Config) {
	for _, host := range sortedKeys(c.Proxy.Headers) {
		k.ours(host, c.served(), "proxy", "headers", host)
		seen := map[string]bool{}
		for _, name := range sortedKeys(c.Proxy.Headers[host]) {
			at := []string{"proxy", "headers", host, name}
			lower := strings.ToLower(name)
			var err error
			switch why, own := ownHeaders[lower]; {
			case !headerName.MatchString(name):
				err = fmt.Errorf("%q is not a header's name: letters, digits and -", name)
			case own:
				err = fmt.Errorf("%s %s", name, why)
			case seen[lower]:
				err = fmt.Errorf("%s is there twice", name)
			default:
				err = checkLength(c.Proxy.Headers[host][name], maxPath)
			}
			seen[lower] = true
			k.check(err, at...)
		}
	}
}

func (k *checker) limits(c *Config) {
	for _, name := range sortedKeys(c.Proxy.Limits) {
		l := c.Proxy.Limits[name]
		at := func(key ...string) []string { return append([]string{"proxy", "limits", name}, key...) }
		if !labelName.MatchString(name) && k.readable(at()) {
			p := problem(at(), "%q is not a name for a limit: small letters, digits, - and _, at most 40", name)
			p.onKey = true
			k.problems = append(k.problems, p)
		}
		if !slices.Contains(UsualLimits(), name) {
			switch {
			case len(l.Paths) == 0:
				k.check(errors.New(`paths is missing, as in paths = ["/search/"]; the usual limits that need none are login, registration, password and token`), at()...)
			case l.Burst == 0:
				k.check(errors.New("burst is missing: how many requests may come at once"), at()...)
			case l.Every == 0:
				k.check(errors.New("every is missing: the time after which one more request is allowed"), at()...)
			}
		}
		if l.Burst < 0 || l.Burst > 1_000_000 {
			k.check(fmt.Errorf("%d is not allowed: 1 to 1000000", l.Burst), at("burst")...)
		}
		if e := l.Every; e != 0 && (e < time.Millisecond || e > 24*time.Hour) {
			k.check(fmt.Errorf(`%s is not allowed: "1ms" to "24h"`, e), at("every")...)
		}
		if most := 7 * 24 * time.Hour; l.Every > 0 && l.Every <= 24*time.Hour && l.Burst > 0 && int64(l.Burst) > int64(most/l.Every) {
			k.check(fmt.Errorf("%d times %s are more than seven days, and no address is remembered longer", l.Burst, l.Every), at("burst")...)
		}
		if l.Host != "" && !slices.Contains(c.served(), l.Host) {
			k.name(l.Host, c.served(), false, at("host")...)
		}
		for i, m := range l.Methods {
			if !slices.Contains(methods, m) {
				k.name(m, methods, false, at("methods", index(i))...)
			}
		}
		k.paths(l.Paths, at("paths")...)
	}
}

// paths checks a list of paths as routes know them.
func (k *checker) paths(list []string, path ...string) {
	for i, p := range list {
		err := checkPath(p)
		if err == nil && slices.Index(list, p) < i {
			err = fmt.Errorf("%q is there twice", p)
		}
		k.check(err, append(slices.Clone(path), index(i))...)
	}
}

func checkPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		if strings.Contains(p, "://") {
			return fmt.Errorf("%q is a whole address: write what follows the host's name, as in %q", p, "/blog/")
		}
		return fmt.Errorf(`%q does not begin with "/"`, p)
	case len(p) > maxPath || strings.Count(p, "/") > 64:
		return fmt.Errorf("is too long: at most %d bytes and 64 elements", maxPath)
	case strings.Contains(p, "//") || strings.Contains(p+"/", "/../") || strings.Contains(p+"/", "/./"):
		return fmt.Errorf(`%q is not in its shortest form, without "//", "/./" and "/../"`, p)
	case strings.ContainsAny(p, "?#"):
		return fmt.Errorf(`%q holds "?" or "#": a path alone is compared`, p)
	case strings.Contains(p, "%"):
		return fmt.Errorf(`%q holds "%%": paths are compared decoded, write the character itself`, p)
	}
	for e := range strings.SplitSeq(p, "/") {
		if e != "*" && strings.Contains(e, "*") {
			return fmt.Errorf(`%q: "*" stands for a whole element, as in "/courses/*/about"`, p)
		}
	}
	return nil
}

func (k *checker) log(l *AccessLog) {
	k.path(l.File, "proxy", "log", "file")
	for i, f := range l.Fields {
		at := []string{"proxy", "log", "fields", index(i)}
		k.name(f, LogFields(), false, at...)
		if slices.Index(l.Fields, f) < i {
			k.check(fmt.Errorf("%q is there twice", f), at...)
		}
	}
	if l.Addresses != "" {
		k.name(l.Addresses, []string{"full", "short", "none"}, false, "proxy", "log", "addresses")
	}
	if l.Size != 0 && l.Size < MB {
		k.check(fmt.Errorf("%s is too little: %s or more", l.Size, MB), "proxy", "log", "size")
	}
	if l.Keep < 0 || l.Keep > 1000 {
		k.check(fmt.Errorf("%d is not allowed: 1 to 1000 files", l.Keep), "proxy", "log", "keep")
	}
	if l.Slow != nil && (*l.Slow < 0 || *l.Slow > time.Hour) {
		k.check(fmt.Errorf(`%s is not allowed: "0s" (none) to "1h"`, *l.Slow), "proxy", "log", "slow")
	}
	if l.File == "" && (len(l.Fields) > 0 || l.Addresses != "" || l.Size != 0 || l.Keep != 0) {
		k.check(errors.New("file is missing: where the access log is written"), "proxy", "log")
	}
}

func (k *checker) metrics(a string) {
	if a == "" || a == Off {
		return
	}
	err := checkListen(a)
	if err == nil {
		host, _, _ := net.SplitHostPort(a) // checkListen has read it
		if ip, perr := netip.ParseAddr(host); perr != nil || !ip.IsLoopback() {
			err = fmt.Errorf(`%q can be reached from outside: write an address of this machine, as in "127.0.0.1:9460"`, a)
		}
	}
	k.check(err, "proxy", "metrics", "address")
}
