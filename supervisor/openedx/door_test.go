package openedx

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarima/proxy/routes"
	"tarima/supervisor"
	"tarima/supervisor/site"
)

func routeOf(t *testing.T, p Plan, host string) supervisor.Route {
	t.Helper()
	i := slices.IndexFunc(p.Desired.Routes, func(r supervisor.Route) bool { return r.Host == host })
	if i < 0 {
		t.Fatalf("no route of %s", host)
	}
	return p.Desired.Routes[i]
}

// TestUsualDoor: what every site has without a word of it in its file.
func TestUsualDoor(t *testing.T) {
	p := mustBuild(t, testInput(t, nil))
	for _, host := range []string{"learn.example.org", "studio.learn.example.org", "apps.learn.example.org", "meilisearch.learn.example.org"} {
		r := routeOf(t, p, host)
		if !r.Compress || r.HSTS != 0 || r.Closed || r.Proof || r.ServerTiming || r.Auth != nil || r.Headers != nil {
			t.Errorf("%s: %+v", host, r)
		}
		blocked := 0
		for _, rule := range r.Rules {
			if rule.Status == 404 {
				blocked++
			}
		}
		if blocked < 20 {
			t.Errorf("%s: %d blocked paths", host, blocked)
		}
		names := map[string]bool{}
		for _, l := range r.Limits {
			names[l.Name] = true
			if l.Burst != 60 || l.Every != 2*time.Second || !slices.Equal(l.Methods, []string{"POST"}) {
				t.Errorf("%s: limit %+v", host, l)
			}
		}
		if want := strings.HasPrefix(host, "learn.") || strings.HasPrefix(host, "studio."); want != (len(names) == len(site.UsualLimits())) || !want && len(names) > 0 {
			t.Errorf("%s: limits %v", host, names)
		}
	}
	for _, path := range []string{
		"/login_ajax", "/api/user/*/account/login_session/", "/api/user/*/account/registration/", "/account/password",
		"/password_reset/", "/api/user/*/account/password_reset/", "/oauth2/access_token", "/oauth2/access_token/",
	} {
		if !slices.ContainsFunc(routeOf(t, p, "learn.example.org").Limits, func(l routes.RateLimit) bool { return l.Path == path }) {
			t.Errorf("%s is not limited", path)
		}
	}
	// Every usual limit has its paths, and no other name has any.
	for _, name := range site.UsualLimits() {
		if len(usualLimits[name].paths) == 0 {
			t.Errorf("limit %s has no paths", name)
		}
	}
	if len(usualLimits) != len(site.UsualLimits()) {
		t.Error("a limit that the site file does not know")
	}
}

// TestDoorOfTheSiteFile: what the file says reaches the routes.
func TestDoorOfTheSiteFile(t *testing.T) {
	in := testInput(t, func(c *site.Config) {
		c.Proxy.TLS, c.Proxy.HTTPS = site.TLSACME, ":8443"
		c.Proxy.HSTS, c.Proxy.Closed, c.Proxy.Proof, c.Proxy.ServerTiming, c.Proxy.Compress = time.Hour, true, true, true, new(false)
		c.Proxy.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Proxy.Maintenance.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		c.Proxy.ACME = site.ACME{
			Directory: "https://a.test/d", KeyID: "id", KeyFile: "/k", Wildcards: []string{"*.learn.example.org"},
			Fallback: []site.Authority{{Directory: "https://b.test/d"}, {Directory: "https://c.test/d", KeyID: "id3", KeyFile: "/k3"}},
		}
		c.Proxy.DNS = site.DNS{Provider: "rfc2136", SettingsFile: "/d"}
		c.Proxy.Redirects = map[string]string{"www.example.org": "learn.example.org", "old.example.org": "https://other.example.net/"}
		c.Proxy.Auth = map[string]site.Auth{"studio.learn.example.org": {Users: "/u", Realm: "Autores"}}
		c.Proxy.Headers = map[string]map[string]string{"learn.example.org": {"X-A": "b"}}
		c.Proxy.Block = site.Block{Paths: []string{"/old/"}, Usual: new(false)}
		c.Proxy.Limits = map[string]site.Limit{
			"login":    {Burst: 5},
			"password": {Enabled: new(false)},
			"token":    {Host: "blog.example.org", Paths: []string{"/t"}, Methods: []string{"GET"}},
			"search":   {Paths: []string{"/s/"}, Burst: 2, Every: time.Second},
		}
		c.Proxy.Apps = map[string]site.App{
			"blog":  {Host: "blog.example.org", Address: []string{"10.0.0.5:80", "10.0.0.6:80"}, MaxBody: site.MB, HostHeader: "b.internal.test"},
			"media": {Host: "blog.example.org", Paths: []string{"/media/", "/media/live/"}, Address: []string{"10.0.0.7:80"}, Stream: true, Rewrite: "/"},
			"notes": {Host: "learn.example.org", Paths: []string{"/notes/"}, Service: "cms"},
			"parts": {Host: "parts.example.org", Paths: []string{"/x"}, Service: "lms"},
		}
	})
	in.Door = DoorSecrets{
		ACMEKey: "key", FallbackKeys: []string{"", "key3"}, DNS: map[string]string{"server": "s"},
		Users: map[string]map[string]string{"studio.learn.example.org": {"ana": "hash"}},
	}
	p := mustBuild(t, in)
	tls := routes.TLS{
		Mode: "acme", Email: in.Config.Proxy.Email, Directory: "https://a.test/d", Account: &routes.ExternalAccount{KeyID: "id", Key: "key"},
		Fallback:  []routes.Authority{{Directory: "https://b.test/d"}, {Directory: "https://c.test/d", Account: &routes.ExternalAccount{KeyID: "id3", Key: "key3"}}},
		DNS:       &routes.DNSProvider{Name: "rfc2136", Settings: map[string]routes.Secret{"server": "s"}},
		Wildcards: []string{"*.learn.example.org"},
	}
	if diff := cmp.Diff(tls, p.Desired.TLS); diff != "" {
		t.Errorf("TLS (-want +got):\n%s", diff)
	}
	if len(p.Desired.Trusted) != 1 || len(p.Desired.Insiders) != 1 {
		t.Errorf("networks: %v %v", p.Desired.Trusted, p.Desired.Insiders)
	}
	learn := routeOf(t, p, "learn.example.org")
	if learn.HSTS != 3600 || !learn.Closed || !learn.Proof || !learn.ServerTiming || learn.Compress || learn.Headers["X-A"] != "b" || learn.Auth != nil {
		t.Errorf("LMS: %+v", learn)
	}
	first := []supervisor.RouteRule{{Path: "/old/", Status: 404}, {Path: "/notes/", Service: "cms"}, {Path: "/favicon.ico", Rewrite: "/theming/asset/images/favicon.ico"}}
	if diff := cmp.Diff(first, learn.Rules[:3]); diff != "" {
		t.Errorf("rules of the LMS (-want +got):\n%s", diff)
	}
	count := map[string]int{}
	for _, l := range learn.Limits {
		count[l.Name]++
		if l.Name == "login" && (l.Burst != 5 || l.Every != 2*time.Second) {
			t.Errorf("login: %+v", l)
		}
	}
	if count["login"] == 0 || count["registration"] == 0 || count["password"]+count["token"] != 0 || count["search"] != 1 {
		t.Errorf("limits of the LMS: %v", count)
	}
	studio := routeOf(t, p, "studio.learn.example.org")
	if diff := cmp.Diff(&routes.Auth{Realm: "Autores", Users: map[string]routes.Secret{"ana": "hash"}}, studio.Auth); diff != "" {
		t.Errorf("authentication (-want +got):\n%s", diff)
	}
	blog := routeOf(t, p, "blog.example.org")
	limits := []routes.RateLimit{
		{Name: "token", Path: "/t", Methods: []string{"GET"}, Burst: 60, Every: 2 * time.Second},
		{Name: "search", Path: "/s/", Burst: 2, Every: time.Second},
	}
	want := supervisor.Route{
		Host: "blog.example.org", Name: "blog", Addresses: []string{"10.0.0.5:80", "10.0.0.6:80"}, MaxBody: 1_000_000,
		HSTS: 3600, Closed: true, Proof: true, ServerTiming: true, Limits: limits,
		Rules: []supervisor.RouteRule{
			{Path: "/media/live/", Address: "10.0.0.7:80", Stream: true, Rewrite: "/"},
			{Path: "/media/", Address: "10.0.0.7:80", Stream: true, Rewrite: "/"},
			{HostHeader: "b.internal.test", MaxBody: 1_000_000},
		},
	}
	if diff := cmp.Diff(want, blog); diff != "" {
		t.Errorf("application (-want +got):\n%s", diff)
	}
	// Of a host of which only a path is somebody's, the rest is nobody's.
	parts := routeOf(t, p, "parts.example.org")
	if diff := cmp.Diff([]supervisor.RouteRule{{Path: "/x", Service: "lms"}, {Status: 404}}, parts.Rules); diff != "" || parts.Service != "lms" {
		t.Errorf("parts: %+v\n%s", parts, diff)
	}
	for host, to := range map[string]string{"www.example.org": "https://learn.example.org:8443", "old.example.org": "https://other.example.net/"} {
		if r := routeOf(t, p, host); r.Redirect != to || len(r.Rules) > 0 || r.Service != "" {
			t.Errorf("%s: %+v", host, r)
		}
	}
	var hosts []string
	for _, r := range p.Desired.Routes {
		hosts = append(hosts, r.Host)
	}
	if diff := cmp.Diff(in.Config.Hosts(), hosts); diff != "" {
		t.Errorf("hosts of the site file and routes differ: %s", diff)
	}
}

// TestBehindAWebServer: URLs have the usual port, and nobody is certified.
func TestBehindAWebServer(t *testing.T) {
	p := mustBuild(t, testInput(t, func(c *site.Config) {
		c.Proxy.TLS = site.TLSNone
		c.Proxy.Redirects = map[string]string{"www.example.org": "learn.example.org"}
	}))
	if p.Desired.TLS.Mode != "none" || len(p.Desired.Trusted) != 2 {
		t.Errorf("%+v, trusted %v", p.Desired.TLS, p.Desired.Trusted)
	}
	if to := routeOf(t, p, "www.example.org").Redirect; to != "https://learn.example.org" {
		t.Errorf("sent on to %s", to)
	}
}
