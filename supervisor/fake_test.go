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
	"testing"
	"testing/synctest"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
)

var (
	errNoContainer = errors.New("fake engine: no such container")
	errNoImage     = errors.New("fake engine: no such image")
	prefix4        = netip.MustParsePrefix("10.213.0.0/24")
)

// behaviour is how a fake service or job acts.
type behaviour struct {
	startErr   error
	startTakes time.Duration
	readyAfter time.Duration // readiness and startup fail until then
	exitAfter  time.Duration // 0: never (jobs: at once)
	exitCode   int
	oom        bool
	// exitsAtOnce is a process that has ended when its start returns.
	exitsAtOnce bool
	stopTakes   time.Duration
	stopErr     error
	hung        bool // no answer of any kind
	unready     bool // alive, but not ready
}

// fakeEngine runs containers that exist only in memory, in virtual time. It
// outlives supervisors, as a real one's containers do.
type fakeEngine struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer
	listeners  []chan container.Event
	acts       map[string]behaviour
	images     map[string]string // reference -> digest
	pullErr    error
	pullTakes  time.Duration
	pulls      int
	pids       int
	log        []string // what was done, in order
	limits     map[string]container.Limits
	violations []string
	check      func(name string) string // of a start: "" or what it breaks
	listErr    error
}

type fakeContainer struct {
	spec   container.Spec
	status container.Status
	timer  *time.Timer
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{
		containers: map[string]*fakeContainer{}, acts: map[string]behaviour{},
		images: map[string]string{}, pids: 100, limits: map[string]container.Limits{},
	}
}

func (e *fakeEngine) act(name string) behaviour {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.acts[name]
}

func (e *fakeEngine) setAct(name string, b behaviour) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.acts[name] = b
}

func (e *fakeEngine) note(format string, args ...any) {
	e.log = append(e.log, fmt.Sprintf(format, args...))
}

func (e *fakeEngine) done() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.log)
}

func (e *fakeEngine) forgetLog() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = nil
}

func (e *fakeEngine) List(ctx context.Context, site string) ([]container.Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listErr != nil {
		return nil, e.listErr
	}
	var out []container.Status
	for id, c := range e.containers {
		if strings.HasPrefix(id, site+".") {
			out = append(out, c.status)
		}
	}
	return out, nil
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	if !sleep(ctx, d) {
		return ctx.Err()
	}
	return nil
}

func (e *fakeEngine) Start(ctx context.Context, spec container.Spec, attach func(int) error) (container.Status, error) {
	b := e.act(spec.Name)
	e.mu.Lock()
	if e.check != nil {
		if v := e.check(spec.Name); v != "" {
			e.violations = append(e.violations, v)
		}
	}
	e.mu.Unlock()
	if err := wait(ctx, b.startTakes); err != nil {
		return container.Status{}, err
	}
	if b.startErr != nil {
		return container.Status{}, b.startErr
	}
	e.mu.Lock()
	ref, _, _ := strings.Cut(spec.Image, "@")
	if _, here := e.images[ref]; !here {
		e.mu.Unlock()
		return container.Status{}, errNoImage
	}
	if old := e.containers[spec.ID()]; old != nil && old.status.State == container.Running {
		e.violations = append(e.violations, spec.Name+" was started while it ran")
	}
	e.pids++
	pid := e.pids
	e.mu.Unlock()
	if err := attach(pid); err != nil {
		return container.Status{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &fakeContainer{spec: spec, status: container.Status{
		ID: spec.ID(), State: container.Running, PID: pid, Started: time.Now(),
		Image: spec.Image, Labels: spec.Labels,
	}}
	e.containers[spec.ID()] = c
	e.note("start %s", spec.Name)
	if b.exitsAtOnce {
		exit := container.Exit{Code: b.exitCode, At: time.Now()}
		c.status.State, c.status.PID, c.status.Exit = container.Exited, 0, &exit
		return c.status, nil
	}
	if spec.Kind == container.Job || b.exitAfter > 0 {
		c.timer = time.AfterFunc(max(b.exitAfter, time.Millisecond), func() {
			e.exit(spec.ID(), c, container.Exit{Code: b.exitCode, OOM: b.oom})
		})
	}
	return c.status, nil
}

// exit ends a container's process, as a crash does.
func (e *fakeEngine) exit(id string, c *fakeContainer, exit container.Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containers[id] != c || c.status.State != container.Running {
		return
	}
	exit.At = time.Now()
	pid := c.status.PID
	c.status.State, c.status.PID, c.status.Exit = container.Exited, 0, &exit
	for _, l := range e.listeners {
		l <- container.Event{Kind: container.EventExit, ID: id, PID: pid, Exit: &exit, At: exit.At}
	}
}

// kill ends a service's process as kill -9 does.
func (e *fakeEngine) kill(name string) {
	e.mu.Lock()
	id := container.ID("default", name)
	c := e.containers[id]
	e.mu.Unlock()
	if c != nil {
		e.exit(id, c, container.Exit{Code: 137})
	}
}

func (e *fakeEngine) Stop(ctx context.Context, id, _ string, patience time.Duration) error {
	e.mu.Lock()
	c := e.containers[id]
	e.mu.Unlock()
	if c == nil {
		return errNoContainer
	}
	b := e.act(c.spec.Name)
	if b.stopErr != nil {
		return b.stopErr
	}
	// The signal is sent: the process ends whether the daemon lives or not.
	ended := make(chan struct{})
	time.AfterFunc(min(max(b.stopTakes, time.Millisecond), patience), func() {
		e.exit(id, c, container.Exit{Code: 143})
		close(ended)
	})
	select {
	case <-ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.note("stop %s", c.spec.Name)
	return nil
}

func (e *fakeEngine) Remove(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil {
		return errNoContainer
	}
	if c.status.State == container.Running {
		e.violations = append(e.violations, c.spec.Name+" was removed while it ran")
		return errors.New("fake engine: it runs")
	}
	delete(e.containers, id)
	return nil
}

func (e *fakeEngine) Update(_ context.Context, id string, l container.Limits) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil {
		return errNoContainer
	}
	e.limits[c.spec.Name] = l
	e.note("limits %s", c.spec.Name)
	return nil
}

func (e *fakeEngine) SetLabels(_ context.Context, id string, labels map[string]string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil {
		return errNoContainer
	}
	for k, v := range labels {
		c.status.Labels = withLabel(c.status.Labels, k, v)
	}
	return nil
}

func (e *fakeEngine) Exec(context.Context, string, []string) (int, []byte, error) {
	return 0, nil, nil
}

func (e *fakeEngine) Usage(_ context.Context, site string) ([]container.Usage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []container.Usage
	for id, c := range e.containers {
		if strings.HasPrefix(id, site+".") && c.status.State == container.Running {
			out = append(out, container.Usage{ID: id, Memory: 1 << 20, CPU: time.Second})
		}
	}
	return out, nil
}

func (e *fakeEngine) Events(ctx context.Context) <-chan container.Event {
	ch := make(chan container.Event, 4096)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listeners = append(e.listeners, ch)
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.listeners = slices.DeleteFunc(e.listeners, func(c chan container.Event) bool { return c == ch })
		close(ch)
	})
	return ch
}

func (e *fakeEngine) Pull(ctx context.Context, ref, pinned string, progress func(container.Progress)) (container.Image, error) {
	e.mu.Lock()
	takes, err := e.pullTakes, e.pullErr
	e.pulls++
	e.mu.Unlock()
	progress(container.Progress{Ref: ref, Phase: "downloading", Done: 1, Total: 2})
	if err := wait(ctx, takes); err != nil {
		return container.Image{}, err
	}
	if err != nil {
		return container.Image{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	digest := pinned
	if digest == "" {
		digest = "sha256:" + hashOf(ref)
	}
	e.images[ref] = digest
	return container.Image{Ref: ref, Digest: digest}, nil
}

func (e *fakeEngine) HasImage(_ context.Context, ref, _ string) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.images[ref]
	return ok, nil
}

func (e *fakeEngine) LogTail(id string, _ int) []string { return []string{"last line of " + id} }

// running returns the process ids of the running services by name.
func (e *fakeEngine) running() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]int{}
	for _, c := range e.containers {
		if c.status.State == container.Running {
			out[c.spec.Name] = c.status.PID
		}
	}
	return out
}

func (e *fakeEngine) broken() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.violations)
}

// answer is what a fake service says to a probe now.
func (e *fakeEngine) answer(ctx context.Context, p *Probe, t target) Answer {
	e.mu.Lock()
	c := e.containers[t.ID]
	var b behaviour
	var st container.Status
	if c != nil {
		b, st = e.acts[c.spec.Name], c.status
	}
	e.mu.Unlock()
	switch {
	case c == nil || st.State != container.Running:
		return Answer{Why: "connection refused"}
	case b.hung:
		_ = wait(ctx, orDefault(p.Timeout, defaultTimeout))
		return Answer{Why: "no answer in time"}
	case b.unready:
		return Answer{Alive: true, Why: "answered 503"}
	case time.Since(st.Started) < b.readyAfter:
		return Answer{Alive: true, Why: "not up yet"}
	}
	return Answer{Alive: true, OK: true}
}

type fakeNetwork struct {
	mu       sync.Mutex
	applied  container.Topology
	applies  int
	err      error
	attached map[string]int
}

func (n *fakeNetwork) Apply(_ context.Context, t container.Topology) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applies++
	if n.err != nil {
		return n.err
	}
	n.applied = t
	return nil
}

func (n *fakeNetwork) Attach(_ context.Context, _, member string, pid int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.ContainsFunc(n.applied.Members, func(m container.Member) bool { return m.Name == member }) {
		return fmt.Errorf("fake network: %s is no member", member)
	}
	n.attached[member] = pid
	return nil
}

func (n *fakeNetwork) Detach(_ context.Context, _, member string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, member)
	return nil
}

type fakeStore struct {
	mu        sync.Mutex
	applied   record.Applied
	has       bool
	intents   map[string]record.Intent
	addresses map[string]record.Address
	images    map[string]record.Image
	events    []record.Event
	jobs      map[string]record.JobRecord
	err       error // of every write
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		intents: map[string]record.Intent{}, addresses: map[string]record.Address{},
		images: map[string]record.Image{}, jobs: map[string]record.JobRecord{},
	}
}

func (s *fakeStore) Applied(string) (record.Applied, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied, s.has, nil
}

func (s *fakeStore) write(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	f()
	return nil
}

func (s *fakeStore) setErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *fakeStore) SetApplied(_ string, a record.Applied) error {
	return s.write(func() { s.applied, s.has = a, true })
}

func (s *fakeStore) Intents(string) (map[string]record.Intent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return orEmpty(s.intents), nil
}

func (s *fakeStore) SetIntent(_ string, i record.Intent) error {
	return s.write(func() { s.intents[i.Service] = i })
}

func (s *fakeStore) Address(_, service string, v4, _ netip.Prefix) (record.Address, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.addresses[service]
	if !ok {
		if s.err != nil {
			return a, s.err
		}
		b := v4.Addr().As4()
		b[3] = byte(len(s.addresses) + 2)
		a = record.Address{Service: service, V4: netip.AddrFrom4(b), IDBase: 1<<20 + uint32(len(s.addresses))<<16}
		s.addresses[service] = a
	}
	return a, nil
}

func (s *fakeStore) Images(string) (map[string]record.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return orEmpty(s.images), nil
}

func (s *fakeStore) SetImage(_ string, i record.Image) error {
	return s.write(func() { s.images[i.Ref] = i })
}

func (s *fakeStore) AppendEvent(_ string, e record.Event) (record.Event, error) {
	err := s.write(func() { e.Seq = uint64(len(s.events) + 1); s.events = append(s.events, e) })
	return e, err
}

func (s *fakeStore) Events(_ string, after uint64, limit int) ([]record.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.Event
	for _, e := range s.events {
		if e.Seq > after && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, nil
}

func (s *fakeStore) ServiceEvents(_, service string, limit int) ([]record.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.Event
	for i := len(s.events) - 1; i >= 0 && len(out) < limit; i-- {
		if s.events[i].Service == service {
			out = append(out, s.events[i])
		}
	}
	return out, nil
}

func (s *fakeStore) Jobs(string) (map[string]record.JobRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return orEmpty(s.jobs), nil
}

func (s *fakeStore) SetJob(_ string, j record.JobRecord) error {
	return s.write(func() { s.jobs[j.Name] = j })
}

// kinds are the service's events, oldest first.
func (s *fakeStore) kinds(service string) []record.EventKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.EventKind
	for _, e := range s.events {
		if e.Service == service {
			out = append(out, e.Kind)
		}
	}
	return out
}

func (s *fakeStore) find(service string, kind record.EventKind) []record.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.Event
	for _, e := range s.events {
		if e.Service == service && e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

type fakeRouter struct {
	mu        sync.Mutex
	err       error
	refuse    *routes.Ack // once
	got       []routes.Snapshot
	listeners []chan routes.Event
	drains    bool // tells "drained" at once
}

func (r *fakeRouter) Put(_ context.Context, s routes.Snapshot) (routes.Ack, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return routes.Ack{}, r.err
	}
	if r.refuse != nil {
		ack := *r.refuse
		r.refuse = nil
		return ack, nil
	}
	r.got = append(r.got, s)
	if r.drains {
		for _, h := range s.Hosts {
			if h.State == routes.Draining {
				for _, l := range r.listeners {
					l <- routes.Event{Kind: routes.Drained, Site: h.Site, Service: h.Service, Generation: s.Generation}
				}
			}
		}
	}
	return routes.Ack{Generation: s.Generation}, nil
}

func (r *fakeRouter) Events(ctx context.Context) <-chan routes.Event {
	ch := make(chan routes.Event, 4096)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listeners = append(r.listeners, ch)
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.listeners = slices.DeleteFunc(r.listeners, func(c chan routes.Event) bool { return c == ch })
		close(ch)
	})
	return ch
}

func (r *fakeRouter) send(e routes.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.listeners {
		l <- e
	}
}

func (r *fakeRouter) snapshots() []routes.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *fakeRouter) state(host string) routes.State {
	got := r.snapshots()
	if len(got) == 0 {
		return ""
	}
	for _, h := range got[len(got)-1].Hosts {
		if h.Name == host {
			return h.State
		}
	}
	return ""
}

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
	mu       sync.Mutex
	notified []string

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
		HostPressure: func() Pressure { r.mu.Lock(); defer r.mu.Unlock(); return r.pressure },
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
