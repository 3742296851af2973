package supervisor

import (
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// jobBase is the wait before the second attempt of a job; it doubles with each
// further one.
const jobBase = 5 * time.Second

// interruptions are the attempts of a job that may vanish without a result
// before the next ones wait.
const interruptions = 3

// jobDone says whether the job has succeeded for its present reason.
func jobDone(j *Job, r record.JobRecord) bool {
	return r.Reason == j.Reason && r.State == record.JobSucceeded
}

// jobNext is when a job that failed is tried again. Its retries come with a
// doubling wait; when they are used up it counts as failing, and is tried at
// the cap for as long as the reason stands: what it waits for may come back
// without a human.
func (p Policy) jobNext(j *Job, r record.JobRecord) time.Time {
	if r.Reason == j.Reason && r.State == record.JobRunning && r.Attempts > interruptions {
		// A run that vanishes again and again is no accident any more.
		return r.Started.Add(min(jobBase<<min(r.Attempts-interruptions, 20), p.Cap))
	}
	if r.Reason != j.Reason || r.State != record.JobFailedFor {
		return time.Time{}
	}
	wait := p.Cap
	if n := r.Attempts - 1; r.Attempts <= j.Retries && n < 30 {
		wait = min(jobBase<<max(n, 0), p.Cap)
	}
	return r.Ended.Add(wait)
}

// jobFailing says whether a job has used up its attempts.
func jobFailing(j *Job, r record.JobRecord) bool {
	return r.Reason == j.Reason && r.State == record.JobFailedFor && r.Attempts > j.Retries
}

// jobRecorded says whether the end of the container is already in the record:
// the daemon died after it wrote the result and before it removed the container.
func jobRecorded(r record.JobRecord, st container.Status) bool {
	return r.State != record.JobRunning && r.Reason == st.Labels[container.LabelReason] &&
		st.Exit != nil && r.Ended.Equal(st.Exit.At)
}

func (p *planner) job(name string, j *Job) {
	if _, busy := p.in.InFlight[name]; busy {
		return
	}
	r := p.in.Jobs[name]
	st, seen := p.in.Observed[name]
	mine := seen && st.Labels[container.LabelReason] == j.Reason
	if seen && st.State == container.Running {
		p.runningJob(name, j, st, mine)
		return
	}
	if p.in.StopAll {
		return
	}
	if t := p.in.Retry[name]; p.in.Now.Before(t) {
		p.wait(name, Wait{State: StateBackoff, Why: because("step-failed").behind(p.in.History[name].Why), Until: t})
		return
	}
	if mine && st.Exit != nil && !st.Exit.Unknown && !jobRecorded(r, st) {
		p.step(Step{Action: ActionFinish, Name: name, Cause: CauseWanted, Reason: exitReason(st.Exit, j.Spec.Limits).String()})
		return
	}
	if jobDone(j, r) {
		if seen {
			p.step(Step{Action: ActionRemove, Name: name, Cause: CauseWanted, Reason: "its result is written down"})
		}
		return
	}
	w, ok := p.startable(name, j.Spec.Image, true)
	// A result from the future is of a clock that was set back: no reason to wait.
	if at := p.in.Policy.jobNext(j, r); p.in.Now.Before(at) && !r.Ended.After(p.in.Now) {
		state := StateBackoff
		if jobFailing(j, r) {
			state = StateFailing
		}
		p.wait(name, Wait{State: state, Why: recalled(r.Message, &r.ExitCode), Until: at})
		return
	}
	if !ok {
		p.wait(name, w)
		return
	}
	reason := "it has not run for this reason yet"
	switch {
	case r.Reason == j.Reason && r.State == record.JobFailedFor:
		reason = "its last attempt failed: " + r.Message
	case r.Reason == j.Reason && r.State == record.JobRunning:
		reason = "its last run was interrupted"
	}
	p.step(Step{Action: ActionJob, Name: name, Cause: CauseWanted, Reason: reason})
}

func (p *planner) runningJob(name string, j *Job, st container.Status, mine bool) {
	switch {
	case p.in.StopAll:
		if d := p.dependant(name); d != "" {
			return
		}
		p.stop(name, CauseSiteStop, because("site-stops"))
	case !mine:
		p.stop(name, CauseReplace, because("job-outdated"))
	case j.Timeout > 0:
		end := st.Started.Add(j.Timeout)
		if p.in.Now.Before(end) {
			p.wake(end)
			return
		}
		p.stop(name, CauseTimeout, because("job-timeout", "Time", j.Timeout.String()))
	}
}
