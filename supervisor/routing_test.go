package supervisor

import (
	"math"
	"testing"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
)

func TestGenerationGrowsOverRestartsAndRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.die()
		r.boot()
		r.reapply(demo())
		pass(time.Minute)
		// The clock went back: the proxy knows a greater number.
		last := r.router.snapshots()[len(r.router.snapshots())-1].Generation
		r.router.mu.Lock()
		r.router.refuse = &routes.Ack{Generation: last + 1<<40, Error: "older than what is served"}
		r.router.mu.Unlock()
		r.engine.kill("lms")
		pass(10 * time.Second)
		got := r.router.snapshots()
		for i := 1; i < len(got); i++ {
			if got[i].Generation <= got[i-1].Generation {
				t.Errorf("generation %d after %d", got[i].Generation, got[i-1].Generation)
			}
		}
		if got[len(got)-1].Generation <= last+1<<40 {
			t.Error("the refusal was not learnt from")
		}
		if got[len(got)-1].Hosts[0].State != routes.Ready {
			t.Errorf("at the end: %+v", got[len(got)-1].Hosts[0])
		}
	})
}

func TestHostileProxyChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		events := len(r.store.events)
		for range 1000 {
			for _, e := range []routes.Event{
				{},
				{Kind: "launch-missiles", Service: "lms"},
				{Kind: routes.Wanted, Service: "mysql", Site: "default"},
				{Kind: routes.Wanted, Service: "../../etc"},
				{Kind: routes.Drained, Service: "lms", Generation: math.MaxUint64},
				{Kind: routes.Drained, Service: "mysql", Site: "other"},
				{Kind: routes.Certificate, Name: "evil.test", Detail: "\x1b[2J"},
			} {
				r.router.send(e)
			}
			pass(time.Millisecond)
		}
		r.router.mu.Lock()
		r.router.refuse = &routes.Ack{Generation: math.MaxUint64 - 9, Error: "\x1b[2J no"}
		r.router.mu.Unlock()
		r.engine.kill("cms")
		pass(time.Minute)
		r.until(OverallReady, time.Minute)
		for name, pid := range r.engine.running() {
			if pids[name] != pid && name != "cms" {
				t.Errorf("%s was restarted", name)
			}
		}
		if got := r.router.state("studio.example.test"); got != routes.Ready {
			t.Errorf("Studio is routed as %q", got)
		}
		for _, s := range r.router.snapshots() {
			if s.Generation >= generationMost {
				t.Fatalf("generation %d was learnt from a hostile proxy", s.Generation)
			}
		}
		if n := len(r.store.events) - events; n > 6 {
			t.Errorf("%d events were written", n)
		}
	})
}

func TestOnDemandServiceStartsWithTheFirstRequest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		d := demo()
		notes := svc("notes", container.Applications, "mysql")
		notes.OnDemand = true
		d.Services = append(d.Services, notes)
		d.Routes = append(d.Routes, Route{Host: "notes.example.test", Service: "notes"})
		r.boot()
		r.mustApply(d)
		r.until(OverallReady, time.Minute)
		if _, runs := r.engine.running()["notes"]; runs {
			t.Fatal("it runs before anybody asked")
		}
		if got := r.router.state("notes.example.test"); got != routes.Hold {
			t.Errorf("routed as %q", got)
		}
		r.router.send(routes.Event{Kind: routes.Wanted, Site: "default", Service: "notes"})
		pass(10 * time.Second)
		if got := r.router.state("notes.example.test"); got != routes.Ready {
			t.Errorf("routed as %q after the first request", got)
		}
		pid := r.engine.running()["notes"]
		r.die()
		r.boot()
		r.reapply(d)
		pass(time.Minute)
		if r.engine.running()["notes"] != pid {
			t.Error("the next daemon did not keep it")
		}
	})
}

func TestRulesCarryServicesAsAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		d := demo()
		d.Routes[1].Rules = []RouteRule{{Path: "/api/mfe_config/v1", Service: "lms", Port: 8000, HostHeader: "lms.example.test"}}
		d.Routes = append(d.Routes, Route{Host: "OLD.example.test", Redirect: "https://lms.example.test"})
		r.boot()
		r.mustApply(d)
		r.until(OverallReady, time.Minute)
		got := r.router.snapshots()
		hosts := got[len(got)-1].Hosts
		lms := r.store.addresses["lms"].V4.String() + ":8000"
		if hosts[0].Upstream != lms || hosts[1].Rules[0].Upstream != lms || hosts[1].Rules[0].Host != "lms.example.test" {
			t.Errorf("hosts: %+v", hosts)
		}
		if hosts[2].Name != "old.example.test" || hosts[2].Redirect == "" || hosts[2].State != routes.Ready {
			t.Errorf("a redirecting host: %+v", hosts[2])
		}
	})
}

func TestProxyThatComesLateGetsTheRoutes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.router.err = ErrNotRunning
		settled(r)
		if st := r.Status(); len(st.Trouble) != 1 {
			t.Errorf("trouble: %q", st.Trouble)
		}
		r.router.mu.Lock()
		r.router.err = nil
		r.router.mu.Unlock()
		pass(putRetryCap)
		if got := r.router.state("lms.example.test"); got != routes.Ready {
			t.Errorf("routed as %q", got)
		}
		if n := len(r.store.find("", record.Trouble)); n != 1 {
			t.Errorf("%d trouble events for one absence", n)
		}
	})
}

func TestOnlyAFailedCertificateIsTrouble(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		for _, detail := range []string{"obtaining", "valid", "failed: no answer", "valid"} {
			r.router.send(routes.Event{Kind: routes.Certificate, Name: "lms.example.test", Detail: detail})
			pass(time.Second)
		}
		if n := len(r.store.find("", record.Trouble)); n != 1 {
			t.Errorf("%d trouble events for one failure", n)
		}
		if n := len(r.store.find("", record.Certificate)); n != 3 {
			t.Errorf("%d certificate events, want 3", n)
		}
	})
}
