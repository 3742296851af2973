package supervisor

import (
	"fmt"
	"strings"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// settle brings the loop's own memory in line with what is observed and
// desired: containers are taken over, probers follow them, and changes of
// readiness become events.
func (s *Supervisor) settle(now time.Time) {
	if s.site == nil {
		return
	}
	for name, svc := range s.site.services {
		st, seen := s.observed[name]
		if _, busy := s.inFlight[name]; !busy {
			if seen && !s.own[name] {
				s.takeOver(name, svc, st, now)
			}
			if seen && st.State == container.Running {
				s.wanted[name] = true // an on-demand service that runs was asked for
			}
		}
		s.followProber(name, svc, st, now)
		s.tellReadiness(name, svc, st, now)
		h := s.history[name]
		if st.State == container.Running && h.Failures > 0 && !h.StartedAt.IsZero() && now.Sub(h.StartedAt) >= s.cfg.Policy.Quiet {
			s.history[name] = h.forgive()
			if s.cfg.Policy.Failing(h) {
				s.tell(record.Recovered, name, fmt.Sprintf("has run for %s after %d ends in a row", s.cfg.Policy.Quiet, h.Failures), now)
			}
		}
	}
	for name := range s.site.jobs {
		if st, seen := s.observed[name]; seen && !s.own[name] {
			s.own[name] = true
			if st.State == container.Running {
				s.tell(record.Adopted, name, "the job still runs and is taken over", now)
			}
		}
	}
	for name := range s.probers {
		if s.site.services[name] == nil {
			s.dropProber(name)
		}
	}
	window := now.Add(-s.cfg.Policy.HealthWindow)
	for len(s.healthRestarts) > 0 && !s.healthRestarts[0].After(window) {
		s.healthRestarts = s.healthRestarts[1:]
	}
}

// takeOver looks at a container that this daemon did not start.
func (s *Supervisor) takeOver(name string, svc *Service, st container.Status, now time.Time) {
	s.own[name] = true
	p := s.past[name]
	asDesired := st.Labels[container.LabelHash] == svc.Hash
	if asDesired {
		// It could be started, so its image is here.
		image := s.images[svc.Spec.Image]
		image.Present = true
		if image.Digest == "" {
			if _, digest, ok := strings.Cut(st.Image, "@"); ok {
				image.Digest = digest
			}
		}
		s.images[svc.Spec.Image] = image
	}
	if st.State == container.Running {
		h := s.history[name]
		h.StartedAt, h.Crashed = st.Started, false
		s.history[name] = h
		s.health[name] = Health{Presumed: p.ready, WasReady: p.ready}
		if p.ready {
			s.ready[name] = true // it was told before: no event for nothing new
		}
		s.tell(record.Adopted, name, fmt.Sprintf("runs since %s (process %d) and is taken over", st.Started.UTC().Format(time.RFC3339), st.PID), now)
		return
	}
	exit := st.Exit
	switch {
	case exit == nil || exit.Unknown:
		code := -1
		s.journal.add(entry{event: record.Event{At: now, Kind: record.Stopped, Service: name, ExitCode: &code, Reason: exitReason(nil, svc.Spec.Limits).String()}})
		s.history[name] = s.history[name].forgive()
	case !exit.At.After(p.lastEnd):
		// Already written down by the daemon that saw it.
	case s.intents[name].Stopped || s.stopAll || !asDesired:
		code := exit.Code
		s.journal.add(entry{event: record.Event{At: exit.At, Kind: record.Stopped, Service: name, ExitCode: &code, Reason: "it had been asked to stop"}})
	default:
		s.failed(svc, *exit, because("unseen").behind(exitReason(exit, svc.Spec.Limits)))
	}
}

// tellReadiness journals when a service becomes ready or stops being so.
func (s *Supervisor) tellReadiness(name string, svc *Service, st container.Status, now time.Time) {
	h := s.health[name]
	ok, _, why := readiness(svc, st, h)
	if ok && !h.WasReady {
		h.WasReady = true
		s.health[name] = h
	}
	if ok == s.ready[name] {
		return
	}
	s.ready[name] = ok
	switch {
	case ok:
		s.tell(record.ProbePassed, name, "ready", now)
	case st.State == container.Running && h.WasReady:
		s.tell(record.ProbeFailed, name, why.String(), now)
	}
}

// tellSuppressed journals a restart that is held back, once per reason.
func (s *Supervisor) tellSuppressed(now time.Time) {
	for name, held := range s.decision.Suppressed {
		why := held.String()
		if _, told := s.suppressed[name]; !told {
			s.tell(record.Suppressed, name, why, now)
		}
		s.suppressed[name] = why
	}
	for name := range s.suppressed {
		if _, still := s.decision.Suppressed[name]; !still {
			delete(s.suppressed, name)
		}
	}
}
