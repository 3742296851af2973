package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"tarima/store/record"
)

// Apply makes d what the site is to be: it is checked, committed to the store
// in one transaction together with the site file that it comes from, and
// given to the loop. An error leaves everything as it was.
func (s *Supervisor) Apply(ctx context.Context, d Desired, a record.Applied) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if d.Site == "" {
		d.Site = s.cfg.Site
	}
	if d.Site != s.cfg.Site {
		return fmt.Errorf("%w: it is of the site %q, and this supervisor keeps %q", ErrInvalid, d.Site, s.cfg.Site)
	}
	d.Generation = a.Generation
	resolvers := s.lookUpResolvers()
	p, err := prepare(d, s.cfg.Prefix4, s.cfg.Prefix6, func(name string) (record.Address, error) {
		return s.cfg.Store.Address(s.cfg.Site, name, s.cfg.Prefix4, s.cfg.Prefix6)
	})
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	p.Topology.Resolvers = resolvers
	pasts := map[string]past{}
	for name := range p.services {
		if s.hasPast(name) {
			continue
		}
		if pasts[name], err = readPast(s.cfg.Store, s.cfg.Site, name, s.cfg.Policy); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	before, had, err := s.cfg.Store.Applied(s.cfg.Site)
	if err != nil {
		return fmt.Errorf("apply: read what was applied before: %w", err)
	}
	if err := s.cfg.Store.SetApplied(s.cfg.Site, a); err != nil {
		return fmt.Errorf("apply: commit generation %d: %w", a.Generation, err)
	}
	if !had || before.Generation != a.Generation {
		s.tell(record.AppliedEvent, "", fmt.Sprintf("generation %d of the site file, release %s", a.Generation, a.Release), time.Now())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepPasts(pasts)
	s.take(p, a)
	s.publish(time.Now()) // whoever waits for the site to be ready waits for this one
	s.wake()
	return nil
}

// take gives the loop a new desired state.
func (s *Supervisor) take(p *Prepared, a record.Applied) {
	old := s.site
	s.site, s.applied = p, a
	if old == nil || hashOf(old.Topology) != hashOf(p.Topology) {
		s.network.Ready, s.network.RetryAt = false, time.Time{}
	}
	s.wasReady = false
	for name, svc := range p.services {
		if old != nil && old.services[name] != nil && old.services[name].Hash == svc.Hash {
			continue
		}
		if old != nil { // a new specification is a new chance
			s.history[name] = s.history[name].forgive()
		}
		delete(s.retry, name)
		delete(s.failures, name)
	}
	for name := range p.jobs {
		delete(s.retry, name)
		delete(s.failures, name)
	}
	for ref, image := range s.images { // a new site file may be why the registry answers now
		image.RetryAt = time.Time{}
		s.images[ref] = image
	}
}

// prepareDry completes a desired state without giving anything a new place in
// the store.
func (s *Supervisor) prepareDry(d Desired) (*Prepared, error) {
	s.mu.Lock()
	site := s.site
	s.mu.Unlock()
	d.Site = s.cfg.Site
	next := 0
	return prepare(d, s.cfg.Prefix4, s.cfg.Prefix6, func(name string) (record.Address, error) {
		if site != nil {
			if svc := site.services[name]; svc != nil {
				return record.Address{Service: name, V4: svc.Spec.Addresses.V4, V6: svc.Spec.Addresses.V6, IDBase: svc.Spec.IDBase}, nil
			}
			if j := site.jobs[name]; j != nil {
				return record.Address{Service: name, V4: j.Spec.Addresses.V4, V6: j.Spec.Addresses.V6, IDBase: j.Spec.IDBase}, nil
			}
		}
		next++ // never used for anything but the comparison of hashes
		return record.Address{Service: name, V4: netip.AddrFrom4([4]byte{0, 0, byte(next >> 8), byte(next)})}, nil
	})
}
