package supervisor

import (
	"strings"

	"tarima/proxy/routes"
	"tarima/runtime/container"
)

// snapshot is what the proxy is to know now, its generation left out.
func (s *Supervisor) snapshot() routes.Snapshot {
	out := routes.Snapshot{Schema: routes.Schema, TLS: s.site.TLS, Page: s.site.Page, Trusted: s.site.Trusted}
	for _, r := range s.site.Routes {
		out.Hosts = append(out.Hosts, s.hostRoute(r))
	}
	return out
}

func (s *Supervisor) hostRoute(r Route) routes.Host {
	h := routes.Host{
		Name: strings.ToLower(r.Host), Site: s.cfg.Site, Service: r.Service,
		MaxBody: r.MaxBody, Redirect: r.Redirect, State: routes.Ready,
		HSTS: r.HSTS, Headers: r.Headers, Auth: r.Auth, Closed: r.Closed, Limits: r.Limits, Maintenance: s.closed(r),
		Proof: r.Proof, Compress: r.Compress, ServerTiming: r.ServerTiming,
	}
	switch {
	case r.Service != "":
		h.State = s.routeState(r.Service)
		if s.observed[r.Service].State == container.Running {
			h.Upstream = s.upstream(r.Service, r.Port)
		}
	case len(r.Addresses) > 0:
		// No service has a name with a dot in it.
		h.Service, h.Upstream, h.Upstreams = "app."+r.Name, r.Addresses[0], r.Addresses[1:]
	}
	for _, rule := range r.Rules {
		h.Rules = append(h.Rules, s.ruleRoute(rule))
	}
	return h
}

func (s *Supervisor) ruleRoute(r RouteRule) routes.Rule {
	to := routes.Rule{
		Path: r.Path, MaxBody: r.MaxBody, Rewrite: r.Rewrite,
		Redirect: r.Redirect, Host: r.HostHeader, Root: r.Root, SPA: r.SPA,
		Upstream: r.Address, Status: r.Status, Headers: r.Headers, Stream: r.Stream,
	}
	if r.Service != "" {
		to.Service = r.Service // so that its requests are drained with it
		to.Upstream = s.upstream(r.Service, r.Port)
		to.State = s.routeState(r.Service)
	}
	return to
}
