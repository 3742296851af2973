package openedx

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tarima/proxy/routes"
	"tarima/supervisor"
	"tarima/supervisor/site"
)

// DoorSecrets is what [proxy] keeps in files of root's own, read already.
type DoorSecrets struct {
	ACMEKey      string                       // of proxy.acme.key_file
	FallbackKeys []string                     // of each of proxy.acme.fallback, "" without one
	DNS          map[string]string            // of proxy.dns.settings_file
	Users        map[string]map[string]string // by host, then by user: bcrypt hashes
}

// TLS is where certificates come from. Errors wrap ErrConfig.
func TLS(p site.Proxy, s DoorSecrets) (routes.TLS, error) {
	out := routes.TLS{Mode: string(p.TLS), Email: p.Email}
	if p.TLS != site.TLSACME {
		return out, nil
	}
	out.Directory, out.Account, out.Wildcards = p.ACME.Directory, account(p.ACME.KeyID, s.ACMEKey), p.ACME.Wildcards
	if len(s.FallbackKeys) != 0 && len(s.FallbackKeys) != len(p.ACME.Fallback) {
		return out, fmt.Errorf("%w: %d keys for %d authorities of proxy.acme.fallback", ErrConfig, len(s.FallbackKeys), len(p.ACME.Fallback))
	}
	for i, f := range p.ACME.Fallback {
		a := routes.Authority{Directory: f.Directory}
		if f.KeyID != "" && len(s.FallbackKeys) > 0 {
			a.Account = account(f.KeyID, s.FallbackKeys[i])
		}
		out.Fallback = append(out.Fallback, a)
	}
	if p.DNS.Provider != "" {
		out.DNS = &routes.DNSProvider{Name: p.DNS.Provider}
		for name, value := range s.DNS {
			if out.DNS.Settings == nil {
				out.DNS.Settings = map[string]routes.Secret{}
			}
			out.DNS.Settings[name] = routes.Secret(value)
		}
	}
	return out, nil
}

func account(id, key string) *routes.ExternalAccount {
	if id == "" {
		return nil
	}
	return &routes.ExternalAccount{KeyID: id, Key: routes.Secret(key)}
}

// door lays what the site file says of the public door over the site's own
// routes, and adds those of applications and of names that are sent on.
func (m *model) door(own []supervisor.Route, s DoorSecrets) []supervisor.Route {
	p := m.config.Proxy
	for i := range own {
		own[i].Rules = slices.Concat(notFound(p.Block.Paths), m.appRules(own[i].Host), m.usuallyBlocked(), own[i].Rules)
	}
	all := append(own, m.appRoutes()...)
	for i := range all {
		r := &all[i]
		r.HSTS = int64(p.HSTS / time.Second)
		r.Closed, r.Proof, r.ServerTiming = p.Closed, p.Proof, p.ServerTiming
		r.Compress = p.Compress == nil || *p.Compress
		r.Headers = p.Headers[r.Host]
		r.Limits = m.limits(r.Host)
		if a, ok := p.Auth[r.Host]; ok {
			r.Auth = &routes.Auth{Realm: a.Realm, Users: map[string]routes.Secret{}}
			for user, hash := range s.Users[r.Host] {
				r.Auth.Users[user] = routes.Secret(hash)
			}
		}
	}
	for _, from := range slices.Sorted(maps.Keys(p.Redirects)) {
		to := p.Redirects[from]
		if !strings.Contains(to, "://") {
			if slices.Contains(m.config.Hosts(), to) {
				to += m.port // ours listens where proxy.https says
			}
			to = "https://" + to
		}
		all = append(all, supervisor.Route{Host: from, Redirect: to, HSTS: int64(p.HSTS / time.Second)})
	}
	return all
}

// usualBlocked is what robots look for on every server, and what no part of
// Open edX answers: programs of others and files that should never be public.
var usualBlocked = []string{
	"/wp-login.php", "/wp-admin/", "/wp-includes/", "/wp-content/", "/xmlrpc.php", "/wordpress/",
	"/.env", "/.git/", "/.svn/", "/.hg/", "/.aws/", "/.ssh/", "/.vscode/", "/.DS_Store", "/.htaccess", "/.htpasswd",
	"/phpmyadmin/", "/phpMyAdmin/", "/pma/", "/adminer.php", "/phpinfo.php", "/info.php", "/index.php", "/config.php",
	"/vendor/phpunit/", "/cgi-bin/", "/server-status", "/actuator/", "/boaform/", "/HNAP1/", "/solr/", "/owa/", "/autodiscover/",
}

func (m *model) usuallyBlocked() []supervisor.RouteRule {
	if usual := m.config.Proxy.Block.Usual; usual != nil && !*usual {
		return nil
	}
	return notFound(usualBlocked)
}

// notFound answers paths without waking anybody.
func notFound(paths []string) []supervisor.RouteRule {
	rules := make([]supervisor.RouteRule, 0, len(paths))
	for _, path := range paths {
		rules = append(rules, supervisor.RouteRule{Path: path, Status: 404})
	}
	return rules
}

// appRoutes are the hosts that applications of one's own have for themselves.
func (m *model) appRoutes() []supervisor.Route {
	var hosts []string
	for _, r := range m.config.Hosts() {
		if !slices.Contains([]string{m.lmsHost, m.cmsHost, m.mfeHost, m.searchHost}, r) && len(m.appsAt(r)) > 0 {
			hosts = append(hosts, r)
		}
	}
	var out []supervisor.Route
	for _, host := range hosts {
		r := supervisor.Route{Host: host, Rules: m.appRules(host)}
		for _, name := range m.appsAt(host) {
			if a := m.config.Proxy.Apps[name]; len(a.Paths) == 0 {
				r.Name, r.Service, r.Addresses, r.MaxBody = name, a.Service, a.Address, int64(a.MaxBody)
			}
		}
		if r.Name == "" {
			// Nobody has the rest of the host. The first application stands for
			// it, so that there is one, and is asked for nothing.
			first := m.appsAt(host)[0]
			a := m.config.Proxy.Apps[first]
			r.Name, r.Service = first, a.Service
			if a.Service == "" {
				r.Addresses = a.Address
			}
			r.Rules = append(r.Rules, supervisor.RouteRule{Status: 404})
		}
		out = append(out, r)
	}
	return out
}

// appsAt are the names of the applications at a host, in their order.
func (m *model) appsAt(host string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.config.Proxy.Apps)) {
		if m.config.Proxy.Apps[name].Host == host {
			names = append(names, name)
		}
	}
	return names
}

// appRules are the paths of a host that applications have. Of two that fit,
// the longer one is meant, so it stands first.
func (m *model) appRules(host string) []supervisor.RouteRule {
	var rules []supervisor.RouteRule
	for _, name := range m.appsAt(host) {
		a := m.config.Proxy.Apps[name]
		paths := a.Paths
		if len(paths) == 0 && (a.Rewrite != "" || a.HostHeader != "" || a.Stream) {
			paths = []string{""} // what a host itself cannot say
		}
		for _, path := range paths {
			r := supervisor.RouteRule{
				Path: path, Rewrite: a.Rewrite, Service: a.Service, HostHeader: a.HostHeader,
				MaxBody: int64(a.MaxBody), Stream: a.Stream,
			}
			if a.Service == "" && path != "" {
				r.Address = a.Address[0]
			}
			rules = append(rules, r)
		}
	}
	slices.SortStableFunc(rules, func(a, b supervisor.RouteRule) int { return len(b.Path) - len(a.Path) })
	return rules
}

// usualLimit is one that every site has.
type usualLimit struct {
	burst   int
	every   time.Duration
	methods []string
	paths   []string
}

// A school behind one address, a class that logs in at the hour: 60 at once and
// then one in two seconds lets them in, and leaves a guesser 44,000 attempts a
// day in place of millions. Django's own limits count for each account beside.
const (
	usualBurst = 60
	usualEvery = 2 * time.Second
)

var post = []string{"POST"}

// usualLimits by the names of site.UsualLimits. The paths are those of the
// platform's openedx.core.djangoapps.user_authn and oauth_dispatch, old and
// new, and of Django's own administration. What browsers ask for by themselves,
// such as a fresh token or whether a name is still free, is not limited.
var usualLimits = map[string]usualLimit{
	"login": {usualBurst, usualEvery, post, []string{
		"/login_ajax", "/login_post", "/api/user/*/account/login_session/", "/user_api/*/account/login_session/", "/admin/login/",
	}},
	"registration": {usualBurst, usualEvery, post, []string{
		"/create_account", "/api/user/*/account/registration/", "/user_api/*/account/registration/",
	}},
	"password": {usualBurst, usualEvery, post, []string{
		"/account/password", "/password_reset/", "/password_reset_confirm/", "/password/reset/",
		"/api/user/*/account/password_reset/", "/user_api/*/account/password_reset/",
	}},
	"token": {usualBurst, usualEvery, post, []string{
		"/oauth2/access_token", "/oauth2/access_token/", "/oauth2/exchange_access_token/", "/oauth2/login/",
	}},
}

// limits are those of a host: the usual ones of LMS and Studio as the site file
// changes them, and its own.
func (m *model) limits(host string) []routes.RateLimit {
	var out []routes.RateLimit
	named := m.config.Proxy.Limits
	names := slices.Concat(site.UsualLimits(), slices.Sorted(maps.Keys(named)))
	seen := map[string]bool{}
	for _, name := range names {
		l := named[name]
		if seen[name] || l.Enabled != nil && !*l.Enabled {
			continue
		}
		seen[name] = true
		if usual, ok := usualLimits[name]; ok {
			if l.Host == "" && host != m.lmsHost && host != m.cmsHost {
				continue
			}
			l.Burst, l.Every = either(l.Burst, usual.burst), either(l.Every, usual.every)
			if len(l.Paths) == 0 {
				l.Paths = usual.paths
			}
			if len(l.Methods) == 0 {
				l.Methods = usual.methods
			}
		}
		if l.Host != "" && l.Host != host {
			continue
		}
		for _, path := range l.Paths {
			out = append(out, routes.RateLimit{Name: name, Path: path, Methods: l.Methods, Burst: l.Burst, Every: l.Every})
		}
	}
	return out
}

func either[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}
