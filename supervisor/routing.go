package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
)

const (
	putDeadline = 5 * time.Second
	putRetryCap = 30 * time.Second
	// routerPause bounds how often what the proxy tells wakes the loop: its
	// events come from a process that may be hostile.
	routerPause = 50 * time.Millisecond
	// generationMost refuses a generation from the proxy that would leave no
	// room to grow.
	generationMost = 1 << 62
)

// routerState is what is known of the proxy.
type routerState struct {
	up         bool // it took the last snapshot
	putting    bool
	put        *routes.Snapshot // the last one that it took, generation left out
	generation uint64           // of the last one that was sent
	failures   int
	retryAt    time.Time
}

// route sends the proxy a snapshot when it differs from the one that it has,
// and returns when to try again.
func (s *Supervisor) route(now time.Time) time.Time {
	if s.cfg.Router == nil || s.site == nil || s.router.putting {
		return time.Time{}
	}
	snapshot := s.snapshot()
	if s.router.put != nil && s.router.up && reflect.DeepEqual(*s.router.put, snapshot) {
		return time.Time{}
	}
	if now.Before(s.router.retryAt) {
		return s.router.retryAt
	}
	// Wall-clock milliseconds keep the number growing over restarts without a
	// record of it; should the clock have gone back, the proxy's answer tells.
	s.router.generation = max(s.router.generation+1, uint64(max(now.UnixMilli(), 1))) //nolint:gosec // not negative
	s.router.putting = true
	sent := snapshot
	sent.Generation = s.router.generation
	for name, d := range s.drains {
		if d.Put == 0 {
			d.Put = sent.Generation
			s.drains[name] = d
		}
	}
	s.begin("routes", Operation{Action: "route", Deadline: now.Add(putDeadline)}, false, func(ctx context.Context) func() {
		ack, err := s.cfg.Router.Put(ctx, sent)
		return func() {
			s.router.putting = false
			if s.ctx.Err() != nil {
				return
			}
			if err == nil && ack.Error != "" {
				err = fmt.Errorf("it refused the routes: %.200q", ack.Error)
				if ack.Generation >= s.router.generation && ack.Generation < generationMost {
					s.router.generation = ack.Generation // the next one is above it
				}
			}
			if err != nil {
				s.router.up = false
				s.router.failures++
				s.router.retryAt = time.Now().Add(min(retryWait(s.router.failures), putRetryCap))
				s.trouble("proxy", "proxy: "+err.Error())
				return
			}
			s.router.up, s.router.put, s.router.failures = true, &snapshot, 0
			s.trouble("proxy", "")
		}
	})
	return time.Time{}
}

// upstream is a service's fixed address, so it is known even while it does not
// run.
func (s *Supervisor) upstream(service string, port uint16) string {
	svc := s.site.services[service]
	addr := svc.Spec.Addresses.V4
	if !addr.IsValid() {
		addr = svc.Spec.Addresses.V6
	}
	if port == 0 && len(svc.Ports) > 0 {
		port = svc.Ports[0]
	}
	return netip.AddrPortFrom(addr, port).String()
}

// routeState says how the proxy is to treat requests for a service.
func (s *Supervisor) routeState(name string) routes.State {
	op, busy := s.inFlight[name]
	_, draining := s.drains[name]
	switch {
	case draining || busy && op.Action == ActionStop && op.Cause != CauseHealth:
		return routes.Draining
	case s.stopAll || s.intents[name].Stopped:
		return routes.Down
	}
	svc := s.site.services[name]
	if ok, _, _ := readiness(svc, s.observed[name], s.health[name]); ok && !(busy && op.Action == ActionStop) {
		return routes.Ready
	}
	if s.observed[name].State != container.Running && s.cfg.Policy.Failing(s.history[name]) {
		return routes.Down
	}
	return routes.Hold
}

// told is what the proxy's events add up to between two turns of the loop.
type told struct {
	drained map[string]uint64 // service -> greatest generation
	wanted  map[string]bool
	certs   map[string]string // host name -> detail
}

// readRouter takes in what the proxy tells. Every field is checked, what says
// nothing is dropped, and a flood is folded together.
func (s *Supervisor) readRouter(ctx context.Context) {
	for ctx.Err() == nil {
		round, cancel := context.WithCancel(ctx)
		s.readRouterRound(ctx, s.cfg.Router.Events(round))
		cancel()
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

func (s *Supervisor) readRouterRound(ctx context.Context, events <-chan routes.Event) {
	fresh := func() told {
		return told{drained: map[string]uint64{}, wanted: map[string]bool{}, certs: map[string]string{}}
	}
	collected, some := fresh(), false
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e, open := <-events:
			if !open {
				return
			}
			if !s.sensible(e) {
				continue
			}
			switch e.Kind {
			case routes.Drained:
				collected.drained[e.Service] = max(collected.drained[e.Service], e.Generation)
			case routes.Wanted:
				collected.wanted[e.Service] = true
			case routes.Certificate:
				collected.certs[e.Name] = e.Detail
			}
			if !some {
				some = true
				due = time.After(routerPause)
			}
		case <-due:
			s.routerTold(collected)
			collected, some, due = fresh(), false, nil
		}
	}
}

// sensible says whether an event speaks of this site and of something that it
// has.
func (s *Supervisor) sensible(e routes.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.site == nil || e.Site != "" && e.Site != s.cfg.Site {
		return false
	}
	switch e.Kind {
	case routes.Drained, routes.Wanted:
		return s.site.services[e.Service] != nil
	case routes.Certificate:
		for _, r := range s.site.Routes {
			if strings.EqualFold(r.Host, e.Name) {
				return true
			}
		}
	}
	return false
}

func (s *Supervisor) routerTold(t told) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, generation := range t.drained {
		// Only a snapshot that said "draining" can have been obeyed. A proxy
		// that lies harms its own visitors alone.
		if d, ok := s.drains[name]; ok && d.Put != 0 && (generation == 0 || generation >= d.Put) {
			d.Done = true
			s.drains[name] = d
		}
	}
	for name := range t.wanted {
		if svc := s.site.services[name]; svc != nil && svc.OnDemand {
			s.wanted[name] = true
		}
	}
	for host, detail := range t.certs {
		if s.certs[host] != detail {
			_, known := s.certs[host]
			s.certs[host] = detail
			if !known && detail == routes.CertificateValid {
				continue // as it was before this daemon began: no news
			}
			kind := record.Certificate
			if strings.HasPrefix(detail, "failed") {
				kind = record.Trouble
			}
			s.tell(kind, "", fmt.Sprintf("proxy: the certificate of %.100q: %.200q", host, detail), time.Now())
		}
	}
	s.wake()
}
