package openedx

import (
	"tarima/supervisor"
)

// Largest request bodies in bytes: what the parts behind them accept.
const (
	bodyLMS          = 4 << 20
	bodyProfileImage = 1 << 20
	bodyCMS          = 250 << 20
	bodyMFE          = 2 << 20
)

// routes are the public hosts.
func (m *model) routes() []supervisor.Route {
	favicon := supervisor.RouteRule{Path: "/favicon.ico", Rewrite: "/theming/asset/images/favicon.ico"}
	all := []supervisor.Route{
		{
			Host: m.lmsHost, Service: lms, Port: 8000, MaxBody: bodyLMS,
			Rules: []supervisor.RouteRule{
				favicon,
				{Path: "/api/profile_images/*/*/upload", MaxBody: bodyProfileImage},
			},
		},
		{
			Host: m.cmsHost, Service: cms, Port: 8000, MaxBody: bodyCMS,
			Rules: []supervisor.RouteRule{favicon},
		},
	}
	if m.on(mfe) {
		// The micro-frontends ask their own host for their configuration; the
		// LMS has it, and answers under its own name only.
		config := supervisor.RouteRule{
			Path: "/api/mfe_config/v1", MaxBody: bodyMFE, Service: lms, Port: 8000, HostHeader: m.lmsHost,
		}
		below := config
		below.Path += "/"
		all = append(all, supervisor.Route{
			Host: m.mfeHost, Service: mfe, Port: 8002, MaxBody: bodyMFE,
			Rules: []supervisor.RouteRule{{Path: "/", Redirect: m.lmsURL}, config, below},
		})
	}
	if m.on(search) {
		// Studio's search asks from the browser, with a key of few rights.
		all = append(all, supervisor.Route{Host: m.searchHost, Service: search, Port: 7700})
	}
	return all
}

// egress names the services that may reach the outside: log-in by other
// providers, content from elsewhere, mail.
func (m *model) egress() []string {
	out := []string{lms, cms, lmsWorker, cmsWorker}
	if m.on(smtp) {
		out = append(out, smtp)
	}
	return out
}
