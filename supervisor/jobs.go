package supervisor

import (
	"context"
	"fmt"
	"time"

	"tarima/store/record"
)

// startJob writes down that the job begins and starts it: a daemon that dies
// in between leaves a record that says "running" and no container, which the
// next one takes for an interrupted run.
func (s *Supervisor) startJob(j *Job, now time.Time) {
	name, ref := j.Spec.Name, j.Spec.Image
	spec := s.launch(j.Spec)
	before := s.jobs[name]
	r := record.JobRecord{Name: name, Reason: j.Reason, State: record.JobRunning, Attempts: 1, Started: now}
	if before.Reason == j.Reason {
		r.Attempts = before.Attempts + 1
	}
	delete(s.lastExit, name)
	s.begin(name, Operation{Action: ActionJob, Deadline: now.Add(startDeadline)}, true, func(ctx context.Context) func() {
		if err := s.cfg.Store.SetJob(s.cfg.Site, r); err != nil {
			return func() { s.ran(name, err, "store: the start of the job cannot be written down") }
		}
		st, err := s.run(ctx, spec)
		if s.ctx.Err() != nil && err != nil {
			return func() {} // the daemon ends; the run counts as interrupted
		}
		if err != nil {
			failed := r
			failed.State, failed.Ended, failed.ExitCode, failed.Message = record.JobFailedFor, time.Now(), -1, err.Error()
			kept := s.cfg.Store.SetJob(s.cfg.Site, failed)
			return func() {
				s.own[name] = true
				s.jobs[name] = failed
				s.ran(name, kept, "store: the result of the job cannot be written down")
				s.doubt(ref)
				s.tell(record.JobFailed, name, failed.Message, failed.Ended)
			}
		}
		return func() {
			s.own[name] = true
			s.ran(name, nil, "")
			s.jobs[name] = r
			s.see(name, st)
			s.tell(record.JobStarted, name, fmt.Sprintf("attempt %d", r.Attempts), st.Started)
			s.endedAlready(name, st)
			s.pin(ref, st.Image)
		}
	})
}

// finishJob writes the result of an ended job down, and removes its container
// after that: until the record is safe, the container is the record.
func (s *Supervisor) finishJob(j *Job, now time.Time) {
	name, id := j.Spec.Name, j.Spec.ID()
	exit := *s.observed[name].Exit
	r := s.jobs[name]
	if r.Reason != j.Reason { // of a store that was lost
		r = record.JobRecord{Attempts: 1, Started: s.observed[name].Started}
	}
	r.Name, r.Reason, r.Ended, r.ExitCode = name, j.Reason, exit.At, exit.Code
	late := s.late[name]
	s.begin(name, Operation{Action: ActionFinish, Deadline: now.Add(finishDeadline)}, true, func(ctx context.Context) func() {
		switch {
		case late:
			r.State, r.Message = record.JobFailedFor, because("job-late", "Time", j.Timeout.String()).String()
		case exit.Code == 0:
			r.State, r.Message = record.JobSucceeded, ""
		default:
			r.State, r.Message = record.JobFailedFor, exitReason(&exit, j.Spec.Limits).String()
		}
		r.LogTail = nil
		if r.State == record.JobFailedFor {
			r.LogTail = s.cfg.Engine.LogTail(id, tailLines)
		}
		if err := s.cfg.Store.SetJob(s.cfg.Site, r); err != nil {
			return func() { s.ran(name, err, "store: the result of the job cannot be written down") }
		}
		gone := s.discard(ctx, id, name)
		return func() {
			delete(s.late, name)
			s.jobs[name] = r
			if s.ctx.Err() == nil {
				s.ran(name, gone, "what is left of the job cannot be removed")
			}
			if gone == nil {
				s.forget(name)
			}
			kind, reason := record.JobDone, fmt.Sprintf("succeeded after %s", exit.At.Sub(r.Started).Round(time.Millisecond))
			if r.State == record.JobFailedFor {
				kind, reason = record.JobFailed, r.Message
			}
			s.journal.add(entry{event: record.Event{At: exit.At, Kind: kind, Service: name, ExitCode: &exit.Code, Reason: reason, LogTail: r.LogTail}})
		}
	})
}
