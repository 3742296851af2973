package supervisor

import (
	"context"
	"slices"
	"time"

	"tarima/runtime/container"
)

// prober asks one running container its questions, one after the other.
type prober struct {
	instance string // which container, and which questions
	cancel   context.CancelFunc
}

// probeRamp is the wait after the first question of a container that is not
// ready yet; it doubles up to the probe's interval, so that a quick service is
// ready quickly and a slow one is not pestered.
const probeRamp = 250 * time.Millisecond

// followProber lets a prober run exactly while its container does.
func (s *Supervisor) followProber(name string, svc *Service, st container.Status, now time.Time) {
	p := svc.Probes
	if st.State != container.Running || p.Startup == nil && p.Readiness == nil && p.Liveness == nil {
		s.dropProber(name)
		return
	}
	instance := hashOf([]any{st.ID, st.PID, st.Started, svc.Probes, svc.Spec.Addresses})
	if old := s.probers[name]; old != nil {
		if old.instance == instance {
			return
		}
		s.dropProber(name)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.probers[name] = &prober{instance: instance, cancel: cancel}
	t := target{ID: svc.Spec.ID(), Addr: svc.Spec.Addresses.V4, exec: s.cfg.Engine.Exec}
	if !t.Addr.IsValid() {
		t.Addr = svc.Spec.Addresses.V6
	}
	h := s.health[name]
	s.ops.Go(func() { s.probe(ctx, name, instance, p, t, started(svc, h)) })
}

func (s *Supervisor) dropProber(name string) {
	if p := s.probers[name]; p != nil {
		p.cancel()
		delete(s.probers, name)
	}
}

// probe asks until ctx ends.
func (s *Supervisor) probe(ctx context.Context, name, instance string, probes Probes, t target, started bool) {
	if probes.Startup != nil && !started {
		for wait := probeRamp; ; wait = min(2*wait, orDefault(probes.Startup.Interval, defaultInterval)) {
			a := s.ask(ctx, probes.Startup, t)
			if ctx.Err() != nil {
				return
			}
			s.answered(name, instance, func(h *Health, now time.Time) { h.Startup = h.Startup.next(a.OK, now, a.Why) })
			if a.OK {
				break
			}
			if !sleep(ctx, wait) {
				return
			}
		}
	}
	readyAt, liveAt := time.Now(), time.Now().Add(phase(name, "live", probes.Liveness))
	ramp, settled := probeRamp, false
	shared := sameQuestion(probes.Readiness, probes.Liveness)
	for {
		now := time.Now()
		if p := probes.Readiness; p != nil && !now.Before(readyAt) {
			a := s.ask(ctx, p, t)
			if ctx.Err() != nil {
				return
			}
			s.answered(name, instance, func(h *Health, now time.Time) {
				h.Readiness = h.Readiness.next(a.OK, now, a.Why)
				if shared {
					h.Liveness = h.Liveness.next(a.Alive, now, a.Why)
				}
			})
			if shared { // one answer for both
				liveAt = time.Now().Add(pace(probes.Liveness, a.Alive))
			}
			interval := orDefault(p.Interval, defaultInterval)
			switch {
			case settled:
				readyAt = time.Now().Add(pace(p, a.OK))
			case a.OK:
				// From here on each service has a phase of its own, or all of
				// them would be asked at the same moment after a boot.
				settled = true
				readyAt = time.Now().Add(phase(name, "ready", p))
			default:
				readyAt = time.Now().Add(min(ramp, interval))
				ramp = min(2*ramp, interval)
			}
		}
		if p := probes.Liveness; p != nil && !time.Now().Before(liveAt) {
			a := s.ask(ctx, p, t)
			if ctx.Err() != nil {
				return
			}
			s.answered(name, instance, func(h *Health, now time.Time) { h.Liveness = h.Liveness.next(a.Alive, now, a.Why) })
			liveAt = time.Now().Add(pace(p, a.Alive))
		}
		next := time.Time{}
		if probes.Readiness != nil {
			next = readyAt
		}
		if probes.Liveness != nil {
			next = soonest(next, liveAt)
		}
		if next.IsZero() {
			return // only a startup probe, and it has passed
		}
		if !sleep(ctx, time.Until(next)) {
			return
		}
	}
}

// pace is the wait before the next question. A failure is looked at more
// closely, so that neither a blip nor an end goes long unnoticed.
func pace(p *Probe, passed bool) time.Duration {
	interval := orDefault(p.Interval, defaultInterval)
	if passed {
		return interval
	}
	return min(interval, max(interval/4, time.Second))
}

// sameQuestion says whether one answer serves both probes.
func sameQuestion(a, b *Probe) bool {
	return a != nil && b != nil && a.Kind == b.Kind && a.Port == b.Port && a.Path == b.Path && a.Host == b.Host &&
		slices.Equal(a.Exec, b.Exec) && a.PasswordFile == b.PasswordFile && a.Timeout == b.Timeout
}

// phase spreads the questions of all services over the interval: between a
// half and the whole of it.
func phase(name, kind string, p *Probe) time.Duration {
	if p == nil {
		return 0
	}
	interval := orDefault(p.Interval, defaultInterval)
	return interval/2 + time.Duration(hashShare(name, kind)*float64(interval/2))
}

// answered folds an answer into the container's health, and wakes the loop
// when that changed something.
func (s *Supervisor) answered(name, instance string, fold func(*Health, time.Time)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.probers[name]; p == nil || p.instance != instance {
		return // of a container that is gone
	}
	before := s.health[name]
	h := before
	fold(&h, time.Now())
	s.health[name] = h
	if h != before {
		s.wake()
	}
}

// sleep waits, and says whether ctx still stands.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
