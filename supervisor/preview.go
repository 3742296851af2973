package supervisor

import (
	"context"
	"fmt"
	"maps"
	"sort"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// Plan tells what the loop has before it now, in order, if every step
// succeeds; and behind that what waits, and for what.
func (s *Supervisor) Plan(ctx context.Context) ([]StepStatus, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.site == nil:
		return nil, ErrNotApplied
	case s.observed == nil:
		return nil, fmt.Errorf("%w: what runs is not known yet", ErrNotRunning)
	}
	steps, _ := preview(s.input(time.Now()))
	return steps, nil
}

// PlanFor tells what a desired state would change. Nothing is done or kept.
func (s *Supervisor) PlanFor(d Desired) ([]StepStatus, error) {
	p, err := s.prepareDry(d)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.input(time.Now())
	p.Topology.Resolvers = s.resolvers
	in.Desired = p
	if in.Observed == nil {
		in.Observed = map[string]container.Status{}
	}
	in.Network.Ready = s.site != nil && s.network.Ready && hashOf(s.site.Topology) == hashOf(p.Topology)
	steps, _ := preview(in)
	return steps, nil
}

// preview plays the plan through on copies, every step succeeding at once, and
// returns the steps in order and the state of rest that they lead to.
func preview(in Input) ([]StepStatus, Input) {
	in = copyInput(in)
	var out []StepStatus
	replaced := map[string]int{} // where the stop of a replacement stands
	// Every round brings at least one container nearer to its end, and each
	// takes a handful of steps (image, drain, stop, start, limits).
	for range 10 + 8*(len(in.Observed)+len(in.Images)+len(orderOf(in.Desired))) {
		d := Plan(in)
		progress := false
		for _, step := range d.Steps {
			progress = true
			pretend(&in, step)
			switch {
			case step.Action == ActionDrain, step.Action == ActionFinish, step.Action == ActionRemove && in.Desired.jobs[step.Name] != nil:
				continue // belongs to the step that follows or went before
			case step.Action == ActionStop && (step.Cause == CauseReplace || step.Cause == CauseRequested || step.Cause == CauseHealth):
				replaced[step.Name] = len(out)
				action := "replace"
				if step.Cause != CauseReplace {
					action = "restart"
				}
				out = append(out, StepStatus{Action: action, Service: step.Name, Reason: step.Reason})
				continue
			case step.Action == ActionStart:
				if _, ok := replaced[step.Name]; ok {
					continue
				}
			}
			name := step.Name
			if step.Action == ActionPull {
				name = step.Image
			}
			out = append(out, StepStatus{Action: string(step.Action), Service: name, Reason: step.Reason})
		}
		if !progress {
			out = append(out, waits(d)...)
			break
		}
	}
	return out, in
}

func orderOf(p *Prepared) []string {
	if p == nil {
		return nil
	}
	return p.order
}

// waits lists what a state of rest still waits for.
func waits(d Decision) []StepStatus {
	names := make([]string, 0, len(d.Waits))
	for name, w := range d.Waits {
		if w.State != StateStopped {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var out []StepStatus
	for _, name := range names {
		w := d.Waits[name]
		why := w.Why.String()
		if !w.Until.IsZero() {
			why += " (until " + w.Until.UTC().Format(time.RFC3339) + ")"
		}
		out = append(out, StepStatus{Action: "wait", Service: name, Reason: why})
	}
	return out
}

// copyInput makes an input whose maps may be changed, with everything that is
// in flight taken as done.
func copyInput(in Input) Input {
	in.Observed, in.Images, in.Jobs = orEmpty(in.Observed), orEmpty(in.Images), orEmpty(in.Jobs)
	in.History, in.Health, in.Drains = orEmpty(in.History), orEmpty(in.Health), orEmpty(in.Drains)
	flight := in.InFlight
	in.InFlight = nil
	for ref, image := range in.Images {
		image.Pulling = false
		in.Images[ref] = image
	}
	if in.Network.Applying {
		in.Network = NetworkState{Ready: true}
	}
	for _, name := range sorted(flight) {
		op := flight[name]
		if in.Desired == nil || in.Desired.services[name] == nil && in.Desired.jobs[name] == nil {
			continue
		}
		pretend(&in, Step{Action: op.Action, Name: name, Cause: op.Cause})
	}
	return in
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// pretend changes in as the step would if it succeeded at once.
func pretend(in *Input, step Step) {
	name := step.Name
	running := func(spec container.Spec) container.Status {
		labels := maps.Clone(spec.Labels)
		if r := restartLabel(in.Intents[name].Restart); r != "" && spec.Kind == container.Service {
			labels[container.LabelRestart] = r
		}
		return container.Status{ID: spec.ID(), State: container.Running, PID: 1, Started: in.Now, Labels: labels, Image: spec.Image}
	}
	switch step.Action {
	case ActionNetwork:
		in.Network = NetworkState{Ready: true}
	case ActionPull:
		in.Images[step.Image] = ImageState{Present: true, Digest: in.Images[step.Image].Digest}
	case ActionStart:
		yes := Verdict{Known: true, OK: true, Since: in.Now}
		in.Observed[name] = running(in.Desired.services[name].Spec)
		in.Health[name] = Health{Startup: yes, Readiness: yes, Liveness: yes, WasReady: true}
		h := in.History[name]
		h.StartedAt, h.Crashed, h.HealthAt = in.Now, false, time.Time{}
		in.History[name] = h
	case ActionDrain:
		in.Drains[name] = Drain{Since: in.Now, Done: true}
	case ActionStop:
		if st, ok := in.Observed[name]; ok {
			st.State, st.PID, st.Exit = container.Exited, 0, nil
			in.Observed[name] = st
		}
		delete(in.Drains, name)
		delete(in.Health, name)
	case ActionRemove:
		delete(in.Observed, name)
	case ActionLimits:
		if st, ok := in.Observed[name]; ok {
			st.Labels = withLabel(st.Labels, container.LabelLimitsHash, in.Desired.services[name].Spec.Labels[container.LabelLimitsHash])
			in.Observed[name] = st
		}
	case ActionJob, ActionFinish:
		j := in.Desired.jobs[name]
		delete(in.Observed, name)
		in.Jobs[name] = record.JobRecord{Name: name, Reason: j.Reason, State: record.JobSucceeded, Attempts: 1, Started: in.Now, Ended: in.Now}
	}
}
