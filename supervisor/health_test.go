package supervisor

import (
	"slices"
	"strings"
	"testing"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
)

// settled boots the demo site and waits for it to be ready.
func settled(r *rig) {
	r.t.Helper()
	r.boot()
	r.mustApply(demo())
	r.until(OverallReady, time.Minute)
	pass(time.Minute)
	r.engine.forgetLog()
}

func TestHungServiceLeavesRoutingAndIsRestarted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		r.mustApply(change(demo(), "lms", func(s *Service) { s.Spec.StopTimeout = 10 * time.Minute }))
		r.until(OverallReady, time.Minute)
		pass(time.Minute)
		r.engine.forgetLog()
		pids := r.engine.running()
		r.engine.setAct("lms", behaviour{hung: true, stopTakes: time.Hour})
		hung := time.Now()
		for r.router.state("lms.example.test") == routes.Ready {
			pass(100 * time.Millisecond)
		}
		// At most an interval, a time-out, the grace and one more question later.
		if got, took := r.router.state("lms.example.test"), time.Since(hung); got != routes.Hold || took > 22*time.Second {
			t.Errorf("a hung LMS is routed as %q after %s", got, took)
		}
		if r.engine.running()["lms"] != pids["lms"] {
			t.Error("restarted before its grace was over")
		}
		if st := r.service("lms"); st.State != StateUnready || !strings.Contains(st.Why, "no answer in time") {
			t.Errorf("status: %+v", st)
		}
		// It does not hear its signal: killed long before its own patience.
		pass(40 * time.Second)
		if r.engine.running()["lms"] == pids["lms"] {
			t.Fatal("not restarted")
		}
		r.engine.setAct("lms", behaviour{})
		r.until(OverallReady, time.Minute)
		if done := r.engine.done(); !slices.Equal(done, []string{"stop lms", "start lms"}) {
			t.Errorf("steps: %q", done)
		}
	})
}

func TestHungDatabaseIsLeftAloneFarLongerAndReported(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		for _, name := range []string{"mysql", "lms", "cms"} { // those behind it hang with it
			r.engine.setAct(name, behaviour{hung: true})
		}
		pass(4 * time.Minute)
		if got := r.engine.running(); got["mysql"] != pids["mysql"] || got["lms"] != pids["lms"] || got["cms"] != pids["cms"] {
			t.Errorf("restarted within the grace: %q", r.engine.done())
		}
		if st := r.service("mysql"); st.State != StateUnready || st.Why == "" {
			t.Errorf("not reported: %+v", st)
		}
		if got := r.store.find("lms", record.Suppressed); len(got) != 1 || !strings.Contains(got[0].Reason, "mysql") {
			t.Errorf("suppressed events of the LMS: %+v", got)
		}
		pass(2 * time.Minute)
		if r.engine.running()["mysql"] == pids["mysql"] {
			t.Error("never restarted")
		}
	})
}

func TestDependencyDownForAMinuteRestartsNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		if err := r.StopService(t.Context(), "mysql"); err != nil {
			t.Fatal(err)
		}
		r.engine.setAct("lms", behaviour{hung: true})
		r.engine.setAct("cms", behaviour{unready: true})
		pass(time.Minute)
		if r.router.state("lms.example.test") != routes.Hold {
			t.Error("visitors do not get the waiting page")
		}
		if err := r.StartService(t.Context(), "mysql"); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second) // ready again; what hung now has its own grace anew
		r.engine.setAct("lms", behaviour{})
		r.engine.setAct("cms", behaviour{})
		r.until(OverallReady, time.Minute)
		for name, pid := range r.engine.running() {
			if pids[name] != pid && name != "mysql" {
				t.Errorf("%s was restarted for the failure of mysql", name)
			}
		}
	})
}

func TestOneHealthRestartAtATimePerGroup(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		for _, name := range []string{"lms", "cms", "lms-worker"} {
			r.engine.setAct(name, behaviour{hung: true})
		}
		pass(time.Minute)
		stops := 0
		for _, line := range r.engine.done() {
			if strings.HasPrefix(line, "stop ") {
				stops++
			}
		}
		if stops != 1 {
			t.Errorf("%d services of a group were restarted at the same time: %q", stops, r.engine.done())
		}
		for _, name := range []string{"lms", "cms", "lms-worker"} {
			r.engine.setAct(name, behaviour{})
		}
		r.until(OverallReady, 10*time.Minute)
	})
}

func TestBudgetOfHealthRestarts(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.policy = Policy{HealthBudget: 2, HealthWindow: 20 * time.Minute, RecoveryTime: time.Second}
		settled(r)
		// Alive again after each restart for a little while only.
		d := change(demo(), "lms", func(s *Service) { s.Probes.Startup = nil; s.Probes.Readiness = nil })
		r.mustApply(d)
		r.until(OverallReady, time.Minute)
		r.engine.setAct("lms", behaviour{hung: true})
		pass(15 * time.Minute)
		stops := 0
		for _, e := range r.store.find("lms", record.ExitedEvent) {
			if strings.HasPrefix(e.Reason, "stopped for its health") {
				stops++
			}
		}
		if stops != 2 {
			t.Errorf("%d restarts within a window that allows 2", stops)
		}
		if len(r.store.find("lms", record.Suppressed)) == 0 {
			t.Error("no suppressed event")
		}
		pass(10 * time.Minute)
		if n := len(r.store.find("lms", record.ExitedEvent)); n <= 2 {
			t.Error("not restarted when the window had passed")
		}
	})
}

func TestPressureHoldsHealthRestartsBack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		r.setPressure("the host is short of memory")
		r.engine.setAct("lms", behaviour{hung: true})
		pass(10 * time.Minute)
		if r.engine.running()["lms"] != pids["lms"] {
			t.Error("restarted under pressure")
		}
		if got := r.store.find("lms", record.Suppressed); len(got) != 1 || !strings.Contains(got[0].Reason, "short of memory") {
			t.Errorf("suppressed events: %+v", got)
		}
		r.setPressure("")
		pass(15 * time.Second)
		if r.engine.running()["lms"] == pids["lms"] {
			t.Error("not restarted when the pressure was over")
		}
	})
}

func TestServiceThatNeverFinishesStartingIsRestarted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("redis", behaviour{unready: true})
		r.boot()
		r.mustApply(demo())
		pass(9 * time.Minute)
		pid := r.engine.running()["redis"]
		if st := r.service("redis"); pid == 0 || st.State != StateStarting || !strings.Contains(st.Why, "503") {
			t.Errorf("status: %+v", st)
		}
		pass(2 * time.Minute)
		if r.engine.running()["redis"] == pid {
			t.Error("not restarted after its startup's grace")
		}
	})
}

func TestOutOfMemoryIsNamedWithItsLimit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		r.engine.mu.Lock()
		c := r.engine.containers["default.lms"]
		for _, l := range r.engine.listeners {
			l <- container.Event{Kind: container.EventOOM, ID: "default.lms", At: time.Now()}
		}
		r.engine.mu.Unlock()
		r.engine.exit("default.lms", c, container.Exit{Code: 137}) // the exit alone does not say so
		pass(10 * time.Second)
		exits := r.store.find("lms", record.ExitedEvent)
		if len(exits) != 1 || exits[0].Reason != "out of memory: it reached its limit of 600 MiB (exit code 137)" {
			t.Errorf("exit events: %+v", exits)
		}
		if len(r.store.find("lms", record.OOM)) != 1 {
			t.Error("no out-of-memory event")
		}
		for name, pid := range r.engine.running() {
			if name != "lms" && pids[name] != pid {
				t.Errorf("%s was touched", name)
			}
		}
	})
}

func TestReadiness(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	running := container.Status{State: container.Running, Started: ago(time.Hour)}
	all := Service{Probes: Probes{Startup: &Probe{}, Readiness: &Probe{Grace: 10 * time.Second}}}
	failed := func(long time.Duration) Verdict {
		return Verdict{Known: true, Since: ago(time.Minute), Last: ago(time.Minute - long), Why: "x"}
	}
	yes, no := Verdict{Known: true, OK: true, Since: ago(time.Minute)}, failed(5*time.Second)
	for name, c := range map[string]struct {
		svc  Service
		st   container.Status
		h    Health
		want bool
	}{
		"does not run":                      {all, container.Status{}, Health{Startup: yes, Readiness: yes}, false},
		"no probes":                         {Service{}, running, Health{}, true},
		"startup not asked":                 {all, running, Health{}, false},
		"startup failed":                    {all, running, Health{Startup: no}, false},
		"readiness not asked":               {all, running, Health{Startup: yes}, false},
		"ready":                             {all, running, Health{Startup: yes, Readiness: yes}, true},
		"failed within grace":               {all, running, Health{Startup: yes, Readiness: no, WasReady: true}, true},
		"never ready has no grace":          {all, running, Health{Startup: yes, Readiness: no}, false},
		"failed beyond grace":               {all, running, Health{Startup: yes, Readiness: failed(10 * time.Second), WasReady: true}, false},
		"taken over":                        {all, running, Health{Presumed: true}, true},
		"taken over, and a probe says no":   {all, running, Health{Presumed: true, Readiness: failed(20 * time.Second)}, false},
		"taken over without a past":         {all, running, Health{}, false},
		"startup alone decides without one": {Service{Probes: Probes{Startup: &Probe{}}}, running, Health{Startup: yes}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _, why := readiness(&c.svc, c.st, c.h); got != c.want || got != why.none() {
				t.Errorf("ready %v (%q), want %v", got, why, c.want)
			}
		})
	}
}

func TestUnhealthyCountsFromWhenDependenciesWereReady(t *testing.T) {
	now := time.Now()
	st := container.Status{State: container.Running, Started: now.Add(-time.Hour)}
	lasting := func(d time.Duration) Health {
		return Health{Liveness: Verdict{Known: true, Since: now.Add(-10 * time.Minute), Last: now.Add(-10 * time.Minute).Add(d), Why: "x"}}
	}
	p := Policy{}.withDefaults()
	plain := Service{Probes: Probes{Liveness: &Probe{Grace: time.Minute}}}
	database := plain
	database.Database = true
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		svc  Service
		h    Health
		deps time.Time
		want bool
	}{
		"never asked":                    {plain, Health{}, time.Time{}, false},
		"one failure is no duration":     {plain, lasting(0), time.Time{}, false},
		"shorter than its grace":         {plain, lasting(59 * time.Second), time.Time{}, false},
		"as long as its grace":           {plain, lasting(time.Minute), time.Time{}, true},
		"dependency ready just now":      {plain, lasting(10 * time.Minute), ago(10 * time.Second), false},
		"dependency ready long enough":   {plain, lasting(10 * time.Minute), ago(61 * time.Second), true},
		"no failure seen since it was":   {plain, lasting(8 * time.Minute), ago(90 * time.Second), false},
		"database within the long grace": {database, lasting(4 * time.Minute), time.Time{}, false},
		"database beyond the long grace": {database, lasting(5 * time.Minute), time.Time{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := unhealthy(&c.svc, st, c.h, p, c.deps); got != c.want {
				t.Errorf("restart %v, want %v", got, c.want)
			}
		})
	}
}
