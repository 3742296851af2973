package site

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// appAt is the application whose own host that is; "": none.
func (c *Config) appAt(host string) string {
	for _, name := range sortedKeys(c.Proxy.Apps) {
		if c.Proxy.Apps[name].Host == host {
			return name
		}
	}
	return ""
}

func (k *checker) apps(c *Config) {
	// Where two applications want the same: the later one in the order of
	// names is told of.
	taken := map[string]string{}
	for _, name := range sortedKeys(c.Proxy.Apps) {
		a := c.Proxy.Apps[name]
		at := func(key ...string) []string { return append([]string{"proxy", "apps", name}, key...) }
		if !labelName.MatchString(name) && k.readable(at()) {
			p := problem(at(), "%q is not a name for an application: small letters, digits, - and _, at most 40", name)
			p.onKey = true
			k.problems = append(k.problems, p)
		}
		ofSite := slices.Contains(c.siteHosts(), a.Host)
		switch _, err := normalHost(a.Host); {
		case a.Host == "":
			k.check(errors.New(`host is missing: the public name, as in host = "blog.example.org"`), at()...)
		case err != nil:
			k.check(err, at("host")...)
		case ofSite && len(a.Paths) == 0:
			k.check(fmt.Errorf(`%q is the site's own name: say which paths of it are the application's, as in paths = ["/blog/"]`, a.Host), at("host")...)
		}
		k.appTarget(c, a, at)
		k.paths(a.Paths, at("paths")...)
		for i, p := range slices.Concat(a.Paths, wholeHost(a)) {
			key := a.Host + p
			if other, twice := taken[key]; twice && other != name && a.Host != "" {
				path := at("host")
				if p != "" {
					path = at("paths", index(i))
				}
				what := fmt.Sprintf("%q", p)
				if p == "" {
					what = "the whole host"
				}
				k.check(fmt.Errorf("overlaps with proxy.apps.%s, which has %s of %s too", other, what, a.Host), path...)
			}
			taken[key] = name
		}
		if a.Rewrite != "" {
			err := checkPath(a.Rewrite)
			if err == nil && strings.Contains(a.Rewrite, "*") {
				err = errors.New(`holds "*": what matched is not put in`)
			}
			k.check(err, at("rewrite")...)
		}
		if a.HostHeader != "" {
			_, err := normalHost(a.HostHeader)
			k.check(err, at("host_header")...)
		}
	}
}

// wholeHost stands for every path of a host.
func wholeHost(a App) []string {
	if len(a.Paths) == 0 {
		return []string{""}
	}
	return nil
}

func (k *checker) appTarget(c *Config, a App, at func(...string) []string) {
	switch {
	case a.Service == "" && len(a.Address) == 0:
		k.check(errors.New(`neither service nor address is said, as in address = "10.0.0.5:8080"`), at()...)
	case a.Service != "" && len(a.Address) > 0:
		k.check(errors.New("contradicts address: leave one of them out"), at("service")...)
	case a.Service != "":
		k.name(a.Service, WebServices(), false, at("service")...)
		if slices.Contains(WebServices(), a.Service) && !c.Enabled(a.Service) {
			k.check(fmt.Errorf("%s is switched off by services.%s.enabled", a.Service, a.Service), at("service")...)
		}
	}
	if len(a.Address) > 1 && len(a.Paths) > 0 {
		k.check(errors.New("several addresses are possible for a whole host only: leave paths out"), at("address")...)
	}
	for i, address := range a.Address {
		err := checkUpstream(address)
		if err == nil && slices.Index(a.Address, address) < i {
			err = fmt.Errorf("%q is there twice", address)
		}
		k.check(err, at("address", index(i))...)
	}
}

// checkUpstream wants an address and a port: what a name means may change
// while nobody looks.
func checkUpstream(s string) error {
	a, err := netip.ParseAddrPort(s)
	switch {
	case strings.Contains(s, "://"):
		return fmt.Errorf(`%q is a URL: write ADDRESS:PORT, as in "10.0.0.5:8080"`, s)
	case err != nil:
		return fmt.Errorf(`%q is not ADDRESS:PORT, as in "10.0.0.5:8080" or "[2001:db8::5]:8080"`, s)
	case a.Port() == 0:
		return fmt.Errorf("%q has no valid port: 1 to 65535", s)
	case a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().IsLinkLocalUnicast():
		return fmt.Errorf("%q is no address that a server can have for others", s)
	}
	return nil
}
