package supervisor

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarima/runtime/container"
	"tarima/store/record"
)

// drawn makes values: from rapid in property tests, from bytes in fuzzing.
type drawn interface {
	below(n int) int // 0 … n-1
}

type rapidDraw struct{ t *rapid.T }

func (r rapidDraw) below(n int) int { return rapid.IntRange(0, n-1).Draw(r.t, "n") }

// byteDraw reads values off fuzzed bytes; behind their end everything is 0.
type byteDraw struct{ rest []byte }

func (b *byteDraw) below(n int) int {
	var v uint64
	for range 2 {
		if len(b.rest) > 0 {
			v = v<<8 | uint64(b.rest[0])
			b.rest = b.rest[1:]
		}
	}
	return int(v % uint64(n)) //nolint:gosec // below n
}

func yes(d drawn) bool { return d.below(2) == 1 }

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// drawMoment is a time around epoch, or none.
func drawMoment(d drawn) time.Time {
	if d.below(4) == 0 {
		return time.Time{}
	}
	return epoch.Add(time.Duration(d.below(4000)-2000) * time.Second)
}

// drawDesired makes a valid site of up to 8 services and 4 jobs. Requirements
// only go backwards in a list, so there are no circles.
func drawDesired(d drawn) Desired {
	out := Desired{Site: "default", Generation: uint64(d.below(5))} //nolint:gosec // small
	var all, services []string
	n := 1 + d.below(12)
	for i := range n {
		var requires []string
		for _, m := range all {
			if d.below(3) == 0 {
				requires = append(requires, m)
			}
		}
		name := fmt.Sprintf("s%d", i)
		if d.below(3) == 0 && len(out.Jobs) < 4 {
			name = fmt.Sprintf("j%d", i)
			j := job(name, fmt.Sprintf("r%d", d.below(2)), requires...)
			j.Spec.Image = fmt.Sprintf("example/%d:1", d.below(4))
			j.Timeout = time.Duration(d.below(3)) * 10 * time.Minute
			j.Retries = d.below(3)
			out.Jobs = append(out.Jobs, j)
		} else {
			group := container.Stores
			if yes(d) {
				group = container.Applications
			}
			s := svc(name, group, requires...)
			s.Spec.Image = fmt.Sprintf("example/%d:1", d.below(4))
			s.Hash = fmt.Sprintf("h%d", d.below(3))
			s.Database = d.below(4) == 0
			s.OnDemand = d.below(6) == 0
			s.Spec.Limits.MemoryMax = int64(1+d.below(2)) << 30
			if yes(d) {
				s.Probes.Startup = nil
			}
			if d.below(4) == 0 {
				s.Probes.Readiness = nil
			}
			if len(services) > 0 && d.below(4) == 0 {
				s.RestartWith = []string{services[d.below(len(services))]}
			}
			out.Services = append(out.Services, s)
			services = append(services, name)
			if d.below(3) == 0 {
				out.Routes = append(out.Routes, Route{Host: name + ".test", Service: name})
			}
		}
		all = append(all, name)
	}
	return out
}

func prepared(d Desired) *Prepared {
	store := newFakeStore()
	p, err := prepare(d, prefix4, prefix4, func(n string) (record.Address, error) {
		return store.Address("default", n, prefix4, prefix4)
	})
	if err != nil {
		panic(err) // drawDesired makes valid sites only
	}
	return p
}

// drawInput makes any input around a valid site: containers of this and of
// other specifications, strangers, operations in flight, histories.
func drawInput(d drawn) Input {
	p := prepared(drawDesired(d))
	in := Input{
		Now: epoch, Desired: p, Observed: map[string]container.Status{}, InFlight: map[string]Operation{},
		Images: map[string]ImageState{}, Intents: map[string]record.Intent{}, Jobs: map[string]record.JobRecord{},
		History: map[string]History{}, Health: map[string]Health{}, Drains: map[string]Drain{},
		Wanted: map[string]bool{}, Retry: map[string]time.Time{},
		Routed: yes(d), StopAll: d.below(8) == 0,
		Network: NetworkState{Ready: d.below(3) > 0, Applying: d.below(5) == 0, RetryAt: drawMoment(d)},
	}
	if d.below(5) == 0 {
		in.Pressure.Reason = "the host is short of memory"
	}
	for range d.below(8) {
		in.HealthRestarts = append(in.HealthRestarts, epoch.Add(-time.Duration(d.below(1200))*time.Second))
	}
	for i := range 4 {
		in.Images[fmt.Sprintf("example/%d:1", i)] = ImageState{Present: d.below(3) > 0, Pulling: d.below(6) == 0, RetryAt: drawMoment(d)}
	}
	all := append(slices.Clone(p.order), "stranger1", "stranger2")
	for _, name := range all {
		if st, ok := drawStatus(d, p, name, all); ok {
			in.Observed[name] = st
		}
		if d.below(6) == 0 {
			actions := []Action{ActionStart, ActionStop, ActionRemove, ActionLimits}
			if p.jobs[name] != nil {
				actions = []Action{ActionJob, ActionStop, ActionFinish, ActionRemove}
			}
			in.InFlight[name] = Operation{Action: actions[d.below(4)], Cause: []Cause{CauseWanted, CauseHealth, CauseReplace}[d.below(3)]}
		}
		if d.below(6) == 0 {
			in.Retry[name] = drawMoment(d)
		}
		if p.services[name] != nil {
			in.Intents[name] = record.Intent{Service: name, Stopped: d.below(6) == 0, Restart: uint64(d.below(3) / 2)} //nolint:gosec // small
			in.History[name] = History{Failures: d.below(8), NextStart: drawMoment(d), StartedAt: drawMoment(d), HealthAt: drawMoment(d), Crashed: yes(d), Why: said("y")}
			in.Health[name] = Health{Startup: drawVerdict(d), Readiness: drawVerdict(d), Liveness: drawVerdict(d), WasReady: yes(d), Presumed: d.below(5) == 0}
			in.Wanted[name] = yes(d)
			if d.below(5) == 0 {
				in.Drains[name] = Drain{Since: drawMoment(d), Done: yes(d)}
			}
		}
		if p.jobs[name] != nil && yes(d) {
			in.Jobs[name] = record.JobRecord{
				Name: name, Reason: fmt.Sprintf("r%d", d.below(2)), Attempts: d.below(5), Ended: drawMoment(d),
				State: []record.JobState{record.JobPending, record.JobRunning, record.JobSucceeded, record.JobFailedFor}[d.below(4)],
			}
		}
	}
	return in
}

func drawVerdict(d drawn) Verdict {
	return Verdict{Known: yes(d), OK: d.below(3) > 0, Since: drawMoment(d), Last: drawMoment(d), Why: "x"}
}

func drawStatus(d drawn, p *Prepared, name string, all []string) (container.Status, bool) {
	states := []container.State{"", container.Running, container.Running, container.Running, container.Exited, container.Missing, container.Created}
	st := container.Status{ID: container.ID("default", name), State: states[d.below(len(states))], Started: drawMoment(d)}
	if st.State == "" {
		return st, false
	}
	labels := map[string]string{container.LabelRequires: all[d.below(len(all))]}
	if s := p.services[name]; s != nil {
		labels = withLabel(s.Spec.Labels, container.LabelHash, s.Hash)
	}
	if j := p.jobs[name]; j != nil {
		labels = withLabel(j.Spec.Labels, container.LabelReason, fmt.Sprintf("r%d", d.below(2)))
	}
	switch d.below(6) {
	case 0:
		labels = withLabel(labels, container.LabelHash, "other")
	case 1:
		labels = withLabel(labels, container.LabelLimitsHash, "other")
	case 2:
		labels = withLabel(labels, container.LabelRequires, all[d.below(len(all))])
	}
	st.Labels = labels
	if st.State == container.Running {
		st.PID = 1
	} else if yes(d) {
		st.Exit = &container.Exit{Code: d.below(3), At: drawMoment(d), Unknown: d.below(4) == 0}
	}
	return st, true
}

// checkDecision holds a decision against what must be true of every one.
func checkDecision(in Input, d Decision) error {
	p := in.Desired
	pl := planner{in: in}
	pl.in.Policy = in.Policy.withDefaults()
	seen := map[string]bool{}
	health := map[container.Group]string{}
	for _, step := range d.Steps {
		key := step.Name
		if step.Action == ActionPull {
			key = "image " + step.Image
			if in.Images[step.Image].Present || in.Images[step.Image].Pulling {
				return fmt.Errorf("%+v: the image is here or on its way", step)
			}
		} else if _, busy := in.InFlight[step.Name]; busy {
			return fmt.Errorf("%+v: something is in flight already", step)
		}
		if seen[key] {
			return fmt.Errorf("%+v: two steps at once", step)
		}
		seen[key] = true
		if step.Reason == "" || step.Cause == "" {
			return fmt.Errorf("%+v: no reason", step)
		}
		running := in.Observed[step.Name].State == container.Running
		switch step.Action {
		case ActionStart, ActionJob:
			if in.StopAll || running || in.Intents[step.Name].Stopped || !in.Network.Ready {
				return fmt.Errorf("%+v: must not start", step)
			}
			for _, n := range p.needs[step.Name] {
				if j := p.jobs[n]; j != nil && !jobDone(j, in.Jobs[n]) {
					return fmt.Errorf("%+v: %s has not succeeded", step, n)
				}
				if s := p.services[n]; s != nil {
					if ok, _, _ := readiness(s, in.Observed[n], in.Health[n]); !ok {
						return fmt.Errorf("%+v: %s is not ready", step, n)
					}
				}
			}
			if in.Now.Before(in.History[step.Name].NextStart) && step.Action == ActionStart {
				return fmt.Errorf("%+v: in backoff", step)
			}
		case ActionStop:
			if !running {
				return fmt.Errorf("%+v: does not run", step)
			}
			s := p.services[step.Name]
			switch step.Cause {
			case CauseHealth:
				if other := health[s.Spec.Group]; other != "" {
					return fmt.Errorf("%+v: %s of its group is restarted too", step, other)
				}
				health[s.Spec.Group] = step.Name
				if in.Pressure.Reason != "" {
					return fmt.Errorf("%+v: under pressure", step)
				}
				if missing, _ := pl.dependenciesReady(s); missing != "" {
					return fmt.Errorf("%+v: for the failure of %s", step, missing)
				}
				h := in.Health[step.Name]
				if (!h.Liveness.Known || h.Liveness.OK) && (!h.Startup.Known || h.Startup.OK) {
					return fmt.Errorf("%+v: no probe of its own has failed", step)
				}
			case CauseReplace:
				if s != nil && pl.current(s) {
					return fmt.Errorf("%+v: it is as desired", step)
				}
			case CauseSiteStop:
				for _, n := range p.order {
					if in.Observed[n].State == container.Running && slices.Contains(p.needs[n], step.Name) {
						return fmt.Errorf("%+v: %s still runs and requires it", step, n)
					}
				}
			case CauseStopped:
				if !in.Intents[step.Name].Stopped {
					return fmt.Errorf("%+v: nobody asked", step)
				}
			}
		case ActionRemove:
			if running {
				return fmt.Errorf("%+v: it runs", step)
			}
		}
	}
	if !d.Next.IsZero() && !d.Next.After(in.Now) {
		return fmt.Errorf("next plan at %s, which is not later than now", d.Next)
	}
	return nil
}

// checkRest plays a plan to its end and checks that it comes to rest where the
// site is as desired, as far as it can be.
func checkRest(in Input) error {
	_, end := preview(in)
	d := Plan(end)
	if len(d.Steps) != 0 {
		return fmt.Errorf("no rest: %+v", d.Steps)
	}
	// Now the world heals: what runs answers well, jobs end, the host has room.
	// From there on nothing but time may be needed.
	end.Pressure = Pressure{}
	for range 100 {
		ok := Verdict{Known: true, OK: true, Since: end.Now}
		for name, st := range end.Observed {
			if st.State != container.Running {
				continue
			}
			if end.Desired.jobs[name] != nil && st.Labels[container.LabelReason] == end.Desired.jobs[name].Reason {
				st.State, st.Exit = container.Exited, &container.Exit{At: end.Now}
				end.Observed[name] = st
			}
			end.Health[name] = Health{Startup: ok, Readiness: ok, Liveness: ok, WasReady: true}
		}
		_, end = preview(end)
		d = Plan(end)
		if d.Next.IsZero() {
			break
		}
		end.Now = d.Next
	}
	if len(d.Steps) != 0 {
		return fmt.Errorf("no rest after waiting: %+v", d.Steps)
	}
	return checkDesired(end, d)
}

// checkDesired holds a state of rest against what is desired.
func checkDesired(in Input, d Decision) error {
	pl := planner{in: in}
	pl.in.Policy = in.Policy.withDefaults()
	for name, st := range in.Observed {
		if in.StopAll && st.State == container.Running {
			return fmt.Errorf("%s runs after a stop of the site", name)
		}
		if !in.StopAll && !pl.known(name) {
			return fmt.Errorf("%s is no part of the site and still there", name)
		}
	}
	if in.StopAll {
		return nil
	}
	for _, name := range in.Desired.order {
		if j := in.Desired.jobs[name]; j != nil {
			if !jobDone(j, in.Jobs[name]) && !blocked(in, name) {
				return fmt.Errorf("job %s has not run: %+v", name, d.Waits[name])
			}
			continue
		}
		svc := in.Desired.services[name]
		if stopped := in.Intents[name].Stopped || svc.OnDemand && !in.Wanted[name] && !in.Desired.required[name]; stopped {
			if in.Intents[name].Stopped && pl.running(name) {
				return fmt.Errorf("%s runs although it was stopped", name)
			}
			continue
		}
		if blocked(in, name) {
			continue
		}
		if !pl.running(name) || !pl.current(svc) || in.Observed[name].Labels[container.LabelLimitsHash] != svc.Spec.Limits.Hash() {
			return fmt.Errorf("%s is not as desired: %+v, %+v", name, in.Observed[name].State, d.Waits[name])
		}
	}
	return nil
}

// blocked says whether something that name requires, near or far, is not
// wanted to run.
func blocked(in Input, name string) bool {
	for _, n := range in.Desired.needs[name] {
		if s := in.Desired.services[n]; s != nil && in.Intents[n].Stopped {
			return true
		}
		if blocked(in, n) {
			return true
		}
	}
	return false
}

func TestPlanKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(rapidDraw{t})
		d := Plan(in)
		if err := checkDecision(in, d); err != nil {
			t.Fatal(err)
		}
		again := Plan(in)
		if hashOf(again.Steps) != hashOf(d.Steps) || !again.Next.Equal(d.Next) {
			t.Fatalf("two answers to one question: %+v and %+v", d, again)
		}
		if err := checkRest(in); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("\x01\x02\x03\x05\x08\x0d", 60)))
	seed := make([]byte, 0, 600)
	for i := range 300 {
		seed = binary.BigEndian.AppendUint16(seed, uint16(i*7919)) //nolint:gosec // any bits do
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		in := drawInput(&byteDraw{rest: data})
		if err := checkDecision(in, Plan(in)); err != nil {
			t.Fatal(err)
		}
		if err := checkRest(in); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPlanWithoutKnowledgeDoesNothing(t *testing.T) {
	p := prepared(demo())
	for name, in := range map[string]Input{
		"nothing applied":  {Now: epoch, Observed: map[string]container.Status{"x": {State: container.Running}}},
		"nothing observed": {Now: epoch, Desired: p},
	} {
		if d := Plan(in); len(d.Steps) != 0 {
			t.Errorf("%s: %+v", name, d.Steps)
		}
	}
}

func TestDelay(t *testing.T) {
	p := Policy{}.withDefaults()
	for failures, want := range map[int]time.Duration{
		1: 0, 2: time.Second, 3: 2 * time.Second, 4: 4 * time.Second, 9: 128 * time.Second,
		11: 5 * time.Minute, 60: 5 * time.Minute, 1 << 30: 5 * time.Minute,
	} {
		got := p.Delay("lms", failures)
		if got < want*8/10 || got > want*12/10 {
			t.Errorf("after %d failures: %s, want %s and a fifth more or less", failures, got, want)
		}
		if p.Delay("lms", failures) != got {
			t.Error("two answers to one question")
		}
	}
	if p.Delay("lms", 5) == p.Delay("cms", 5) {
		t.Error("two services have the same spread")
	}
}

func TestDelayStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{
			Base: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "base")),
			Cap:  time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "cap")),
		}.withDefaults()
		n := rapid.IntRange(-5, 1000).Draw(t, "failures")
		d := p.Delay(rapid.String().Draw(t, "name"), n)
		if d < 0 || float64(d) > float64(p.Cap)*(1+p.Jitter)+1 || n > 1 && float64(d) < float64(min(p.Base, p.Cap))*(1-p.Jitter)-1 {
			t.Fatalf("%d failures with %+v: %s", n, p, d)
		}
	})
}

func TestQuietTimeForgetsASeries(t *testing.T) {
	p := Policy{}.withDefaults()
	h := History{Failures: 7, StartedAt: epoch}
	if got := p.Failed("x", h, epoch.Add(p.Quiet), said("y")); got.Failures != 1 {
		t.Errorf("%d failures after a quiet time", got.Failures)
	}
	if got := p.Failed("x", h, epoch.Add(p.Quiet-1), said("y")); got.Failures != 8 {
		t.Errorf("%d failures without one", got.Failures)
	}
}
