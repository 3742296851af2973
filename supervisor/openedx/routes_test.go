package openedx

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarima/supervisor"
	"tarima/supervisor/site"
)

// TestRoutes: the public hosts, their limits and special paths.
func TestRoutes(t *testing.T) {
	plan := mustBuild(t, testInput(t, nil))
	favicon := supervisor.RouteRule{Path: "/favicon.ico", Rewrite: "/theming/asset/images/favicon.ico"}
	want := []supervisor.Route{
		{
			Host: "learn.example.org", Service: "lms", Port: 8000, MaxBody: 4 << 20,
			Rules: []supervisor.RouteRule{favicon, {Path: "/api/profile_images/*/*/upload", MaxBody: 1 << 20}},
		},
		{Host: "studio.learn.example.org", Service: "cms", Port: 8000, MaxBody: 250 << 20, Rules: []supervisor.RouteRule{favicon}},
		{
			Host: "apps.learn.example.org", Service: "mfe", Port: 8002, MaxBody: 2 << 20,
			Rules: []supervisor.RouteRule{
				{Path: "/", Redirect: "https://learn.example.org"},
				{Path: "/api/mfe_config/v1", MaxBody: 2 << 20, Service: "lms", Port: 8000, HostHeader: "learn.example.org"},
				{Path: "/api/mfe_config/v1/", MaxBody: 2 << 20, Service: "lms", Port: 8000, HostHeader: "learn.example.org"},
			},
		},
		{Host: "meilisearch.learn.example.org", Service: "meilisearch", Port: 7700},
	}
	if diff := cmp.Diff(want, plainRoutes(plan.Desired.Routes)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"lms", "cms", "lms-worker", "cms-worker", "smtp"}, plan.Desired.Egress); diff != "" {
		t.Errorf("who may reach the outside: %s", diff)
	}
	if plan.Desired.TLS.Mode != "local" || plan.Desired.Page.SiteName != "Escuela de Música" || plan.Desired.Page.Language != "es-419" {
		t.Errorf("%+v %+v", plan.Desired.TLS, plan.Desired.Page)
	}

	// Without a service its host is gone, and nothing points there.
	c := testInput(t, func(c *site.Config) {
		c.Services = map[string]site.Service{"mfe": {Enabled: new(false)}, "meilisearch": {Enabled: new(false)}}
	})
	plan = mustBuild(t, c)
	if len(plan.Desired.Routes) != 2 {
		t.Errorf("routes: %+v", plan.Desired.Routes)
	}
	var hosts []string
	for _, r := range plan.Desired.Routes {
		hosts = append(hosts, r.Host)
	}
	if diff := cmp.Diff(c.Config.Hosts(), hosts); diff != "" {
		t.Errorf("hosts of the site file and routes differ: %s", diff)
	}
}

// plainRoutes leaves out what every site has beside the rules of its parts.
func plainRoutes(all []supervisor.Route) []supervisor.Route {
	out := slices.Clone(all)
	for i := range out {
		r := &out[i]
		r.Compress, r.Limits = false, nil
		r.Rules = slices.DeleteFunc(slices.Clone(r.Rules), func(rule supervisor.RouteRule) bool { return rule.Status != 0 })
		if len(r.Rules) == 0 {
			r.Rules = nil
		}
	}
	return out
}
