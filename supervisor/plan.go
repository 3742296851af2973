package supervisor

import (
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"tarima/runtime/container"
)

// Plan decides what is to be done now so that the site becomes what is
// desired. It is a pure function: the same input gives the same decision, and
// nothing is changed by it. A step that fails, or a daemon that dies between
// two steps, leaves a state from which the next plan goes on.
func Plan(in Input) Decision {
	p := planner{in: in, out: Decision{Waits: map[string]Wait{}, Suppressed: map[string]Reason{}}, busy: map[container.Group]string{}}
	if in.Desired == nil || in.Observed == nil {
		// Without a wish, and without knowing what runs, every step is a guess.
		return p.out
	}
	p.in.Policy = in.Policy.withDefaults()
	p.healthState()
	p.network()
	for _, name := range in.Desired.order {
		if svc, ok := in.Desired.services[name]; ok {
			p.service(name, svc)
		} else {
			p.job(name, in.Desired.jobs[name])
		}
	}
	p.strangers()
	return p.out
}

// planner holds one plan while it is made.
type planner struct {
	in      Input
	out     Decision
	busy    map[container.Group]string // failure domains with a restart for failed probes on its way, and whose
	budget  int
	pulling map[string]bool // references with a pull on its way or in this plan
}

func (p *planner) step(s Step) { p.out.Steps = append(p.out.Steps, s) }

// wake asks for another plan at t.
func (p *planner) wake(t time.Time) {
	if t.After(p.in.Now) && (p.out.Next.IsZero() || t.Before(p.out.Next)) {
		p.out.Next = t
	}
}

func (p *planner) wait(name string, w Wait) {
	p.out.Waits[name] = w
	p.wake(w.Until)
}

func (p *planner) running(name string) bool {
	return p.in.Observed[name].State == container.Running
}

// current says whether the running container is what is desired now.
func (p *planner) current(svc *Service) bool {
	labels := p.in.Observed[svc.Spec.Name].Labels
	return labels[container.LabelHash] == svc.Hash && labels[container.LabelRestart] == restartLabel(p.in.Intents[svc.Spec.Name].Restart)
}

// restartLabel writes the count of requested restarts; none is no label, so
// that a container from before the first request needs no replacement.
func restartLabel(count uint64) string {
	if count == 0 {
		return ""
	}
	return strconv.FormatUint(count, 10)
}

// wanted says whether the service is to run, and otherwise why not.
func (p *planner) wanted(svc *Service) (bool, Cause, Reason) {
	name := svc.Spec.Name
	switch {
	case p.in.StopAll:
		return false, CauseSiteStop, because("site-stops")
	case p.in.Intents[name].Stopped:
		return false, CauseStopped, because("stopped")
	case svc.OnDemand && !p.in.Wanted[name] && !p.running(name) && !p.in.Desired.required[name]:
		return false, "", because("on-demand")
	}
	return true, "", Reason{}
}

func (p *planner) ready(name string) (ok bool, since time.Time, why Reason) {
	svc, st := p.in.Desired.services[name], p.in.Observed[name]
	if op, busy := p.in.InFlight[name]; busy && (op.Action == ActionStop || op.Action == ActionStart) {
		return false, time.Time{}, because(map[Action]string{ActionStop: "being-stopped", ActionStart: "being-started"}[op.Action])
	}
	return readiness(svc, st, p.in.Health[name])
}

// requirements says whether everything that name requires is there: services
// ready, jobs succeeded for their present reason. With fresh, a service that
// is about to be replaced does not count.
func (p *planner) requirements(name string, fresh bool) (missing Reason) {
	for _, n := range p.in.Desired.needs[name] {
		if job, ok := p.in.Desired.jobs[n]; ok {
			if !jobDone(job, p.in.Jobs[n]) {
				return because("waits-job", "Name", n)
			}
			continue
		}
		if ok, _, why := p.ready(n); !ok {
			if p.in.Intents[n].Stopped {
				return because("waits-stopped", "Name", n)
			}
			return because("waits-service", "Name", n).behind(why)
		}
		if fresh && !p.current(p.in.Desired.services[n]) {
			return because("waits-replacement", "Name", n)
		}
	}
	return Reason{}
}

// dependenciesReady is the same question for restarts: only services count,
// and since when they have all been ready.
func (p *planner) dependenciesReady(svc *Service) (missing string, since time.Time) {
	for _, n := range svc.Requires {
		if _, isJob := p.in.Desired.jobs[n]; isJob {
			continue
		}
		ok, from, _ := p.ready(n)
		if !ok {
			return n, time.Time{}
		}
		if from.After(since) {
			since = from
		}
	}
	return "", since
}

func (p *planner) network() {
	n := p.in.Network
	if p.in.StopAll || n.Ready || n.Applying {
		return
	}
	if p.in.Now.Before(n.RetryAt) {
		p.wake(n.RetryAt)
		return
	}
	p.step(Step{Action: ActionNetwork, Cause: CauseWanted, Reason: "the site's network is not yet as declared"})
}

// image says whether the reference can be started, and has it brought here
// otherwise.
func (p *planner) image(name, ref string) (Wait, bool) {
	st := p.in.Images[ref]
	if st.Present {
		return Wait{}, true
	}
	if p.pulling == nil {
		p.pulling = map[string]bool{}
		for r, s := range p.in.Images {
			if s.Pulling {
				p.pulling[r] = true
			}
		}
	}
	switch {
	case p.pulling[ref]:
		return Wait{State: StatePulling, Why: because("pulling")}, false
	case p.in.Now.Before(st.RetryAt):
		return Wait{State: StatePulling, Why: because("pull-failed", "Error", st.Why), Until: st.RetryAt}, false
	}
	atOnce := p.in.PullsAtOnce
	if atOnce <= 0 {
		atOnce = 2
	}
	if len(p.pulling) >= atOnce {
		return Wait{State: StatePulling, Why: because("pull-queued")}, false
	}
	p.pulling[ref] = true
	p.step(Step{Action: ActionPull, Name: name, Image: ref, Cause: CauseWanted, Reason: "the image " + ref + " is needed"})
	return Wait{State: StatePulling, Why: because("pulling")}, false
}

// startable says whether everything is there for a start.
func (p *planner) startable(name, ref string, fresh bool) (Wait, bool) {
	w, have := p.image(name, ref)
	if t := p.in.Retry[name]; p.in.Now.Before(t) {
		return Wait{State: StateBackoff, Why: because("step-failed").behind(p.in.History[name].Why), Until: t}, false
	}
	if !have {
		return w, false
	}
	if missing := p.requirements(name, fresh); !missing.none() {
		return Wait{State: StateWaiting, Why: missing}, false
	}
	if !p.in.Network.Ready {
		why := because("waits-network")
		if p.in.Network.Why != "" {
			why = because("network-failed", "Error", p.in.Network.Why)
		}
		return Wait{State: StateWaiting, Why: why}, false
	}
	return Wait{}, true
}

func (p *planner) service(name string, svc *Service) {
	if _, busy := p.in.InFlight[name]; busy {
		return
	}
	want, cause, why := p.wanted(svc)
	st, seen := p.in.Observed[name]
	running := seen && st.State == container.Running
	switch {
	case !want && running:
		if cause == CauseSiteStop {
			if d := p.dependant(name); d != "" {
				p.wait(name, Wait{State: StateStopping, Why: because("waits-stop", "Name", d)})
				return
			}
		}
		p.stop(name, cause, why)
	case !want:
		p.wait(name, Wait{State: StateStopped, Why: why})
	case running:
		p.runningService(name, svc, st)
	default:
		p.stoppedService(name, svc, seen)
	}
}

func (p *planner) stoppedService(name string, svc *Service, seen bool) {
	h := p.in.History[name]
	w, ok := p.startable(name, svc.Spec.Image, false)
	if p.in.Now.Before(h.NextStart) {
		state := StateBackoff
		if p.in.Policy.Failing(h) {
			state = StateFailing
		}
		p.wait(name, Wait{State: state, Why: h.Why, Until: h.NextStart})
		return
	}
	if !ok {
		p.wait(name, w)
		return
	}
	step := Step{Action: ActionStart, Name: name, Cause: CauseWanted, Reason: "it belongs to the site and does not run"}
	if h.Crashed && seen {
		step.Cause, step.Reason = CauseCrashed, h.Why.String()
	}
	p.step(step)
}

func (p *planner) runningService(name string, svc *Service, st container.Status) {
	if p.health(name, svc, st) {
		return
	}
	if !p.current(svc) {
		cause, why := CauseReplace, "changed"
		if st.Labels[container.LabelHash] == svc.Hash {
			cause, why = CauseRequested, "requested"
		}
		// The old container goes on until the new one could start at once.
		if w, ok := p.startable(name, svc.Spec.Image, true); !ok {
			w.Why = because(why + "-waits").behind(w.Why)
			p.wait(name, w)
			return
		}
		p.stop(name, cause, because(why))
		return
	}
	if st.Labels[container.LabelLimitsHash] != svc.Spec.Labels[container.LabelLimitsHash] {
		if t := p.in.Retry[name]; p.in.Now.Before(t) {
			p.wake(t)
			return
		}
		p.step(Step{Action: ActionLimits, Name: name, Cause: CauseReplace, Reason: "its limits changed"})
		return
	}
	if h := p.in.History[name]; h.Failures > 0 && !h.StartedAt.IsZero() {
		p.wake(h.StartedAt.Add(p.in.Policy.Quiet)) // the loop forgives then
	}
}

// healthState finds which failure domains are occupied and how much of the
// budget is left.
func (p *planner) healthState() {
	window := p.in.Now.Add(-p.in.Policy.HealthWindow)
	p.budget = p.in.Policy.HealthBudget
	for _, t := range p.in.HealthRestarts {
		if t.After(window) {
			p.budget--
		}
	}
	for _, name := range p.in.Desired.order {
		svc, ok := p.in.Desired.services[name]
		if !ok {
			continue
		}
		op, busy := p.in.InFlight[name]
		at := p.in.History[name].HealthAt
		recovering := !at.IsZero() && p.in.Now.Before(at.Add(p.in.Policy.RecoveryTime))
		if recovering {
			ready, _, _ := p.ready(name)
			recovering = !ready
		}
		if recovering || busy && op.Cause == CauseHealth {
			p.busy[svc.Spec.Group] = name
			if recovering {
				p.wake(at.Add(p.in.Policy.RecoveryTime))
			}
		}
	}
}

// health plans the restart of a service whose probes have failed for too long,
// unless it could not help or would do harm now. It says whether it did.
func (p *planner) health(name string, svc *Service, st container.Status) bool {
	missing, depsSince := p.dependenciesReady(svc)
	restart, why := unhealthy(svc, st, p.in.Health[name], p.in.Policy, depsSince)
	if !restart {
		return false // a failure that goes on brings another answer, and that another plan
	}
	other, occupied := p.busy[svc.Spec.Group]
	var held Reason
	switch {
	case missing != "":
		held = because("held-dependency", "Name", missing)
	case p.in.Pressure.Reason != "":
		held = because("held-pressure", "Pressure", p.in.Pressure.Reason)
		p.wake(p.in.Now.Add(pressureLook))
	case occupied && other != name:
		held = because("held-group", "Name", other)
	case p.budget <= 0:
		held = because("held-budget", "Restarts", strconv.Itoa(p.in.Policy.HealthBudget), "Time", p.in.Policy.HealthWindow.String())
		p.wake(p.budgetFree())
	case p.in.Now.Before(p.in.Retry[name]):
		p.wake(p.in.Retry[name])
		return false
	}
	if !held.none() {
		p.out.Suppressed[name] = held.behind(why)
		return false
	}
	p.budget--
	p.busy[svc.Spec.Group] = name
	p.step(Step{Action: ActionStop, Name: name, Cause: CauseHealth, Reason: why.String(), why: why})
	return true
}

// budgetFree is when the oldest restart leaves the window.
func (p *planner) budgetFree() time.Time {
	times := slices.Clone(p.in.HealthRestarts)
	slices.SortFunc(times, func(a, b time.Time) int { return a.Compare(b) })
	window := p.in.Now.Add(-p.in.Policy.HealthWindow)
	var within []time.Time
	for _, t := range times {
		if t.After(window) {
			within = append(within, t)
		}
	}
	i := len(within) - p.in.Policy.HealthBudget
	if i < 0 || i >= len(within) {
		return p.in.Now.Add(pressureLook) // restarts of this very plan fill the budget
	}
	return within[i].Add(p.in.Policy.HealthWindow)
}

// stop plans a stop; requests that run are let end before, as long as a proxy
// is there to tell.
func (p *planner) stop(name string, cause Cause, why Reason) {
	if t := p.in.Retry[name]; p.in.Now.Before(t) {
		p.wait(name, Wait{State: StateStopping, Why: because("stop-failed"), Until: t})
		return
	}
	if p.in.Desired.routed[name] && p.in.Routed {
		d, draining := p.in.Drains[name]
		if !draining {
			p.step(Step{Action: ActionDrain, Name: name, Cause: cause, Reason: why.String()})
			return
		}
		if until := d.Since.Add(p.in.Policy.DrainTimeout); !d.Done && p.in.Now.Before(until) {
			p.wait(name, Wait{State: StateStopping, Why: because("draining").behind(why), Until: until})
			return
		}
	}
	p.step(Step{Action: ActionStop, Name: name, Cause: cause, Reason: why.String()})
}

// dependant names something that requires name and still runs or is about to.
func (p *planner) dependant(name string) string {
	for _, n := range p.in.Desired.order {
		if n == name || !slices.Contains(p.in.Desired.needs[n], name) {
			continue
		}
		if _, busy := p.in.InFlight[n]; busy || p.running(n) {
			return n
		}
	}
	// Containers that are no part of the site any more say in a label what
	// they required.
	for _, n := range p.observedNames() {
		if n != name && !p.known(n) && p.running(n) && slices.Contains(strings.Split(p.in.Observed[n].Labels[container.LabelRequires], ","), name) {
			return n
		}
	}
	return ""
}

func (p *planner) known(name string) bool {
	return p.in.Desired.services[name] != nil || p.in.Desired.jobs[name] != nil
}

func (p *planner) observedNames() []string {
	names := make([]string, 0, len(p.in.Observed))
	for n := range p.in.Observed {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// strangers plans the end of containers that are no part of the site any more,
// those that others still require last.
func (p *planner) strangers() {
	for _, name := range p.observedNames() {
		if p.known(name) {
			continue
		}
		if _, busy := p.in.InFlight[name]; busy {
			continue
		}
		if t := p.in.Retry[name]; p.in.Now.Before(t) {
			p.wake(t)
			continue
		}
		st := p.in.Observed[name]
		if st.State != container.Running {
			if !p.in.StopAll {
				p.step(Step{Action: ActionRemove, Name: name, Cause: CauseRemoved, Reason: "it is no part of the site any more"})
			}
			continue
		}
		if d := p.labelledDependant(name); d != "" {
			p.wait(name, Wait{State: StateStopping, Why: because("removed-waits", "Name", d)})
			continue
		}
		step := Step{Action: ActionStop, Name: name, Cause: CauseRemoved, Reason: "it is no part of the site any more"}
		if p.in.StopAll && len(p.in.Desired.order) == 0 {
			// Nobody knows what the site consists of: all of it are strangers.
			step.Cause, step.Reason = CauseSiteStop, "the site stops"
		}
		p.step(step)
	}
}

// labelledDependant names a running container whose own label says that it
// requires name. Two that name each other (labels are only data) do not keep
// each other alive: the later in the alphabet goes first.
func (p *planner) labelledDependant(name string) string {
	for _, n := range p.observedNames() {
		st := p.in.Observed[n]
		if n == name || st.State != container.Running || !requiresByLabel(st, name) {
			continue
		}
		if p.known(n) && (p.in.StopAll || st.Labels[container.LabelHash] == p.hash(n)) {
			// It runs as desired, so it does not need what is not desired. When
			// the whole site stops, strangers go first.
			continue
		}
		if p.circle(name, n) && name > n {
			continue
		}
		return n
	}
	return ""
}

func (p *planner) hash(name string) string {
	if s, ok := p.in.Desired.services[name]; ok {
		return s.Hash
	}
	return p.in.Desired.jobs[name].Spec.Labels[container.LabelHash]
}

func requiresByLabel(st container.Status, name string) bool {
	return slices.Contains(strings.Split(st.Labels[container.LabelRequires], ","), name)
}

// circle says whether from requires to by the labels of running containers.
func (p *planner) circle(from, to string) bool {
	seen := map[string]bool{}
	var reach func(n string) bool
	reach = func(n string) bool {
		if n == to {
			return true
		}
		if seen[n] {
			return false
		}
		seen[n] = true
		for _, m := range strings.Split(p.in.Observed[n].Labels[container.LabelRequires], ",") {
			if m != "" && p.running(m) && reach(m) {
				return true
			}
		}
		return false
	}
	for _, m := range strings.Split(p.in.Observed[from].Labels[container.LabelRequires], ",") {
		if m != "" && p.running(m) && reach(m) {
			return true
		}
	}
	return false
}
