package supervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tarima/store/record"
)

func count(list []string, word string) int {
	n := 0
	for _, l := range list {
		if l == word {
			n++
		}
	}
	return n
}

func TestJobRunsOncePerReason(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.mustApply(demo())
		r.die()
		r.boot()
		r.reapply(demo())
		pass(time.Hour)
		if done := r.engine.done(); len(done) != 0 {
			t.Errorf("an unchanged reason did %q", done)
		}
		d := demo()
		d.Jobs[1].Reason = "r2"
		r.mustApply(d)
		pass(time.Minute)
		if done := r.engine.done(); !slices.Equal(done, []string{"start lms-migrate"}) {
			t.Errorf("a new reason did %q", done)
		}
		r.until(OverallReady, time.Second)
	})
}

func TestJobThatFailsIsRetriedAndThenReported(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("lms-migrate", behaviour{exitCode: 2})
		r.boot()
		r.mustApply(demo())
		pass(3 * time.Minute)
		if n := count(r.engine.done(), "start lms-migrate"); n != 3 {
			t.Errorf("%d attempts with 2 retries", n)
		}
		var st JobStatus
		for _, j := range r.Status().Jobs {
			if j.Name == "lms-migrate" {
				st = j
			}
		}
		if st.State != record.JobFailedFor || st.ExitCode != 2 || len(st.LogTail) == 0 || st.Attempts != 3 || !strings.Contains(st.Why, "exit code 2") {
			t.Errorf("status: %+v", st)
		}
		if r.Status().Overall != OverallDegraded {
			t.Errorf("overall: %s", r.Status().Overall)
		}
		if _, runs := r.engine.running()["lms"]; runs {
			t.Error("the LMS was started without its migration")
		}
		r.engine.setAct("lms-migrate", behaviour{})
		r.until(OverallReady, 10*time.Minute) // tried at the cap, heals by itself
	})
}

func TestFailedJobIsRetriedOnRequest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("lms-migrate", behaviour{exitCode: 2})
		r.boot()
		r.mustApply(demo())
		pass(3 * time.Minute)
		r.engine.setAct("lms-migrate", behaviour{})
		if err := r.StartService(t.Context(), "lms-migrate"); err != nil {
			t.Fatal(err)
		}
		r.until(OverallReady, 10*time.Second)
	})
}

func TestJobThatTakesTooLongIsStopped(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("mysql-init", behaviour{exitAfter: time.Hour})
		r.boot()
		r.mustApply(demo())
		pass(10*time.Minute + 5*time.Second)
		failed := r.store.find("mysql-init", record.JobFailed)
		if len(failed) != 1 || failed[0].Reason != "it was stopped because it took longer than 10m0s" {
			t.Errorf("events: %+v", failed)
		}
		r.engine.setAct("mysql-init", behaviour{})
		r.until(OverallReady, time.Minute)
	})
}

func TestJobThatRunsIsTakenOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("lms-migrate", behaviour{exitAfter: 5 * time.Minute})
		r.boot()
		r.mustApply(demo())
		pass(time.Minute)
		pid := r.engine.running()["lms-migrate"]
		r.die()
		r.boot()
		r.reapply(demo())
		pass(time.Minute)
		if pid == 0 || r.engine.running()["lms-migrate"] != pid {
			t.Error("not taken over")
		}
		r.until(OverallReady, 10*time.Minute)
		if n := count(r.engine.done(), "start lms-migrate"); n != 1 {
			t.Errorf("it ran %d times", n)
		}
	})
}

func TestJobThatEndsWhileTheDaemonIsDeadKeepsItsResult(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("lms-migrate", behaviour{exitAfter: 5 * time.Minute})
		r.boot()
		r.mustApply(demo())
		pass(time.Minute)
		r.die()
		pass(10 * time.Minute)
		r.boot()
		r.reapply(demo())
		r.until(OverallReady, time.Minute)
		if n := count(r.engine.done(), "start lms-migrate"); n != 1 {
			t.Errorf("it ran %d times", n)
		}
	})
}

func TestJobThatVanishedRunsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("lms-migrate", behaviour{exitAfter: 5 * time.Minute})
		r.boot()
		r.mustApply(demo())
		pass(time.Minute)
		r.die()
		r.engine.mu.Lock()
		r.engine.containers["default.lms-migrate"].timer.Stop()
		delete(r.engine.containers, "default.lms-migrate")
		r.engine.mu.Unlock()
		r.boot()
		r.reapply(demo())
		r.until(OverallReady, 10*time.Minute)
		if n := count(r.engine.done(), "start lms-migrate"); n != 2 {
			t.Errorf("it ran %d times", n)
		}
	})
}

func TestSiteStopInterruptsJobsWithoutAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("lms-migrate", behaviour{exitAfter: 5 * time.Minute})
		r.boot()
		r.mustApply(demo())
		pass(time.Minute)
		if err := r.StopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.die()
		r.boot()
		r.reapply(demo())
		r.until(OverallReady, 10*time.Minute)
		if n := len(r.store.find("lms-migrate", record.JobFailed)); n != 0 {
			t.Errorf("%d failures", n)
		}
	})
}

func TestJobWaitsForAStoreThatTakesItsRecord(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		d := demo()
		d.Jobs[2].Reason = "r2"
		r.mustApply(d)
		r.store.setErr(errors.New("no space left on device"))
		pass(5 * time.Minute)
		if n := count(r.engine.done(), "start cms-migrate"); n > 1 {
			t.Errorf("it ran %d times without a record", n)
		}
		r.store.setErr(nil)
		r.until(OverallReady, 5*time.Minute)
		if n := count(r.engine.done(), "start cms-migrate"); n != 1 {
			t.Errorf("it ran %d times", n)
		}
	})
}
