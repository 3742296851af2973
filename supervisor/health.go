package supervisor

import (
	"time"

	"tarima/runtime/container"
)

// Verdict is what a probe's answers add up to.
type Verdict struct {
	Known bool      // it has been asked at least once
	OK    bool      // the last answer
	Since time.Time // since when the answers have been so
	// Last is when the last failure was seen. What has failed from Since to
	// Last is known; that it failed any longer is not, until the next answer.
	Last time.Time
	Why  string // of a failure
}

// next folds one more answer into the verdict.
func (v Verdict) next(ok bool, at time.Time, why string) Verdict {
	if !v.Known || v.OK != ok {
		v = Verdict{Known: true, OK: ok, Since: at}
	}
	v.Why = why
	if !ok {
		v.Last = at
	}
	return v
}

// Health is what the probes say of one running container. It begins anew with
// each start.
type Health struct {
	Startup, Readiness, Liveness Verdict
	// WasReady means that this container has been ready before, so that the
	// readiness probe's grace applies to it.
	WasReady bool
	// Presumed means that the container was taken over from an earlier daemon
	// in whose time it was ready: it counts as ready until a probe says no.
	Presumed bool
}

const (
	defaultInterval      = 10 * time.Second
	defaultTimeout       = 5 * time.Second
	defaultStartupGrace  = 10 * time.Minute
	defaultLivenessGrace = 30 * time.Second
	pressureLook         = 10 * time.Second // how soon a held back restart is thought over again
)

// started says whether the startup probe has passed, or need not.
func started(svc *Service, h Health) bool {
	return svc.Probes.Startup == nil || h.Startup.OK || h.Presumed
}

// readiness says whether the container is ready, since when, and otherwise
// why not.
func readiness(svc *Service, st container.Status, h Health) (ok bool, since time.Time, why Reason) {
	if st.State != container.Running {
		return false, time.Time{}, because("not-running")
	}
	if !started(svc, h) {
		if h.Startup.Known {
			return false, time.Time{}, because("starting-answer", "Answer", h.Startup.Why)
		}
		return false, time.Time{}, because("starting")
	}
	probe, v := svc.Probes.Readiness, h.Readiness
	switch {
	case probe == nil:
		since = st.Started
		if svc.Probes.Startup != nil && h.Startup.OK {
			since = h.Startup.Since
		}
		return true, since, Reason{}
	case !v.Known && h.Presumed:
		return true, st.Started, Reason{}
	case !v.Known:
		return false, time.Time{}, because("starting-unasked")
	case v.OK:
		return true, v.Since, Reason{}
	}
	if (h.WasReady || h.Presumed) && v.Last.Sub(v.Since) < probe.Grace {
		return true, v.Since, Reason{}
	}
	return false, time.Time{}, because("unready", "Answer", v.Why)
}

// unhealthy says whether the probes ask for a restart: whether they were seen
// to fail for long enough, counted from the moment at which everything that
// the service depends on was ready (depsSince). What a dependency did to it
// must not be held against it.
func unhealthy(svc *Service, st container.Status, h Health, p Policy, depsSince time.Time) (restart bool, why Reason) {
	if st.State != container.Running {
		return false, Reason{}
	}
	var v Verdict
	var grace time.Duration
	switch {
	case !started(svc, h):
		v = h.Startup
		// From the first question, which comes with the start: the container's
		// own time of start is of a wall clock that may be set meanwhile.
		grace, why = orDefault(svc.Probes.Startup.Grace, defaultStartupGrace), because("start-hung", "Answer", h.Startup.Why)
	case svc.Probes.Liveness != nil:
		v = h.Liveness
		grace, why = orDefault(svc.Probes.Liveness.Grace, defaultLivenessGrace), because("hung", "Answer", h.Liveness.Why)
	}
	if !v.Known || v.OK {
		return false, Reason{}
	}
	if svc.Database {
		grace = max(grace, p.DatabaseGrace)
	}
	since := v.Since
	if depsSince.After(since) {
		since = depsSince
	}
	return v.Last.Sub(since) >= grace, why
}
