package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"tarima/proxy/routes"
	"tarima/supervisor"
	"tarima/supervisor/openedx"
	"tarima/supervisor/site"
)

// doorSite is the least that a site file says.
const doorSite = `
[site]
name = "Bench"
contact = "admin@example.org"
host = "bench.localhost"
`

// countedRequests is more than any measurement asks in a moment.
const countedRequests = 100_000_000

// usualHost is the LMS's host as the shipped daemon describes it without a word
// in the site file, with its limits, blocked paths and body limits, before the
// benchmark's application; beside that a limit that counts every request, which
// no shipped one does, and the proxy's own files.
func usualHost(dir string) (routes.Host, error) {
	parsed, err := site.Parse("the benchmark's site file", []byte(doorSite))
	if err != nil {
		return routes.Host{}, err
	}
	plan, err := openedx.Build(openedx.Input{
		Config:  site.Defaults(parsed, site.Host{Memory: 8 << 30, Cores: 2}),
		Dirs:    openedx.Dirs{Config: dir, Data: dir}, // nothing is written
		Secrets: func(_ string, generate func() (string, error)) (string, error) { return generate() },
	})
	if err != nil {
		return routes.Host{}, fmt.Errorf("a site of the usual kind: %w", err)
	}
	at := slices.IndexFunc(plan.Desired.Routes, func(r supervisor.Route) bool { return r.Host == "bench.localhost" })
	if at < 0 || len(plan.Desired.Routes[at].Limits) == 0 {
		return routes.Host{}, errors.New("a site of the usual kind limits nobody: not everything is on")
	}
	r := plan.Desired.Routes[at]
	h := routes.Host{
		Name: "localhost", Site: "default", Service: "lms", Upstream: doorUpstream, State: routes.Ready, Compress: r.Compress,
		Limits: append(r.Limits, routes.RateLimit{Name: "bench", Burst: countedRequests, Every: time.Millisecond}),
		Rules:  []routes.Rule{{Path: "/static/", Root: "."}},
	}
	for _, rule := range r.Rules {
		if rule.Service == "" && rule.Address == "" && rule.Root == "" { // those of others are none here
			h.Rules = append(h.Rules, routes.Rule{Path: rule.Path, MaxBody: rule.MaxBody, Redirect: rule.Redirect, Status: rule.Status})
		}
	}
	return h, nil
}

// snapshot is what our proxy is told, and to be changed at will.
func (d *door) snapshot() routes.Snapshot {
	h := d.host
	h.Rules = slices.Clone(h.Rules)
	return routes.Snapshot{
		Schema: routes.Schema, Generation: uint64(time.Now().UnixMilli()), TLS: routes.TLS{Mode: "local"}, //nolint:gosec // after 1970
		Hosts: []routes.Host{h},
	}
}
