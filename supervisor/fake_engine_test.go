package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tarima/runtime/container"
)

var (
	errNoContainer = errors.New("fake engine: no such container")
	errNoImage     = errors.New("fake engine: no such image")
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
	startBlocks chan struct{} // a start that returns no sooner, whatever its context says
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
	listBlocks chan struct{}
	listTakes  time.Duration // from the look at the containers to the answer
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
	blocks := e.listBlocks
	e.mu.Unlock()
	if blocks != nil {
		<-blocks
	}
	e.mu.Lock()
	err, takes := e.listErr, e.listTakes
	var out []container.Status
	for id, c := range e.containers {
		if strings.HasPrefix(id, site+".") {
			out = append(out, c.status)
		}
	}
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return out, wait(ctx, takes)
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
	if b.startBlocks != nil {
		<-b.startBlocks
	}
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
		time.AfterFunc(time.Millisecond, func() { close(ended) }) // the event is seen first
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
