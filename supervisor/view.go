package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// usageSample is the last answer to "what do the containers use".
type usageSample struct {
	at     time.Time
	asking bool
	byName map[string]container.Usage
}

const (
	usageFresh    = 3 * time.Second
	usageDeadline = 500 * time.Millisecond
)

// state says how a service is, why, and when it goes on by itself.
func (s *Supervisor) state(name string, svc *Service) (State, Reason, time.Time) {
	st := s.observed[name]
	if op, busy := s.inFlight[name]; busy {
		switch op.Action {
		case ActionStart:
			return StateStarting, s.overdue[name], time.Time{}
		case ActionStop:
			return StateStopping, s.overdue[name], time.Time{}
		}
	}
	w, waits := s.decision.Waits[name]
	if waits && w.State == StateStopping {
		return StateStopping, w.Why, w.Until
	}
	if st.State == container.Running {
		h := s.health[name]
		ok, _, why := readiness(svc, st, h)
		held := s.decision.Suppressed[name]
		switch {
		case ok && !held.none():
			return StateReady, held, time.Time{}
		case ok && waits:
			return StateReady, w.Why, time.Time{} // its replacement waits
		case ok:
			return StateReady, Reason{}, time.Time{}
		case !held.none():
			why = held
		}
		if h.WasReady {
			return StateUnready, why, time.Time{}
		}
		return StateStarting, why, time.Time{}
	}
	if waits {
		return w.State, w.Why, w.Until
	}
	if s.observed == nil {
		return StateWaiting, because("unknown-yet"), time.Time{}
	}
	return StateStarting, Reason{}, time.Time{}
}

// publish notes what changed in a turn for those who ask or wait.
func (s *Supervisor) publish(now time.Time) {
	if s.site != nil {
		for name, svc := range s.site.services {
			state, _, _ := s.state(name, svc)
			if old, ok := s.since[name]; !ok || old.state != state {
				s.since[name] = stateSince{state: state, at: now}
			}
		}
	}
	if overall := s.judge(); overall != s.overall {
		s.overall, s.overallAt = overall, now
		if s.cfg.Notify != nil {
			s.cfg.Notify(string(overall))
		}
	}
	if s.overall == OverallReady {
		s.wasReady = true
	}
	if s.changed != nil {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// judge sums the site up. Starting is a site on its way to where it has not
// been since the last apply; degraded is one that has lost something or does
// not get on.
func (s *Supervisor) judge() Overall {
	if s.site == nil || s.stopAll {
		return OverallStopped
	}
	wanted, ready, disturbed := 0, 0, false
	for name, svc := range s.site.services {
		state := s.since[name].state
		if state == StateStopped {
			continue // as asked
		}
		wanted++
		switch {
		case state == StateReady && s.current(svc):
			ready++
		case state == StateReady: // its replacement is still to come
		case state == StateFailing, state == StateUnready, state == StateBackoff, s.history[name].Failures > 0:
			disturbed = true
		}
		disturbed = disturbed || s.images[svc.Spec.Image].Failures > 1
	}
	done := true
	for name, j := range s.site.jobs {
		r := s.jobs[name]
		done = done && jobDone(j, r)
		disturbed = disturbed || jobFailing(j, r)
	}
	switch {
	case wanted == 0 && len(s.site.services) > 0:
		return OverallStopped
	case ready == wanted && done:
		return OverallReady
	case disturbed || s.wasReady && ready < wanted && !s.deploying():
		return OverallDegraded
	}
	return OverallStarting
}

// current says whether the running container is what is desired now.
func (s *Supervisor) current(svc *Service) bool {
	p := planner{in: Input{Observed: s.observed, Intents: s.intents}}
	return p.current(svc)
}

// deploying says whether a planned stop or start is under way.
func (s *Supervisor) deploying() bool {
	if len(s.drains) > 0 {
		return true
	}
	for _, op := range s.inFlight {
		if op.Cause == CauseReplace || op.Cause == CauseRequested || op.Cause == CauseWanted {
			return true
		}
	}
	for name, svc := range s.site.services {
		state := s.since[name].state
		if state == StateStarting && s.history[name].Failures == 0 || state == StateReady && !s.current(svc) {
			return true
		}
	}
	return false
}

// Status tells how the site is. It may be asked at any time; the use of memory
// and processor is at most a few seconds old.
func (s *Supervisor) Status() SiteStatus {
	s.refreshUsage()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	out := SiteStatus{Site: s.cfg.Site, Overall: s.overall, Since: s.overallAt, Generation: s.applied.Generation}
	for _, sentence := range s.troubles {
		out.Trouble = append(out.Trouble, sentence)
	}
	for _, why := range s.overdue {
		out.Trouble = append(out.Trouble, why.String())
	}
	sort.Strings(out.Trouble)
	if s.site == nil {
		return out
	}
	for _, r := range s.site.Routes {
		out.Hosts = append(out.Hosts, r.Host)
	}
	out.Maintenance = s.maintenanceStatus()
	for i := range s.site.Services {
		out.Services = append(out.Services, s.serviceStatus(&s.site.Services[i], now))
	}
	for i := range s.site.Jobs {
		out.Jobs = append(out.Jobs, s.jobStatus(&s.site.Jobs[i]))
	}
	return out
}

func (s *Supervisor) serviceStatus(svc *Service, now time.Time) ServiceStatus {
	name := svc.Spec.Name
	st, h := s.observed[name], s.history[name]
	state, why, next := s.state(name, svc)
	use := s.usage.byName[name]
	out := ServiceStatus{
		Name: name, State: state, Since: now, Restarts: h.Restarts,
		MemoryLimit: svc.Spec.Limits.MemoryMax, Next: next, Image: svc.Spec.Image,
	}
	if at, ok := s.since[name]; ok && at.state == state {
		out.Since = at.at
	}
	if st.State == container.Running {
		out.PID, out.Reduced, out.Image = st.PID, st.Reduced, st.Image
		out.Memory, out.CPUSeconds = use.Memory, use.CPU.Seconds()
		if use.MemoryLimit > 0 {
			out.MemoryLimit = use.MemoryLimit
		}
		live := s.health[name].Liveness
		out.Healthy = state == StateReady && (!live.Known || live.OK)
		if state == StateReady && why.none() && live.Known && !live.OK {
			why = because("hung-now", "Answer", live.Why)
		}
		out.PendingCause = pending(svc, st).told()
		out.RestartPending = pending(svc, st).String()
	}
	if h.Failures > 0 {
		out.LogTail = h.LogTail
		if why.none() && state != StateReady {
			why = because("last").behind(h.Why)
		}
	}
	out.Why, out.Cause = why.String(), why.told()
	if image := s.images[svc.Spec.Image]; image.Pulling && state == StatePulling {
		progress := image.Progress
		out.Progress = &progress
	}
	return out
}

// pending says that the running container was made by another version, which
// filled the same wishes in another way. It is not replaced for that.
func pending(svc *Service, st container.Status) Reason {
	if st.Labels[container.LabelHash] != svc.Hash {
		return Reason{}
	}
	var was, is container.Spec
	if json.Unmarshal([]byte(st.Labels[container.LabelSpec]), &was) != nil ||
		json.Unmarshal([]byte(svc.Spec.Labels[container.LabelSpec]), &is) != nil {
		return Reason{}
	}
	was.Limits, is.Limits = container.Limits{}, container.Limits{}
	was.Image, is.Image = "", "" // one of them may already name its digest
	if hashOf(was) == hashOf(is) && st.Labels[container.LabelFiles] == svc.Spec.Labels[container.LabelFiles] {
		return Reason{}
	}
	return because("other-details")
}

func (s *Supervisor) jobStatus(j *Job) JobStatus {
	name := j.Spec.Name
	r := s.jobs[name]
	if r.Reason != j.Reason { // of an earlier reason
		r = record.JobRecord{Name: name, Reason: j.Reason, State: record.JobPending}
	}
	out := JobStatus{JobRecord: r}
	if r.State == record.JobSucceeded {
		return out
	}
	if w, ok := s.decision.Waits[name]; ok {
		why := w.Why
		if !w.Until.IsZero() && w.State != StateWaiting {
			why = because("tried-again", "At", clock(w.Until)).behind(why)
		}
		out.Why, out.Cause = why.String(), why.told()
	}
	return out
}

// refreshUsage asks the engine what the containers use, when the last answer
// is old: nothing is measured while nobody asks.
func (s *Supervisor) refreshUsage() {
	s.mu.Lock()
	ctx := s.ctx
	if ctx == nil || s.ended || s.usage.asking || time.Since(s.usage.at) < usageFresh {
		s.mu.Unlock()
		return
	}
	s.usage.asking = true
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, usageDeadline)
	defer cancel()
	list, err := s.cfg.Engine.Usage(ctx, s.cfg.Site)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage.asking = false
	if err != nil {
		return // the figures stay as they were; the engine's trouble shows elsewhere
	}
	s.usage.at = time.Now()
	s.usage.byName = make(map[string]container.Usage, len(list))
	for _, u := range list {
		if name, ours := s.name(u.ID); ours {
			s.usage.byName[name] = u
		}
	}
}

// Wait returns when the site's overall state is until, or with an error when
// ctx or the loop ends before.
func (s *Supervisor) Wait(ctx context.Context, until Overall) error {
	for {
		s.mu.Lock()
		overall, changed, ended := s.overall, s.changed, s.ended
		s.mu.Unlock()
		switch {
		case overall == until:
			return nil
		case ended:
			return fmt.Errorf("wait for the site to be %s (it is %s): %w", until, overall, ErrNotRunning)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the site to be %s (it is %s): %w", until, overall, context.Cause(ctx))
		}
	}
}
