package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// stop ends a container with its own signal and patience.
func (s *Supervisor) stop(step Step, now time.Time) {
	name := step.Name
	signal, patience := s.stopWords(name)
	id := container.ID(s.cfg.Site, name)
	// A job that is stopped for another's sake has no result: its container
	// goes, and the record that it runs makes the next plan begin it again.
	site := s.desired()
	interrupted := site.jobs[name] != nil && step.Cause != CauseTimeout
	if step.Cause == CauseHealth {
		s.healthRestarts = append(s.healthRestarts, now)
		if !site.services[name].Database {
			patience = min(patience, hungPatience)
		}
		h := s.history[name]
		h.HealthAt = now
		s.history[name] = h
	}
	s.begin(name, Operation{Action: ActionStop, Cause: step.Cause, Deadline: now.Add(patience + stopMargin)}, true, func(ctx context.Context) func() {
		err := s.cfg.Engine.Stop(ctx, id, signal, patience)
		var gone error
		if err == nil && interrupted {
			gone = s.discard(ctx, id, name)
		}
		return func() {
			if s.ctx.Err() != nil {
				return // the daemon ends; the next one looks for itself
			}
			if err != nil && s.observed[name].State == container.Running {
				s.ran(name, err, "it cannot be stopped")
				return
			}
			s.ran(name, gone, "what is left of the job cannot be removed")
			s.stopped(step)
			if interrupted && gone == nil {
				s.forget(name)
			}
		}
	})
}

// stopWords are the signal and the patience with which name wants to be
// stopped. What is no part of the site any more says so in a label.
func (s *Supervisor) stopWords(name string) (signal string, patience time.Duration) {
	var spec container.Spec
	if svc := s.desired().services[name]; svc != nil {
		spec = svc.Spec
	} else if j := s.desired().jobs[name]; j != nil {
		spec = j.Spec
	} else if json.Unmarshal([]byte(s.observed[name].Labels[container.LabelSpec]), &spec) != nil {
		spec = container.Spec{} // not of ours: the engine's own words, the usual patience
	}
	return spec.StopSignal, min(orDefault(spec.StopTimeout, defaultPatience), mostPatience)
}

// stopped takes in that a container has been stopped as the step asked.
func (s *Supervisor) stopped(step Step) {
	name, now := step.Name, time.Now()
	st := s.observed[name]
	if st.State == container.Running { // its exit event has not come yet
		st.State, st.PID, st.Exit = container.Exited, 0, nil
	}
	s.see(name, st)
	s.dropProber(name)
	delete(s.drains, name)
	var code *int
	if st.Exit != nil && !st.Exit.Unknown {
		code = &st.Exit.Code
	}
	switch {
	case s.site != nil && s.site.jobs[name] != nil && step.Cause == CauseTimeout:
		if st.Exit == nil {
			st.Exit = &container.Exit{Code: -1, At: now}
			s.see(name, st)
		}
		s.late[name] = true
	case step.Cause == CauseHealth:
		h := s.history[name]
		h.ExitCode = code
		s.history[name] = h
		s.countFailure(name, now, step.why)
		s.journal.add(entry{
			event:  record.Event{At: now, Kind: record.ExitedEvent, Service: name, ExitCode: code, Reason: "stopped for its health: " + step.Reason},
			tailOf: st.ID,
			then:   func(e record.Event) { s.keepTail(name, e.LogTail) },
		})
	default:
		h := s.history[name].forgive()
		h.EndedAt = now
		s.history[name] = h
		s.journal.add(entry{event: record.Event{At: now, Kind: record.Stopped, Service: name, ExitCode: code, Reason: step.Reason}})
	}
}

// dropDrains ends the draining of services that are not to be stopped after all.
func (s *Supervisor) dropDrains() {
	for name := range s.drains {
		if op, busy := s.inFlight[name]; busy && op.Action == ActionStop {
			continue
		}
		if w, ok := s.decision.Waits[name]; ok && w.State == StateStopping {
			continue
		}
		stopping := false
		for _, step := range s.decision.Steps {
			stopping = stopping || step.Name == name && (step.Action == ActionStop || step.Action == ActionDrain)
		}
		if !stopping {
			delete(s.drains, name)
		}
	}
}

// StopAll stops the whole site in reverse order, every service with its own
// signal and patience, and returns when nothing runs any more. The wish is not
// kept: the next daemon starts the site again. It returns an error when ctx
// ends before that; the stop goes on then.
func (s *Supervisor) StopAll(ctx context.Context) error {
	s.mu.Lock()
	s.stopAll = true
	s.mu.Unlock()
	s.wake()
	for {
		s.mu.Lock()
		left, changed, ended := s.left(), s.changed, s.ended
		s.mu.Unlock()
		switch {
		case left == "":
			return s.clear(ctx)
		case ended:
			return fmt.Errorf("stop the site: %s: %w", left, ErrNotRunning)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("stop the site: %s: %w", left, context.Cause(ctx))
		}
	}
}

// clear removes the containers that have ended, so that no process is left of
// a stopped site: the shims go with the last of their containers. How each one
// ended stands in the history.
func (s *Supervisor) clear(ctx context.Context) error {
	s.mu.Lock()
	var ended []string
	for name, st := range s.observed {
		if st.State != container.Running {
			ended = append(ended, name)
		}
	}
	s.mu.Unlock()
	var failed error
	for _, name := range ended {
		if err := s.discard(ctx, container.ID(s.cfg.Site, name), name); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	s.mu.Lock()
	s.relist = time.Now()
	s.mu.Unlock()
	s.wake()
	return failed
}

// left names what still runs, "" when nothing does.
func (s *Supervisor) left() string {
	if s.observed == nil {
		return "what runs is not known yet"
	}
	for name := range s.inFlight {
		return name + " is still busy"
	}
	for name, st := range s.observed {
		if st.State == container.Running {
			if w := s.decision.Waits[name]; !w.Why.none() {
				return name + " still runs: " + w.Why.String()
			}
			return name + " still runs"
		}
	}
	return ""
}

// StartAll takes back StopAll.
func (s *Supervisor) StartAll(context.Context) error {
	s.mu.Lock()
	s.stopAll = false
	for name, h := range s.history {
		s.history[name] = h.forgive()
	}
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return ErrNotRunning
	}
	s.wake()
	return nil
}
