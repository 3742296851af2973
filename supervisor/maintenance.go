package supervisor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarima/proxy/routes"
	"tarima/store/record"
)

// Maintain keeps which public hosts are closed, and has the proxy told of it.
// It returns when the wish is kept. Hosts must be among those of the site:
// ErrUnknown.
func (s *Supervisor) Maintain(ctx context.Context, m record.Maintenance) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("request for maintenance: %w", err)
	}
	s.mu.Lock()
	site, ended, before := s.site, s.ended, s.maintenance
	s.mu.Unlock()
	switch {
	case ended:
		return ErrNotRunning
	case site == nil:
		return ErrNotApplied
	}
	known := site.served()
	for _, h := range m.Hosts {
		if !slices.Contains(known, h) {
			return fmt.Errorf("%w: %q (the site has: %s)", ErrUnknown, h, strings.Join(known, ", "))
		}
	}
	if err := s.cfg.Store.SetMaintenance(s.cfg.Site, m); err != nil {
		return fmt.Errorf("keep the request for maintenance: %w", err)
	}
	s.mu.Lock()
	s.maintenance, s.maintained = m, true
	s.publish(time.Now())
	s.mu.Unlock()
	if m.On() {
		what := "every host"
		if !m.All {
			what = strings.Join(m.Hosts, ", ")
		}
		s.tell(record.Closed, "", "closed for maintenance: "+what, time.Now())
	} else if before.On() {
		s.tell(record.Opened, "", "maintenance is over", time.Now())
	}
	s.wake()
	return nil
}

// Maintenance is what is closed now. Its Pass is a secret.
func (s *Supervisor) Maintenance() record.Maintenance {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.maintenance
	m.Hosts = slices.Clone(m.Hosts)
	return m
}

// ServedHosts are the site's public hosts that answer themselves; none while
// there is no site.
func (s *Supervisor) ServedHosts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.site == nil {
		return nil
	}
	return s.site.served()
}

// served are the hosts that answer themselves.
func (p *Prepared) served() []string {
	var hosts []string
	for _, r := range p.Routes {
		if r.Redirect == "" {
			hosts = append(hosts, r.Host)
		}
	}
	return hosts
}

// closed is what the proxy is to know of a host's maintenance; nil: it is open.
func (s *Supervisor) closed(r Route) *routes.Maintenance {
	if r.Redirect != "" || !s.maintenance.Closed(r.Host) {
		return nil
	}
	return &routes.Maintenance{Until: s.maintenance.Until, Pass: routes.Secret(s.maintenance.Pass), Networks: s.site.Insiders}
}

// maintenanceStatus is for people; nil: nothing is closed.
func (s *Supervisor) maintenanceStatus() *MaintenanceStatus {
	m := s.maintenance
	if !m.On() || s.site == nil {
		return nil
	}
	out := &MaintenanceStatus{Since: m.Since, Until: m.Until}
	for _, h := range s.site.served() {
		if m.Closed(h) {
			out.Hosts = append(out.Hosts, h)
		}
	}
	if len(out.Hosts) == 0 {
		return nil // the site file has no such host any more
	}
	return out
}
