package supervisor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// Deadlines of operations. One that is past its deadline is reported, and its
// context has ended; it stays in flight until it returns.
const (
	startDeadline   = 2 * time.Minute
	networkDeadline = 30 * time.Second
	removeDeadline  = 30 * time.Second
	limitsDeadline  = 15 * time.Second
	finishDeadline  = 45 * time.Second
	pullDeadline    = 3 * time.Hour
	stopMargin      = 30 * time.Second // beyond the service's own patience
	defaultPatience = 30 * time.Second
	mostPatience    = time.Hour
	// hungPatience bounds the wait for a service that gives no sign of life:
	// it will hardly hear the signal, and visitors wait meanwhile. A database
	// keeps its own patience.
	hungPatience = 10 * time.Second
	retryBase    = time.Second
	retryCap     = 2 * time.Minute
)

// begin runs an operation on a goroutine of its own. run works without the
// lock and returns what is to be done with it at the end. With track, the key
// is a service or job that is in flight until then.
func (s *Supervisor) begin(key string, op Operation, track bool, run func(context.Context) func()) {
	op.Started = time.Now()
	flight := s.background
	if track {
		flight = s.inFlight
	}
	flight[key] = op
	parent := s.ctx
	s.ops.Go(func() {
		ctx, cancel := context.WithDeadline(parent, op.Deadline)
		defer cancel()
		done := run(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(flight, key)
		delete(s.overdue, key)
		done()
		s.wake()
	})
}

// watchOperations reports operations that have not returned by their deadline.
func (s *Supervisor) watchOperations(now time.Time) time.Time {
	var next time.Time
	for _, flight := range []map[string]Operation{s.inFlight, s.background} {
		for name, op := range flight {
			if now.Before(op.Deadline) {
				next = soonest(next, op.Deadline)
				continue
			}
			if _, told := s.overdue[name]; !told {
				s.overdue[name] = because("overdue", "Action", string(op.Action), "Name", name, "Time", now.Sub(op.Started).Round(time.Second).String())
				s.tell(record.Trouble, "", s.overdue[name].String(), now)
			}
		}
	}
	return next
}

// act begins a step.
func (s *Supervisor) act(step Step, now time.Time) {
	name := step.Name
	switch step.Action {
	case ActionNetwork:
		s.applyNetwork(now)
	case ActionPull:
		s.pull(step.Image, name, now)
	case ActionStart:
		s.start(s.site.services[name], step, now)
	case ActionDrain:
		s.drains[name] = Drain{Since: now}
		s.wake()
	case ActionStop:
		s.stop(step, now)
	case ActionRemove:
		s.remove(name, now)
	case ActionLimits:
		s.limits(s.site.services[name], now)
	case ActionJob:
		s.startJob(s.site.jobs[name], now)
	case ActionFinish:
		s.finishJob(s.site.jobs[name], now)
	}
}

// ran notes how a step of name went: after a failure the next one waits.
func (s *Supervisor) ran(name string, err error, what string) {
	if err == nil {
		delete(s.failures, name)
		delete(s.retry, name)
		return
	}
	s.failures[name]++
	s.retry[name] = time.Now().Add(retryWait(s.failures[name]))
	s.relist = time.Now() // whatever it left behind
	h := s.history[name]
	h.Why = said(fmt.Sprintf("%s: %v", what, err))
	s.history[name] = h
	s.tell(record.Trouble, name, h.Why.String(), time.Now())
}

func retryWait(failures int) time.Duration {
	if failures > 16 {
		return retryCap
	}
	return min(retryBase<<max(failures-1, 0), retryCap)
}

func (s *Supervisor) applyNetwork(now time.Time) {
	t := s.site.Topology
	running := map[string]int{}
	for name, st := range s.observed {
		if st.State == container.Running && st.PID > 0 {
			running[name] = st.PID
		}
	}
	s.network.Applying = true
	s.begin("network", Operation{Action: ActionNetwork, Deadline: now.Add(networkDeadline)}, false, func(ctx context.Context) func() {
		err := s.cfg.Network.Apply(ctx, t)
		if err == nil {
			s.reattach(ctx, running)
		}
		return func() {
			s.network.Applying = false
			if err != nil {
				s.netTries++
				s.network.Why = err.Error()
				s.network.RetryAt = time.Now().Add(retryWait(s.netTries))
				s.trouble("network", "network: "+err.Error())
				return
			}
			// The desired topology may have changed while this one was made.
			s.network = NetworkState{Ready: hashOf(t) == hashOf(s.site.Topology)}
			s.netTries = 0
			s.trouble("network", "")
		}
	})
}

// reattach gives containers that run already their interfaces, where the
// network that held them was lost; an interface that is right is left alone.
func (s *Supervisor) reattach(ctx context.Context, running map[string]int) {
	for name, pid := range running {
		if err := s.cfg.Network.Attach(ctx, s.cfg.Site, name, pid); err != nil {
			// It may have ended meanwhile, or belong to no service any more.
			s.log.Warn("interface of a running container", "service", name, "pid", pid, "error", err)
		}
	}
}

// launch makes the spec ready for the engine: the pinned digest, the request
// that this start answers, and the name servers that the firewall lets it ask.
func (s *Supervisor) launch(spec container.Spec) container.Spec {
	if digest := s.images[spec.Image].Digest; digest != "" {
		spec.Image = pinned(spec.Image, digest)
	}
	if r := restartLabel(s.intents[spec.Name].Restart); r != "" && spec.Kind == container.Service {
		spec.Labels = withLabel(spec.Labels, container.LabelRestart, r)
	}
	spec.Resolvers = resolversOf(s.site.Topology, spec.Name)
	return spec
}

// withLabel returns a copy of labels with one changed.
func withLabel(labels map[string]string, key, value string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	maps.Copy(out, labels)
	out[key] = value
	return out
}

// run starts a container with its interface.
func (s *Supervisor) run(ctx context.Context, spec container.Spec) (container.Status, error) {
	// An earlier container of that name may have left its interface.
	if err := s.cfg.Network.Detach(ctx, spec.Site, spec.Name); err != nil {
		return container.Status{}, fmt.Errorf("detach %s from the network: %w", spec.Name, err)
	}
	st, err := s.cfg.Engine.Start(ctx, spec, func(pid int) error {
		return s.cfg.Network.Attach(ctx, spec.Site, spec.Name, pid)
	})
	if err != nil {
		return st, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return st, nil
}

func (s *Supervisor) start(svc *Service, step Step, now time.Time) {
	name, ref := svc.Spec.Name, svc.Spec.Image
	spec := s.launch(svc.Spec)
	delete(s.lastExit, name)
	s.begin(name, Operation{Action: ActionStart, Cause: step.Cause, Deadline: now.Add(startDeadline)}, true, func(ctx context.Context) func() {
		st, err := s.run(ctx, spec)
		return func() {
			if ctx.Err() != nil && s.ctx.Err() != nil {
				return // the daemon ends; the next one looks for itself
			}
			s.own[name] = true
			if err != nil {
				s.startFailed(svc, ref, err)
				return
			}
			s.startedNow(svc, st, step)
		}
	})
}

func (s *Supervisor) startFailed(svc *Service, ref string, err error) {
	name, now := svc.Spec.Name, time.Now()
	h := s.history[name]
	h.StartedAt = time.Time{} // it never ran, so nothing is forgotten for its quiet time
	s.history[name] = h
	s.tell(record.StartFailed, name, err.Error(), now)
	s.countFailure(name, now, said(err.Error()))
	if h = s.history[name]; h.Failures == 1 {
		h.NextStart = now.Add(retryBase) // an engine that refuses is not asked again at once
		s.history[name] = h
	}
	s.doubt(ref)
}

// doubt has everything that a start needs looked at again, since one failed:
// the image may have gone, the network been taken away by somebody else.
func (s *Supervisor) doubt(ref string) {
	image := s.images[ref]
	image.Present = false
	s.images[ref] = image
	s.network.Ready = false
	s.relist = time.Now()
}

func (s *Supervisor) startedNow(svc *Service, st container.Status, step Step) {
	name := svc.Spec.Name
	h := s.history[name]
	h.StartedAt = st.Started
	h.Crashed = false
	kind, reason := record.Started, step.Reason
	if step.Cause == CauseCrashed {
		kind = record.Restarted
		h.Restarts++
	}
	s.history[name] = h
	s.health[name] = Health{}
	s.ready[name] = false
	s.see(name, st)
	s.tell(kind, name, reason, st.Started)
	s.endedAlready(name, st)
	s.pin(svc.Spec.Image, st.Image)
}

// endedAlready takes in that a container had ended when its start was told.
func (s *Supervisor) endedAlready(name string, st container.Status) {
	e, told := s.lastExit[name]
	delete(s.lastExit, name)
	switch {
	case st.State != container.Running && st.Exit != nil:
		s.end(name, *st.Exit)
	case st.State != container.Running:
		s.end(name, container.Exit{Code: -1, Unknown: true, At: time.Now()})
	case told && concerns(e, st):
		s.end(name, *e.Exit)
	}
}

func (s *Supervisor) limits(svc *Service, now time.Time) {
	name, spec := svc.Spec.Name, svc.Spec
	hash := spec.Labels[container.LabelLimitsHash]
	s.begin(name, Operation{Action: ActionLimits, Deadline: now.Add(limitsDeadline)}, true, func(ctx context.Context) func() {
		err := s.cfg.Engine.Update(ctx, spec.ID(), spec.Limits)
		if err == nil { // the next daemon is to know them as applied
			err = s.cfg.Engine.SetLabels(ctx, spec.ID(), map[string]string{container.LabelLimitsHash: hash})
		}
		return func() {
			s.ran(name, err, "its limits cannot be changed")
			if err != nil {
				return
			}
			st := s.observed[name]
			st.Labels = withLabel(st.Labels, container.LabelLimitsHash, hash)
			if st.State != "" {
				s.see(name, st)
			}
			s.tell(record.LimitsChanged, name, "its limits were changed while it runs", time.Now())
		}
	})
}

func (s *Supervisor) remove(name string, now time.Time) {
	id := container.ID(s.cfg.Site, name)
	s.begin(name, Operation{Action: ActionRemove, Deadline: now.Add(removeDeadline)}, true, func(ctx context.Context) func() {
		err := s.discard(ctx, id, name)
		return func() {
			if s.ctx.Err() != nil {
				return
			}
			s.ran(name, err, "what is left of it cannot be removed")
			if err == nil {
				s.forget(name)
			}
		}
	})
}

// discard deletes an ended container with its interface.
func (s *Supervisor) discard(ctx context.Context, id, name string) error {
	if err := s.cfg.Engine.Remove(ctx, id); err != nil && s.exists(ctx, id) {
		return fmt.Errorf("remove the container: %w", err)
	}
	if err := s.cfg.Network.Detach(ctx, s.cfg.Site, name); err != nil {
		return fmt.Errorf("detach from the network: %w", err)
	}
	return nil
}

// exists asks the engine whether a container is there. In doubt it is.
func (s *Supervisor) exists(ctx context.Context, id string) bool {
	list, err := s.cfg.Engine.List(ctx, s.cfg.Site)
	return err != nil || slices.ContainsFunc(list, func(st container.Status) bool { return st.ID == id })
}

// forget drops what the loop remembers of a container that is gone.
func (s *Supervisor) forget(name string) {
	s.counter++
	s.touched[name] = s.counter
	delete(s.observed, name)
	delete(s.lastExit, name)
	delete(s.lastOOM, name)
	if s.site == nil || s.site.services[name] == nil && s.site.jobs[name] == nil {
		delete(s.own, name)
		delete(s.history, name)
		delete(s.past, name)
		delete(s.health, name)
		delete(s.ready, name)
		delete(s.since, name)
		delete(s.wanted, name)
	}
}
