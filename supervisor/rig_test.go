package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// rig is a machine: everything that outlives the supervisor, and the present
// supervisor.
type rig struct {
	t        *testing.T
	engine   *fakeEngine
	network  *fakeNetwork
	store    *fakeStore
	router   *fakeRouter
	policy   Policy
	pressure Pressure
	servers  []netip.Addr // name servers of the host
	mu       sync.Mutex
	notified []string
	fed      atomic.Int64 // turns of the loop

	*Supervisor
	stopRun func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{
		t: t, engine: newFakeEngine(), network: &fakeNetwork{attached: map[string]int{}},
		store: newFakeStore(), router: &fakeRouter{drains: true},
	}
}

// boot starts a supervisor over what is there.
func (r *rig) boot() {
	r.t.Helper()
	s, err := New(Config{
		Site: "default", Engine: r.engine, Network: r.network, Store: r.store, Router: r.router,
		Logger: slog.New(slog.DiscardHandler), Prefix4: prefix4, Policy: r.policy,
		Watchdog:     func() { r.fed.Add(1) },
		HostPressure: func() Pressure { r.mu.Lock(); defer r.mu.Unlock(); return r.pressure },
		Resolvers:    r.resolversNow,
		Notify: func(o string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.notified = append(r.notified, o)
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	s.ask = r.engine.answer
	r.Supervisor = s
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r.stopRun = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	}
}

func (r *rig) setPressure(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pressure = Pressure{Reason: reason}
}

func (r *rig) setResolvers(servers ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servers = nil
	for _, s := range servers {
		r.servers = append(r.servers, netip.MustParseAddr(s))
	}
}

func (r *rig) resolversNow() ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.servers) == 0 {
		return nil, errors.New("this host names no server")
	}
	return r.servers, nil
}

// die ends the daemon and leaves the containers.
func (r *rig) die() {
	r.stopRun()
	r.Supervisor, r.stopRun = nil, nil
}

func (r *rig) mustApply(d Desired) {
	r.t.Helper()
	r.store.mu.Lock()
	generation := r.store.applied.Generation + 1
	r.store.mu.Unlock()
	if err := r.Apply(r.t.Context(), d, record.Applied{Generation: generation, At: time.Now()}); err != nil {
		r.t.Fatal(err)
	}
}

// reapply is what a daemon does at its start.
func (r *rig) reapply(d Desired) {
	r.t.Helper()
	a, _, err := r.store.Applied("default")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.Apply(r.t.Context(), d, a); err != nil {
		r.t.Fatal(err)
	}
}

// until lets virtual time pass until the site is in that state.
func (r *rig) until(o Overall, within time.Duration) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), within)
	defer cancel()
	synctest.Wait()
	if err := r.Wait(ctx, o); err != nil {
		r.t.Fatalf("%v; status: %s", err, r.describe())
	}
	synctest.Wait()
}

// pass lets virtual time pass. In a bubble of synctest that takes no time.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) describe() string {
	var b strings.Builder
	st := r.Status()
	fmt.Fprintf(&b, "%s %v", st.Overall, st.Trouble)
	for _, s := range st.Services {
		fmt.Fprintf(&b, "; %s %s (%s)", s.Name, s.State, s.Why)
	}
	for _, j := range st.Jobs {
		fmt.Fprintf(&b, "; job %s %s (%s %s)", j.Name, j.State, j.Message, j.Why)
	}
	return b.String()
}

func (r *rig) service(name string) ServiceStatus {
	r.t.Helper()
	for _, s := range r.Status().Services {
		if s.Name == name {
			return s
		}
	}
	r.t.Fatalf("no service %s in the status", name)
	return ServiceStatus{}
}

// bubble runs a test in virtual time and checks at its end that the fake
// engine saw nothing that it must not.
func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		// Also after a Fatal: what still runs would keep the bubble alive.
		defer func() {
			if r.stopRun != nil {
				r.die()
			}
			for _, v := range r.engine.broken() {
				t.Error(v)
			}
			r.engine.mu.Lock()
			defer r.engine.mu.Unlock()
			for _, c := range r.engine.containers {
				if c.timer != nil {
					c.timer.Stop()
				}
			}
		}()
		f(t, r)
	})
}

// svc makes a service with all three probes.
func svc(name string, group container.Group, requires ...string) Service {
	probe := func() *Probe {
		return &Probe{Kind: ProbeHTTP, Port: 8000, Path: "/", Interval: 10 * time.Second, Timeout: 2 * time.Second, Grace: 20 * time.Second}
	}
	ready := probe()
	ready.Grace = 5 * time.Second
	startup := probe()
	startup.Grace = 10 * time.Minute
	return Service{
		Spec: container.Spec{
			Name: name, Group: group, Image: "example/" + name + ":1",
			StopTimeout: 20 * time.Second, Limits: container.Limits{MemoryMax: 600 << 20},
		},
		Hash: "h1", Requires: requires, Ports: []uint16{8000},
		Probes: Probes{Startup: startup, Readiness: ready, Liveness: probe()},
	}
}

func job(name, reason string, requires ...string) Job {
	return Job{
		Spec:   container.Spec{Name: name, Group: container.Applications, Image: "example/lms:1"},
		Reason: reason, Requires: requires, Timeout: 10 * time.Minute, Retries: 2,
	}
}

// demo is a site of the shape of an Open edX site.
func demo() Desired {
	mysql := svc("mysql", container.Stores)
	mysql.Database = true
	mongodb := svc("mongodb", container.Stores)
	mongodb.Database = true
	return Desired{
		Site: "default",
		Services: []Service{
			mysql, mongodb,
			svc("redis", container.Stores),
			svc("lms", container.Applications, "mysql", "mongodb", "redis", "lms-migrate"),
			svc("cms", container.Applications, "mysql", "mongodb", "redis", "cms-migrate"),
			svc("lms-worker", container.Applications, "redis", "lms-migrate"),
		},
		Jobs: []Job{
			job("mysql-init", "r1", "mysql"),
			job("lms-migrate", "r1", "mysql", "mongodb", "mysql-init"),
			job("cms-migrate", "r1", "lms-migrate"),
		},
		Routes: []Route{
			{Host: "lms.example.test", Service: "lms", Port: 8000},
			{Host: "studio.example.test", Service: "cms", Port: 8000},
		},
	}
}

// change returns d with one service changed.
func change(d Desired, name string, f func(*Service)) Desired {
	d.Services = slices.Clone(d.Services)
	for i := range d.Services {
		if d.Services[i].Spec.Name == name {
			f(&d.Services[i])
		}
	}
	return d
}

func names(m map[string]int) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}
