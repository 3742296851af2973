package supervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFirstBootComesUpInDependencyOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("mysql", behaviour{readyAfter: 20 * time.Second})
		r.engine.setAct("lms", behaviour{readyAfter: 30 * time.Second})
		r.boot()
		r.mustApply(demo())
		r.until(OverallReady, 10*time.Minute)
		done := r.engine.done()
		before := func(a, b string) {
			t.Helper()
			i, j := slices.Index(done, a), slices.Index(done, b)
			if i < 0 || j < 0 || i > j {
				t.Errorf("%q is not before %q in %q", a, b, done)
			}
		}
		before("start mysql", "start mysql-init")
		before("start mysql-init", "start lms-migrate")
		before("start lms-migrate", "start cms-migrate")
		before("start lms-migrate", "start lms")
		before("start cms-migrate", "start cms")
		if got := r.router.state("lms.example.test"); got != routes.Ready {
			t.Errorf("the LMS is routed as %q", got)
		}
		if len(done) != 9 {
			t.Errorf("steps: %q", done)
		}
		steps, err := r.Plan(t.Context())
		if err != nil || len(steps) != 0 {
			t.Errorf("plan at rest: %v, %v", steps, err)
		}
		for name, j := range r.store.jobs {
			if j.State != record.JobSucceeded || j.Attempts != 1 {
				t.Errorf("job %s: %+v", name, j)
			}
		}
	})
}

func TestKilledServiceIsRestartedAtOnceAndAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		r.mustApply(demo())
		r.until(OverallReady, time.Minute)
		pids := r.engine.running()
		r.engine.kill("lms")
		pass(time.Second)
		after := r.engine.running()
		for name, pid := range pids {
			if (after[name] != pid) != (name == "lms") {
				t.Errorf("%s: process %d before, %d after", name, pid, after[name])
			}
		}
		if after["lms"] == 0 {
			t.Error("the LMS does not run")
		}
		got := r.store.kinds("lms")
		want := []record.EventKind{record.Started, record.ProbePassed, record.ExitedEvent, record.Restarted, record.ProbePassed}
		if !slices.Equal(got, want) {
			t.Errorf("history: %v, want %v", got, want)
		}
		exits := r.store.find("lms", record.ExitedEvent)
		if len(exits) != 1 || exits[0].ExitCode == nil || *exits[0].ExitCode != 137 || len(exits[0].LogTail) == 0 {
			t.Errorf("exit event: %+v", exits)
		}
		if st := r.service("lms"); st.Restarts != 1 {
			t.Errorf("restarts: %d", st.Restarts)
		}
	})
}

func TestRestartedDaemonAdoptsEverything(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		r.mustApply(demo())
		r.until(OverallReady, time.Minute)
		pids := r.engine.running()
		r.die()
		r.engine.forgetLog()
		puts := len(r.router.snapshots())
		r.boot()
		r.reapply(demo())
		pass(time.Minute)
		r.until(OverallReady, time.Second)
		if done := r.engine.done(); len(done) != 0 {
			t.Errorf("an adoption did %q", done)
		}
		for name, pid := range r.engine.running() {
			if pids[name] != pid {
				t.Errorf("%s has another process", name)
			}
		}
		for _, snapshot := range r.router.snapshots()[puts:] {
			for _, h := range snapshot.Hosts {
				if h.State != routes.Ready {
					t.Errorf("%s was routed as %s during the adoption", h.Name, h.State)
				}
			}
		}
		if got := r.store.find("lms", record.Adopted); len(got) != 1 {
			t.Errorf("adopted events: %v", got)
		}
	})
}

func TestExitWhileTheDaemonIsDeadIsKnownAfterwards(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		r.mustApply(demo())
		r.until(OverallReady, time.Minute)
		r.die()
		r.engine.kill("redis")
		at := time.Now()
		pass(time.Hour)
		r.boot()
		r.reapply(demo())
		pass(10 * time.Second)
		r.until(OverallReady, time.Minute)
		exits := r.store.find("redis", record.ExitedEvent)
		if len(exits) != 1 || *exits[0].ExitCode != 137 || !exits[0].At.Equal(at) {
			t.Errorf("exit events: %+v, want one with code 137 at %s", exits, at)
		}
	})
}

func TestRebootBringsAllBackInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		r.mustApply(demo())
		r.until(OverallReady, time.Minute)
		r.die()
		r.engine.mu.Lock()
		for _, c := range r.engine.containers { // records without processes
			c.status.State, c.status.PID = container.Missing, 0
			c.status.Exit = &container.Exit{Code: -1, Unknown: true}
		}
		r.engine.mu.Unlock()
		r.engine.forgetLog()
		r.boot()
		r.reapply(demo())
		r.until(OverallReady, time.Minute)
		done := r.engine.done()
		if len(done) != 6 || slices.Index(done, "start mysql") > slices.Index(done, "start lms") {
			t.Errorf("after the reboot: %q", done)
		}
		if st := r.service("lms"); st.Restarts != 0 {
			t.Errorf("a reboot counts as %d restarts", st.Restarts)
		}
	})
}

func TestCrashLoopBacksOffFailsVisiblyAndHeals(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		r.mustApply(demo())
		r.until(OverallReady, time.Minute)
		r.engine.forgetLog()
		r.engine.setAct("lms", behaviour{exitAfter: 100 * time.Millisecond, exitCode: 3})
		r.engine.kill("lms")
		pass(30 * time.Minute)
		st := r.service("lms")
		if st.State != StateFailing || st.Why != "ended with exit code 3" || len(st.LogTail) == 0 || st.Next.IsZero() {
			t.Errorf("status: %+v", st)
		}
		// 0, 1, 2, 4 … 256 s, then every 300 s (each a fifth more or less).
		starts := len(r.engine.done())
		if starts < 12 || starts > 18 {
			t.Errorf("%d starts in 30 minutes", starts)
		}
		if r.router.state("lms.example.test") != routes.Down {
			t.Error("visitors of a failing service are not told at once")
		}
		if r.Status().Overall != OverallDegraded {
			t.Errorf("overall: %s", r.Status().Overall)
		}
		if n := len(r.store.find("lms", record.Failing)); n != 1 {
			t.Errorf("%d failing events", n)
		}
		r.engine.setAct("lms", behaviour{})
		pass(7 * time.Minute)
		r.until(OverallReady, 15*time.Minute)
		// After the quiet time the series is forgotten.
		pass(10 * time.Minute)
		if n := len(r.store.find("lms", record.Recovered)); n != 1 {
			t.Errorf("%d recovered events", n)
		}
		r.engine.kill("lms")
		pass(100 * time.Millisecond)
		if r.engine.running()["lms"] == 0 {
			t.Error("the first restart of a new series does not come at once")
		}
	})
}

func TestProcessThatEndsDuringItsStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("redis", behaviour{exitsAtOnce: true, exitCode: 3})
		r.boot()
		r.mustApply(demo())
		pass(10 * time.Minute)
		if st := r.service("redis"); st.State != StateFailing || st.Why != "ended with exit code 3" {
			t.Errorf("status: %+v", st)
		}
		if n := count(r.engine.done(), "start redis"); n < 5 || n > 15 {
			t.Errorf("%d starts in 10 minutes", n)
		}
		r.engine.setAct("mysql-init", behaviour{exitsAtOnce: true})
		r.engine.setAct("redis", behaviour{})
		r.until(OverallReady, 10*time.Minute)
	})
}

func TestBlockedOperationIsReportedAndTheLoopGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		release := make(chan struct{})
		r.engine.setAct("lms", behaviour{startBlocks: release})
		r.engine.kill("lms")
		fed := r.fed.Load()
		pass(5 * time.Minute)
		if n := r.fed.Load() - fed; n < 60 {
			t.Errorf("the watchdog was fed %d times in 5 minutes", n)
		}
		if st := r.Status(); len(st.Trouble) != 1 || !strings.Contains(st.Trouble[0], "start of lms has not returned") {
			t.Errorf("trouble: %q", st.Trouble)
		}
		r.engine.kill("cms") // everything else is kept as ever
		pass(10 * time.Second)
		if st := r.service("cms"); st.State != StateReady {
			t.Errorf("Studio: %+v", st)
		}
		close(release)
		r.engine.setAct("lms", behaviour{})
		r.until(OverallReady, time.Minute)
		if st := r.Status(); len(st.Trouble) != 0 {
			t.Errorf("trouble: %q", st.Trouble)
		}
	})
}

func TestNothingStartsBeforeTheStoreIsRead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.store.readErr = errors.New("input/output error")
		r.boot()
		err := r.Apply(t.Context(), demo(), record.Applied{Generation: 1})
		if err == nil {
			t.Error("an apply without the history succeeded")
		}
		pass(time.Minute)
		if st := r.Status(); len(st.Trouble) != 1 || !strings.Contains(st.Trouble[0], "input/output error") {
			t.Errorf("trouble: %q", st.Trouble)
		}
		r.store.mu.Lock()
		r.store.readErr = nil
		r.store.mu.Unlock()
		r.mustApply(demo())
		r.until(OverallReady, time.Minute)
	})
}

func TestClockThatIsSetBackKeepsNobodyDown(t *testing.T) {
	p := Policy{}.withDefaults()
	now := time.Now()
	h := History{Failures: 5}
	for name, at := range map[string]time.Time{"told at once": now, "of a clock that is ahead": now.Add(time.Hour)} {
		if got := p.Failed("x", h, at, said("y")).rebase(at, now); got.NextStart.Sub(now) > time.Minute {
			t.Errorf("%s: the next start is in %s", name, got.NextStart.Sub(now))
		}
	}
	if got := p.Failed("x", h, now.Add(-time.Hour), said("y")).rebase(now.Add(-time.Hour), now); got.NextStart.After(now) {
		t.Error("an end of an hour ago still waits")
	}
}

func TestRemovedServiceKeepsItsPatience(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		d := change(demo(), "lms-worker", func(s *Service) { s.Spec.StopTimeout = 5 * time.Minute; s.Spec.StopSignal = "SIGQUIT" })
		r.boot()
		r.mustApply(d)
		r.until(OverallReady, time.Minute)
		r.engine.setAct("lms-worker", behaviour{stopTakes: 4 * time.Minute})
		d.Services = slices.DeleteFunc(slices.Clone(d.Services), func(s Service) bool { return s.Spec.Name == "lms-worker" })
		r.mustApply(d)
		pass(3 * time.Minute)
		if _, runs := r.engine.running()["lms-worker"]; !runs {
			t.Error("killed before its own patience was over")
		}
		pass(2 * time.Minute)
		if _, runs := r.engine.running()["lms-worker"]; runs {
			t.Error("never stopped")
		}
	})
}

func TestEngineThatNeverAnswersIsReported(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		release := make(chan struct{})
		r.engine.mu.Lock()
		r.engine.listBlocks = release
		r.engine.mu.Unlock()
		pass(3 * time.Minute)
		if st := r.Status(); len(st.Trouble) != 1 || !strings.Contains(st.Trouble[0], "list of engine has not returned") {
			t.Errorf("trouble: %q", st.Trouble)
		}
		r.engine.mu.Lock()
		r.engine.listBlocks = nil
		r.engine.mu.Unlock()
		close(release)
		pass(5 * time.Second)
		if st := r.Status(); len(st.Trouble) != 0 {
			t.Errorf("trouble: %q", st.Trouble)
		}
	})
}

func TestNetworkThatWasTakenAwayIsMadeAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.network.mu.Lock()
		r.network.applied = container.Topology{}
		r.network.mu.Unlock()
		r.engine.kill("lms")
		pass(10 * time.Second)
		r.until(OverallReady, time.Minute)
		if r.network.applies < 2 || r.network.attached["lms"] == 0 {
			t.Errorf("%d applies; %v", r.network.applies, r.network.attached)
		}
	})
}

func TestNetworkThatCannotBeMadeIsReportedAndTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.network.err = errors.New("the range 10.213.0.0/24 is in use on eth1")
		r.boot()
		r.mustApply(demo())
		pass(10 * time.Minute)
		if st := r.Status(); len(st.Trouble) != 1 || !strings.Contains(st.Trouble[0], "in use on eth1") || len(r.engine.running()) != 0 {
			t.Errorf("status: %+v", st)
		}
		if st := r.service("mysql"); st.State != StateWaiting || !strings.Contains(st.Why, "in use on eth1") {
			t.Errorf("mysql: %+v", st)
		}
		if n := r.network.applies; n < 5 || n > 20 {
			t.Errorf("tried %d times in 10 minutes", n)
		}
		r.network.mu.Lock()
		r.network.err = nil
		r.network.mu.Unlock()
		r.until(OverallReady, 5*time.Minute)
	})
}

func TestListThatIsOldWhenItComesChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.policy = Policy{Base: time.Millisecond, Cap: time.Millisecond}
		settled(r)
		r.engine.mu.Lock()
		r.engine.listTakes = 10 * time.Second
		r.engine.mu.Unlock()
		for range 12 { // at every phase of the lists that come by themselves
			r.engine.kill("lms")
			pass(7 * time.Minute / 10)
			if got, want := r.service("lms").PID, r.engine.running()["lms"]; got != want || got == 0 {
				t.Fatalf("process %d in the status, %d in truth", got, want)
			}
		}
		if n := len(r.store.find("lms", record.Adopted)); n != 0 {
			t.Errorf("%d adoptions of containers that this daemon started", n)
		}
	})
}

func TestCrashLoopIsRememberedByTheNextDaemon(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.engine.setAct("lms", behaviour{exitAfter: 100 * time.Millisecond, exitCode: 3})
		r.engine.kill("lms")
		pass(30 * time.Minute)
		restarts := r.service("lms").Restarts
		for range 5 {
			r.die()
			pass(time.Second)
			r.engine.forgetLog()
			r.boot()
			r.reapply(demo())
			pass(20 * time.Second)
			if n := len(r.engine.done()); n > 1 {
				t.Errorf("%d starts after a restart of the daemon", n)
			}
		}
		if st := r.service("lms"); st.State != StateFailing || st.Why != "ended with exit code 3" || st.Restarts < restarts {
			t.Errorf("status: %+v, %d restarts before", st, restarts)
		}
	})
}

func TestExitDuringTheFirstListIsNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.die()
		r.engine.listTakes = 5 * time.Second
		r.boot()
		r.reapply(demo())
		pass(2 * time.Second)
		r.engine.kill("redis") // the list that is under way says that it runs
		pass(5 * time.Second)
		if n := r.engine.running()["redis"]; n == 0 {
			t.Error("not restarted")
		}
		if exits := r.store.find("redis", record.ExitedEvent); len(exits) != 1 || *exits[0].ExitCode != 137 {
			t.Errorf("exit events: %+v", exits)
		}
	})
}
