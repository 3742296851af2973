package supervisor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
)

func TestChangeTouchesItsServiceAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.mustApply(change(demo(), "mysql", func(s *Service) { s.Hash = "h2" }))
		pass(time.Minute)
		r.until(OverallReady, time.Minute)
		if done := r.engine.done(); !slices.Equal(done, []string{"stop mysql", "start mysql"}) {
			t.Errorf("steps: %q", done)
		}
		if n := len(r.store.find("mysql", record.ExitedEvent)); n != 0 {
			t.Error("a replacement counts as a failure")
		}
	})
}

func TestChangeTouchesDeclaredDependants(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		with := change(demo(), "lms-worker", func(s *Service) { s.RestartWith = []string{"lms"} })
		r.boot()
		r.mustApply(with)
		r.until(OverallReady, time.Minute)
		r.engine.forgetLog()
		r.mustApply(change(with, "lms", func(s *Service) { s.Hash = "h2" }))
		pass(time.Minute)
		r.until(OverallReady, time.Minute)
		done := r.engine.done()
		slices.Sort(done)
		if want := []string{"start lms", "start lms-worker", "stop lms", "stop lms-worker"}; !slices.Equal(done, want) {
			t.Errorf("steps: %q", done)
		}
	})
}

func TestChangeOfLimitsIsAppliedLive(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		bigger := change(demo(), "lms", func(s *Service) { s.Spec.Limits.MemoryMax = 900 << 20 })
		r.mustApply(bigger)
		pass(time.Minute)
		if done := r.engine.done(); !slices.Equal(done, []string{"limits lms"}) {
			t.Errorf("steps: %q", done)
		}
		if got := r.engine.limits["lms"].MemoryMax; got != 900<<20 {
			t.Errorf("limit: %d", got)
		}
		r.die()
		r.boot()
		r.reapply(bigger)
		pass(time.Minute)
		if done := r.engine.done(); len(done) != 1 {
			t.Errorf("the next daemon does not know that they are applied: %q", done)
		}
	})
}

func TestServiceThatIsNoLongerWantedIsStoppedAndRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		d := demo()
		d.Services = slices.DeleteFunc(slices.Clone(d.Services), func(s Service) bool { return s.Spec.Name == "lms-worker" })
		r.mustApply(d)
		pass(time.Minute)
		r.until(OverallReady, time.Second)
		list, _ := r.engine.List(t.Context(), "default")
		for _, st := range list {
			if st.ID == "default.lms-worker" {
				t.Error("its container is still there")
			}
		}
		if done := r.engine.done(); !slices.Equal(done, []string{"stop lms-worker"}) {
			t.Errorf("steps: %q", done)
		}
	})
}

func TestOldContainerGoesOnUntilTheNewOneCouldStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pid := r.engine.running()["lms"]
		r.engine.mu.Lock()
		r.engine.pullErr = errors.New("registry answered 500")
		r.engine.mu.Unlock()
		d := change(demo(), "lms", func(s *Service) { s.Hash = "h2"; s.Spec.Image = "example/lms:2" })
		r.mustApply(d)
		pass(20 * time.Minute)
		if r.engine.running()["lms"] != pid {
			t.Error("the old container was stopped although the new image never came")
		}
		if st := r.service("lms"); st.State != StateReady || !strings.Contains(st.Why, "registry answered 500") {
			t.Errorf("status: %+v", st)
		}
		r.engine.kill("redis") // meanwhile everything else is kept as ever
		pass(10 * time.Second)
		if r.engine.running()["redis"] == 0 {
			t.Error("redis was not restarted")
		}
		r.engine.mu.Lock()
		r.engine.pullErr = nil
		r.engine.mu.Unlock()
		pass(6 * time.Minute)
		if got := r.engine.running()["lms"]; got == pid || got == 0 {
			t.Error("not replaced when the image could be had")
		}
		if got := r.store.images["example/lms:2"].Digest; got == "" {
			t.Error("the digest is not pinned")
		}
	})
}

func TestStoppedServiceStaysStoppedOverRestarts(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		if err := r.StopService(t.Context(), "lms-worker"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if st := r.service("lms-worker"); st.State != StateStopped || st.Restarts != 0 {
			t.Errorf("status: %+v", st)
		}
		r.die()
		r.boot()
		r.reapply(demo())
		pass(time.Hour)
		if _, runs := r.engine.running()["lms-worker"]; runs {
			t.Error("it was started by the next daemon")
		}
		r.until(OverallReady, time.Second) // what is stopped by wish is no trouble
		if err := r.StartService(t.Context(), "lms-worker"); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		if _, runs := r.engine.running()["lms-worker"]; !runs {
			t.Error("not started again")
		}
	})
}

func TestRestartServiceIsDoneOnceEvenOverADaemonRestart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		if err := r.RestartService(t.Context(), "lms"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		pid := r.engine.running()["lms"]
		if pid == pids["lms"] {
			t.Fatal("not restarted")
		}
		r.die()
		r.boot()
		r.reapply(demo())
		pass(time.Minute)
		if r.engine.running()["lms"] != pid {
			t.Error("restarted again by the next daemon")
		}
		if st := r.service("lms"); st.Restarts != 0 {
			t.Errorf("a requested restart counts as %d", st.Restarts)
		}
	})
}

func TestRequestsForUnknownNames(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		if err := r.StopService(t.Context(), "lms"); !errors.Is(err, ErrNotApplied) {
			t.Errorf("before the first apply: %v", err)
		}
		if _, err := r.Supervisor.Plan(t.Context()); !errors.Is(err, ErrNotApplied) {
			t.Errorf("plan before the first apply: %v", err)
		}
		r.mustApply(demo())
		err := r.StopService(t.Context(), "lsm")
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "lms-worker") {
			t.Errorf("%v", err)
		}
		if err := r.StopService(t.Context(), "mysql-init"); !errors.Is(err, ErrUnknown) {
			t.Errorf("stop of a job: %v", err)
		}
	})
}

func TestNothingAppliedTouchesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		r.die()
		r.boot() // the site file is wrong, say: nothing is applied
		pass(time.Hour)
		if got := r.engine.running(); len(got) != len(pids) {
			t.Errorf("running: %v", names(got))
		}
	})
}

func TestApplyThatFailsLeavesEverythingAsItWas(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.store.setErr(errors.New("no space left on device"))
		d := change(demo(), "lms", func(s *Service) { s.Hash = "h2" })
		if err := r.Apply(t.Context(), d, record.Applied{Generation: 9}); err == nil {
			t.Error("an apply that cannot be committed succeeded")
		}
		pass(time.Minute)
		if done := r.engine.done(); len(done) != 0 {
			t.Errorf("steps: %q", done)
		}
		if got := r.Status().Generation; got != 1 {
			t.Errorf("generation %d", got)
		}
	})
}

func TestEventsWaitForAStoreThatTakesNone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.store.setErr(errors.New("no space left on device"))
		r.engine.kill("lms")
		pass(time.Minute)
		if r.engine.running()["lms"] == 0 {
			t.Error("not restarted while the store takes no events")
		}
		if st := r.Status(); len(st.Trouble) == 0 || !strings.Contains(st.Trouble[0], "no space left") {
			t.Errorf("trouble: %q", st.Trouble)
		}
		r.store.setErr(nil)
		pass(time.Minute)
		if len(r.store.find("lms", record.ExitedEvent)) != 1 || len(r.store.find("lms", record.Restarted)) != 1 {
			t.Errorf("events: %v", r.store.kinds("lms"))
		}
		if st := r.Status(); len(st.Trouble) != 0 {
			t.Errorf("trouble: %q", st.Trouble)
		}
	})
}

func TestEngineThatCannotListIsReportedAndAskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.listErr = errors.New("engine is gone")
		r.boot()
		r.mustApply(demo())
		pass(time.Minute)
		if st := r.Status(); len(st.Trouble) == 0 || len(r.engine.running()) != 0 {
			t.Errorf("status: %+v", st)
		}
		r.engine.mu.Lock()
		r.engine.listErr = nil
		r.engine.mu.Unlock()
		r.until(OverallReady, time.Minute)
	})
}

func TestStartThatFailsIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.engine.setAct("redis", behaviour{startErr: errors.New("no space left on device")})
		r.boot()
		r.mustApply(demo())
		pass(20 * time.Minute)
		if st := r.service("redis"); st.State != StateFailing || !strings.Contains(st.Why, "no space left") {
			t.Errorf("status: %+v", st)
		}
		if st := r.service("lms-worker"); st.State != StateWaiting || !strings.Contains(st.Why, "redis") {
			t.Errorf("status of its dependant: %+v", st)
		}
		r.engine.setAct("redis", behaviour{})
		if err := r.StartService(t.Context(), "redis"); err != nil {
			t.Fatal(err)
		}
		r.until(OverallReady, time.Minute)
	})
}

func TestStopAllStopsInReverseOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		for _, name := range []string{"lms", "cms", "lms-worker"} {
			r.engine.setAct(name, behaviour{stopTakes: 15 * time.Second})
		}
		if err := r.StopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := r.engine.done()
		if len(done) != 6 || len(r.engine.running()) != 0 {
			t.Fatalf("steps: %q", done)
		}
		for _, store := range []string{"stop mysql", "stop mongodb", "stop redis"} {
			if slices.Index(done, store) < 2 {
				t.Errorf("%s too early: %q", store, done)
			}
		}
		if r.Status().Overall != OverallStopped {
			t.Errorf("overall %s", r.Status().Overall)
		}
		pass(time.Hour)
		if len(r.engine.running()) != 0 {
			t.Error("something was started after the stop")
		}
		r.die()
		r.boot()
		r.reapply(demo())
		r.until(OverallReady, time.Minute) // the next boot starts it all
		if st := r.service("lms"); st.Restarts != 0 {
			t.Errorf("a stop counts as a failure: %+v", st)
		}
	})
}

func TestStopAllWithADeadline(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.engine.setAct("lms", behaviour{stopTakes: 20 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := r.StopAll(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		pass(time.Minute)
		if len(r.engine.running()) != 0 {
			t.Error("the stop did not go on")
		}
		if err := r.StartAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.until(OverallReady, time.Minute)
	})
}

func TestRequestsBeforeAPlannedStopMayEnd(t *testing.T) {
	for name, c := range map[string]struct {
		router func(*fakeRouter)
		early  bool // stopped within a second
	}{
		"the proxy tells":          {func(r *fakeRouter) { r.drains = true }, true},
		"the proxy tells nothing":  {func(r *fakeRouter) { r.drains = false }, false},
		"there is no proxy at all": {func(r *fakeRouter) { r.drains, r.err = false, errors.New("connection refused") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				c.router(r.router)
				settled(r)
				pid := r.engine.running()["lms"]
				if err := r.RestartService(t.Context(), "lms"); err != nil {
					t.Fatal(err)
				}
				pass(time.Second)
				if got := r.engine.running()["lms"] != pid; got != c.early {
					t.Errorf("stopped within a second: %v, want %v", got, c.early)
				}
				pass(40 * time.Second) // the bound
				if r.engine.running()["lms"] == pid {
					t.Error("never stopped")
				}
				r.until(OverallReady, time.Minute)
				if len(r.router.snapshots()) == 0 {
					return
				}
				var states []routes.State
				for _, s := range r.router.snapshots() {
					if n := len(states); n == 0 || states[n-1] != s.Hosts[0].State {
						states = append(states, s.Hosts[0].State)
					}
				}
				if n := len(states); n < 4 || !slices.Equal(states[n-3:], []routes.State{routes.Draining, routes.Hold, routes.Ready}) {
					t.Errorf("states of the LMS's host: %v", states)
				}
			})
		})
	}
}

func TestPlanForTellsWhatAnApplyWouldChange(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		d := change(demo(), "lms", func(s *Service) { s.Hash = "h2" })
		d = change(d, "redis", func(s *Service) { s.Spec.Limits.MemoryMax = 1 << 30 })
		d.Services = append(d.Services, svc("meilisearch", container.Stores))
		d.Services = slices.DeleteFunc(d.Services, func(s Service) bool { return s.Spec.Name == "lms-worker" })
		d.Jobs = slices.Clone(d.Jobs)
		d.Jobs[2].Reason = "r2"
		steps, err := r.PlanFor(d)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range steps {
			if s.Reason == "" {
				t.Errorf("%+v has no reason", s)
			}
			got = append(got, s.Action+" "+s.Service)
		}
		slices.Sort(got)
		want := []string{
			"job cms-migrate", "limits redis", "network ", "pull example/meilisearch:1",
			"remove lms-worker", "replace lms", "start meilisearch", "stop lms-worker",
		}
		if !slices.Equal(got, want) {
			t.Errorf("plan: %q, want %q", got, want)
		}
		pass(time.Minute)
		if done := r.engine.done(); len(done) != 0 {
			t.Errorf("asking for a plan did %q", done)
		}
	})
}

func TestSubscribeMissesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.boot()
		ctx, cancel := context.WithCancel(t.Context())
		events := r.Subscribe(ctx, 0)
		first := make(chan uint64, 1)
		all := make(chan []uint64, 1)
		go func() {
			var seqs []uint64
			for e := range events {
				if len(seqs) == 0 {
					first <- e.Seq
				}
				seqs = append(seqs, e.Seq)
				<-time.After(time.Second) // a slow reader
			}
			all <- seqs
		}()
		r.mustApply(demo())
		r.until(OverallReady, time.Minute)
		<-first
		pass(time.Hour)
		cancel()
		seqs := <-all
		if len(seqs) != len(r.store.events) {
			t.Errorf("%d of %d events came", len(seqs), len(r.store.events))
		}
		for i, seq := range seqs {
			if seq != uint64(i+1) {
				t.Fatalf("event %d has number %d", i, seq)
			}
		}
	})
}

func TestCheckNamesEveryContradiction(t *testing.T) {
	d := Desired{
		Services: []Service{
			svc("a", container.Stores, "nobody"),
			svc("a", container.Stores),
			svc("b", container.Stores),
			svc("bad name", container.Stores),
		},
		Jobs:   []Job{{Spec: container.Spec{Name: "j"}, Requires: []string{"j"}}},
		Routes: []Route{{Host: "x.test", Service: "c"}, {Host: "y.test", Rules: []RouteRule{{Path: "/", Service: "d"}}}},
		Egress: []string{"e"},
	}
	d.Services[2].Reaches = []string{"j"}
	d.Services[2].Probes.Liveness = &Probe{Kind: ProbeTCP, Port: 1}
	d.Services[2].Probes.Readiness = &Probe{Kind: ProbeHTTP, Port: 1, Path: "/a b"}
	d.Services[2].Probes.Startup = &Probe{Kind: "telepathy", Port: 1}
	err := check(d)
	if !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"the site has no name", `requires "nobody"`, "a is used twice", `"bad name"`, "job j has no image", "job j has no reason",
		`job j requires "j"`, `routed to "c"`, `"d" is no service`, `"e" may reach`, `names "j"`, "bare connect", `the path "/a b"`, "telepathy",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told in: %v", want, err)
		}
	}
}

func TestCirclesAreNamed(t *testing.T) {
	d := Desired{Site: "default", Services: []Service{
		svc("a", container.Stores, "b"), svc("b", container.Stores, "c"), svc("c", container.Stores, "a"),
	}}
	_, err := prepare(d, prefix4, prefix4, func(string) (record.Address, error) { return record.Address{}, nil })
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "a -> b -> c -> a") {
		t.Error(err)
	}
}

func TestPrepareFillsSpecs(t *testing.T) {
	store := newFakeStore()
	d := demo()
	d.Services[3].Reaches = []string{"cms"}
	d.Services[3].Spec.Env = []string{"LMS_HOST=lms", "DB_PASSWORD=hunter2", "DB_PASSWORD_FILE=/run/x", "API_KEY=abc"}
	p, err := prepare(d, prefix4, prefix4, func(n string) (record.Address, error) {
		return store.Address("default", n, prefix4, prefix4)
	})
	if err != nil {
		t.Fatal(err)
	}
	lms := p.services["lms"].Spec
	if lms.Site != "default" || lms.Kind != container.Service || lms.IDBase == 0 || !lms.Addresses.V4.IsValid() {
		t.Errorf("spec: %+v", lms)
	}
	known := map[string]bool{}
	for _, h := range lms.Hosts {
		known[h.Names[0]] = true
	}
	for _, n := range []string{"lms", "mysql", "mongodb", "redis", "cms"} {
		if !known[n] {
			t.Errorf("%s is not in the hosts file: %v", n, lms.Hosts)
		}
	}
	if known["lms-migrate"] {
		t.Error("a job is in the hosts file")
	}
	label := lms.Labels[container.LabelSpec]
	if strings.Contains(label, "hunter2") || strings.Contains(label, "abc\"") || !strings.Contains(label, "DB_PASSWORD_FILE=/run/x") || !strings.Contains(label, "LMS_HOST=lms") {
		t.Errorf("spec label: %s", label)
	}
	edges := map[container.Edge]bool{}
	for _, e := range p.Topology.Edges {
		edges[e] = true
	}
	if !edges[container.Edge{From: "lms", To: "mysql", Port: 8000}] || !edges[container.Edge{From: "lms", To: "cms", Port: 8000}] ||
		!edges[container.Edge{From: "lms-migrate", To: "mongodb", Port: 8000}] || edges[container.Edge{From: "mysql", To: "lms", Port: 8000}] {
		t.Errorf("edges: %v", p.Topology.Edges)
	}
	if len(d.Services[3].Spec.Labels) != 0 || d.Services[3].Hash != "h1" {
		t.Error("prepare changed its input")
	}
}

func TestReadyMeansWhatIsDesiredNow(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pid := r.engine.running()["lms"]
		r.mustApply(change(demo(), "lms", func(s *Service) { s.Hash = "h2" }))
		if err := r.Wait(t.Context(), OverallReady); err != nil {
			t.Fatal(err)
		}
		if r.engine.running()["lms"] == pid {
			t.Error("ready before the new specification ran")
		}
		pid = r.engine.running()["lms"]
		if err := r.RestartService(t.Context(), "lms"); err != nil {
			t.Fatal(err)
		}
		if err := r.Wait(t.Context(), OverallReady); err != nil {
			t.Fatal(err)
		}
		if r.engine.running()["lms"] == pid {
			t.Error("ready before the restart")
		}
	})
}

func TestSiteStopsWithoutASiteFile(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.die()
		r.boot()
		if err := r.StopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := r.engine.done()
		if len(done) != 6 || len(r.engine.running()) != 0 {
			t.Fatalf("steps: %q", done)
		}
		for _, app := range []string{"stop lms", "stop cms"} {
			if slices.Index(done, app) > slices.Index(done, "stop mysql") {
				t.Errorf("%s behind its database: %q", app, done)
			}
		}
		pass(time.Second) // the history is written behind the steps
		for _, name := range []string{"lms", "cms", "lms-worker", "mysql", "mongodb", "redis"} {
			if e := r.store.find(name, record.Stopped); len(e) != 1 || e[0].Reason != "the site stops" {
				t.Errorf("the history says of the stop of %s: %+v", name, e)
			}
		}
	})
}
