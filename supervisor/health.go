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
	Why   string    // of a failure
}

// next folds one more answer into the verdict.
func (v Verdict) next(ok bool, at time.Time, why string) Verdict {
	if !v.Known || v.OK != ok {
		v = Verdict{Known: true, OK: ok, Since: at}
	}
	v.Why = why
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
// why not. A non-zero recheck is when the answer changes by time alone.
func readiness(svc *Service, st container.Status, h Health, now time.Time) (ok bool, since time.Time, why string, recheck time.Time) {
	if st.State != container.Running {
		return false, time.Time{}, "does not run", time.Time{}
	}
	if !started(svc, h) {
		if h.Startup.Known {
			return false, time.Time{}, "is starting: " + h.Startup.Why, time.Time{}
		}
		return false, time.Time{}, "is starting", time.Time{}
	}
	probe, v := svc.Probes.Readiness, h.Readiness
	switch {
	case probe == nil:
		since = st.Started
		if svc.Probes.Startup != nil && h.Startup.OK {
			since = h.Startup.Since
		}
		return true, since, "", time.Time{}
	case !v.Known && h.Presumed:
		return true, st.Started, "", time.Time{}
	case !v.Known:
		return false, time.Time{}, "is starting: not asked yet", time.Time{}
	case v.OK:
		return true, v.Since, "", time.Time{}
	}
	if until := v.Since.Add(probe.Grace); (h.WasReady || h.Presumed) && now.Before(until) {
		return true, v.Since, "", until
	}
	return false, time.Time{}, "does not answer as it should: " + v.Why, time.Time{}
}

// unhealthy says whether the probes ask for a restart. due is when the failure
// has lasted long enough, counted from the moment at which everything that
// the service depends on was ready (depsSince): what a dependency did to it
// must not be held against it.
func unhealthy(svc *Service, st container.Status, h Health, p Policy, depsSince time.Time) (failing bool, due time.Time, why string) {
	if st.State != container.Running {
		return false, time.Time{}, ""
	}
	var since time.Time
	var grace time.Duration
	switch {
	case !started(svc, h):
		if !h.Startup.Known || h.Startup.OK {
			return false, time.Time{}, ""
		}
		// From the first question, which comes with the start: the container's
		// own time of start is of a wall clock that may be set meanwhile.
		since, grace, why = h.Startup.Since, orDefault(svc.Probes.Startup.Grace, defaultStartupGrace), "did not finish starting: "+h.Startup.Why
	case svc.Probes.Liveness != nil && h.Liveness.Known && !h.Liveness.OK:
		since, grace, why = h.Liveness.Since, orDefault(svc.Probes.Liveness.Grace, defaultLivenessGrace), "gave no sign of life: "+h.Liveness.Why
	default:
		return false, time.Time{}, ""
	}
	if svc.Database {
		grace = max(grace, p.DatabaseGrace)
	}
	if depsSince.After(since) {
		since = depsSince
	}
	return true, since.Add(grace), why
}
