package supervisor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

const (
	// relistEvery is how often the engine is asked for everything although no
	// event came: the safety net below the events.
	relistEvery  = 60 * time.Second
	listDeadline = 15 * time.Second
	oomPause     = time.Minute // between two reports of processes killed within one service
)

// name returns the service or job of a container of this site.
func (s *Supervisor) name(id string) (string, bool) {
	return strings.CutPrefix(id, s.cfg.Site+".")
}

// readEngine takes in the engine's events for as long as the loop runs.
func (s *Supervisor) readEngine(ctx context.Context) {
	for ctx.Err() == nil {
		// A sub-context, so that the engine's side ends with this round.
		round, cancel := context.WithCancel(ctx)
		events := s.cfg.Engine.Events(round)
		s.mu.Lock()
		s.relist = time.Now() // what happened before the channel was open
		s.mu.Unlock()
		s.wake()
		open := true
		for open {
			var e container.Event
			select {
			case <-ctx.Done():
				open = false
			case e, open = <-events:
				if open {
					s.mu.Lock()
					s.engineEvent(e)
					s.mu.Unlock()
					s.wake()
				}
			}
		}
		cancel()
		select { // an engine whose channel is closed at once must not spin the loop
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// engineEvent takes in one event.
func (s *Supervisor) engineEvent(e container.Event) {
	name, ours := s.name(e.ID)
	if !ours {
		return
	}
	st, seen := s.observed[name]
	switch e.Kind {
	case container.EventOOM:
		s.memoryKill(name, e.At)
	case container.EventExit:
		if e.Exit == nil {
			s.relist = time.Now()
			return
		}
		exit := *e.Exit
		switch {
		case seen && st.State == container.Running && concerns(e, st):
			s.end(name, exit)
		case seen && st.State == container.Exited && st.Exit == nil:
			st.Exit = &exit // of a stop that was told before its event came
			s.see(name, st)
		default:
			// Of a container whose start is still on its way, or of an older one.
			s.lastExit[name] = e
		}
	}
}

// concerns says whether an exit is of that very container, and not of an
// earlier one of the same name.
func concerns(e container.Event, st container.Status) bool {
	if e.PID != 0 && st.PID != 0 {
		return e.PID == st.PID
	}
	return !e.Exit.At.Before(st.Started)
}

// sameContainer says whether two sightings are of one running container.
func sameContainer(a, b container.Status) bool {
	return a.PID == b.PID && a.Started.Equal(b.Started)
}

// memoryKill reports that the kernel ended a process in a container for its
// memory limit. If it was the main process, its exit follows.
func (s *Supervisor) memoryKill(name string, at time.Time) {
	last := s.lastOOM[name]
	s.lastOOM[name] = at
	if !last.IsZero() && at.Sub(last) < oomPause {
		return
	}
	reason := "the kernel ended a process of it for want of memory"
	if limit := s.memoryLimit(name); limit > 0 {
		reason += fmt.Sprintf(": its limit is %s", bytesText(limit))
	}
	s.tell(record.OOM, name, reason, at)
}

func (s *Supervisor) memoryLimit(name string) int64 {
	if s.site == nil {
		return 0
	}
	if svc, ok := s.site.services[name]; ok {
		return svc.Spec.Limits.MemoryMax
	}
	if j, ok := s.site.jobs[name]; ok {
		return j.Spec.Limits.MemoryMax
	}
	return 0
}

// see notes a container's present state.
func (s *Supervisor) see(name string, st container.Status) {
	if s.observed == nil {
		return // the first list will tell
	}
	s.counter++
	s.touched[name] = s.counter
	s.observed[name] = st
}

// end takes in that a running container's main process has ended, and decides
// whether that counts as a failure.
func (s *Supervisor) end(name string, exit container.Exit) {
	if oom := s.lastOOM[name]; !oom.IsZero() && exit.Code == 137 && exit.At.Sub(oom).Abs() < 2*time.Second {
		exit.OOM = true // the two notices may have come apart
	}
	st := s.observed[name]
	st.State, st.PID, st.Exit = container.Exited, 0, &exit
	s.see(name, st)
	s.dropProber(name)
	if op, busy := s.inFlight[name]; busy && op.Action == ActionStop {
		return // asked for: the stop's own end tells
	}
	if s.site == nil || s.stopAll {
		return
	}
	svc, ok := s.site.services[name]
	if !ok {
		return // a job's end is its result; a stranger is removed
	}
	s.failed(svc, exit, exitReason(&exit, svc.Spec.Limits))
}

// failed counts an end that nobody asked for.
func (s *Supervisor) failed(svc *Service, exit container.Exit, why Reason) {
	name := svc.Spec.Name
	at := exit.At
	if exit.Unknown || at.IsZero() {
		at = time.Now()
	}
	h := s.history[name]
	h.OOM = exit.OOM
	code := exit.Code
	h.ExitCode = &code
	s.history[name] = h
	s.journal.add(entry{
		event:  record.Event{At: at, Kind: record.ExitedEvent, Service: name, ExitCode: &code, Reason: why.String()},
		tailOf: svc.Spec.ID(),
		then:   func(e record.Event) { s.keepTail(name, e.LogTail) },
	})
	s.countFailure(name, at, why)
}

// countFailure lets the policy decide when the service may start again, and
// tells when its failures have become a crash loop.
func (s *Supervisor) countFailure(name string, at time.Time, why Reason) {
	before := s.cfg.Policy.Failing(s.history[name])
	h := s.cfg.Policy.Failed(name, s.history[name], at, why).rebase(at, time.Now())
	s.history[name] = h
	if !before && s.cfg.Policy.Failing(h) {
		s.tell(record.Failing, name, fmt.Sprintf("%d failures in a row; it is tried again ever more slowly; last: %s", h.Failures, why), at)
	}
}

// keepTail shows the last lines of a failed container in the status.
func (s *Supervisor) keepTail(name string, tail []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.history[name]
	h.LogTail = tail
	s.history[name] = h
}

// observe begins to ask the engine (and, the first time, the store) when that
// is due, and returns when it is due next.
func (s *Supervisor) observe(now time.Time) time.Time {
	if s.listing {
		return time.Time{}
	}
	if s.relist.IsZero() || now.Before(s.relist) {
		return s.relist
	}
	s.listing = true
	s.relist = time.Time{}
	began := s.counter
	load := !s.loaded
	s.begin("engine", Operation{Action: "list", Deadline: now.Add(listDeadline)}, false, func(ctx context.Context) func() {
		var state *stored
		if load {
			var err error
			if state, err = s.load(); err != nil {
				return func() { s.listed(nil, 0, err) }
			}
		}
		list, err := s.cfg.Engine.List(ctx, s.cfg.Site)
		if err != nil {
			return func() { s.listed(nil, 0, fmt.Errorf("engine: the containers cannot be listed: %w", err)) }
		}
		pasts := map[string]past{}
		for _, st := range list {
			name, ours := s.name(st.ID)
			if ours && !s.hasPast(name) {
				p, err := readPast(s.cfg.Store, s.cfg.Site, name, s.cfg.Policy)
				if err != nil {
					return func() { s.listed(nil, 0, fmt.Errorf("store: %w", err)) }
				}
				pasts[name] = p
			}
		}
		s.lookUpResolvers()
		return func() {
			if state != nil {
				s.keepStored(state)
			}
			s.keepPasts(pasts)
			s.keepResolvers()
			s.listed(list, began, nil)
		}
	})
	return time.Time{}
}

// stored is what the store knows besides the desired state.
type stored struct {
	maintenance record.Maintenance
	intents     map[string]record.Intent
	images      map[string]record.Image
	jobs        map[string]record.JobRecord
}

// load reads the store. Without it nothing is started: a service that an
// administrator stopped must stay so.
func (s *Supervisor) load() (*stored, error) {
	var out stored
	var err error
	if out.intents, err = s.cfg.Store.Intents(s.cfg.Site); err != nil {
		return nil, fmt.Errorf("store: the intents cannot be read: %w", err)
	}
	if out.images, err = s.cfg.Store.Images(s.cfg.Site); err != nil {
		return nil, fmt.Errorf("store: the images cannot be read: %w", err)
	}
	if out.jobs, err = s.cfg.Store.Jobs(s.cfg.Site); err != nil {
		return nil, fmt.Errorf("store: the jobs cannot be read: %w", err)
	}
	if out.maintenance, err = s.cfg.Store.Maintenance(s.cfg.Site); err != nil {
		return nil, fmt.Errorf("store: what is closed for maintenance cannot be read: %w", err)
	}
	return &out, nil
}

func (s *Supervisor) keepStored(state *stored) {
	if !s.maintained {
		s.maintenance = state.maintenance
	}
	for name, i := range state.intents {
		if _, newer := s.intents[name]; !newer { // a request that came meanwhile stands
			s.intents[name] = i
		}
	}
	for _, i := range state.images {
		st := s.images[i.Ref]
		st.Digest = i.Digest
		s.images[i.Ref] = st
	}
	for name, r := range state.jobs {
		if _, newer := s.jobs[name]; !newer {
			s.jobs[name] = r
		}
	}
	s.loaded = true
}

func (s *Supervisor) hasPast(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.past[name]
	return ok
}

// keepPasts takes over what the store tells of earlier lives, unless this life
// already knows better.
func (s *Supervisor) keepPasts(pasts map[string]past) {
	for name, p := range pasts {
		if _, known := s.past[name]; known {
			continue
		}
		s.past[name] = p
		if _, lived := s.history[name]; !lived {
			h := p.history
			// A clock that was set back must not keep a service down.
			if most := time.Now().Add(2 * s.cfg.Policy.Cap); h.NextStart.After(most) {
				h.NextStart = most
			}
			s.history[name] = h
		}
	}
}

// listed takes in what the engine told. Entries that changed while it was
// asked are left as they are.
func (s *Supervisor) listed(list []container.Status, began uint64, err error) {
	s.listing = false
	if err != nil {
		s.trouble("engine", err.Error())
		s.relist = time.Now().Add(2 * time.Second)
		return
	}
	s.trouble("engine", "")
	if s.observed == nil {
		s.observed = map[string]container.Status{}
	}
	seen := map[string]bool{}
	for _, st := range list {
		name, ours := s.name(st.ID)
		if !ours {
			continue
		}
		seen[name] = true
		if _, busy := s.inFlight[name]; busy || s.touched[name] > began {
			continue
		}
		if e, told := s.lastExit[name]; told && st.State == container.Running && concerns(e, st) {
			// It ended after the engine had looked, and before this was known of.
			st.State, st.PID, st.Exit = container.Exited, 0, e.Exit
			delete(s.lastExit, name)
		}
		before, known := s.observed[name]
		switch {
		case known && before.State == container.Running && st.State != container.Running:
			exit := container.Exit{Code: -1, Unknown: true, At: time.Now()}
			if st.Exit != nil {
				exit = *st.Exit
			}
			s.end(name, exit)
		case known && before.State == container.Running && !sameContainer(before, st):
			delete(s.own, name) // not the one that was known: take it over anew
			s.dropProber(name)
			s.see(name, st)
		default:
			if known && sameContainer(before, st) && before.Labels[container.LabelLimitsHash] != st.Labels[container.LabelLimitsHash] {
				// Limits that were changed live, and a label that was not written.
				st.Labels = withLabel(st.Labels, container.LabelLimitsHash, before.Labels[container.LabelLimitsHash])
			}
			s.see(name, st)
		}
	}
	for name, st := range s.observed {
		if _, busy := s.inFlight[name]; seen[name] || busy || s.touched[name] > began {
			continue
		}
		if st.State == container.Running {
			s.end(name, container.Exit{Code: -1, Unknown: true, At: time.Now()})
		}
		delete(s.observed, name)
	}
	if s.relist.IsZero() {
		s.relist = time.Now().Add(relistEvery)
	}
}

// trouble notes what is wrong with a part of the house, "" when nothing is,
// and journals the change.
func (s *Supervisor) trouble(part, sentence string) {
	if s.troubles[part] == sentence {
		return
	}
	if sentence == "" {
		delete(s.troubles, part)
		s.log.Info("trouble is over", "part", part)
		return
	}
	s.troubles[part] = sentence
	s.tell(record.Trouble, "", sentence, time.Now())
}
