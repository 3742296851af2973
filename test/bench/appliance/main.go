// Appliance is the daemon of Tarima around a desired state that a file gives,
// in place of an Open edX site: the same rooms, opened in the same order by the
// same calls as cmd/tarima does it, so that the benchmark can run any number of
// idle containers under it. It tells on its standard output, one JSON object a
// line, at which moment it did what.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"tarima/proxy"
	"tarima/runtime/container"
	"tarima/runtime/engine"
	"tarima/runtime/network"
	"tarima/store"
	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
)

const siteName = "default"

func main() {
	if engine.RunAsShim() {
		return
	}
	a := &appliance{}
	flag.StringVar(&a.root, "root", "", "folder of everything")
	flag.StringVar(&a.desired, "desired", "", "file with the desired state as JSON; none: starts are asked for on standard input")
	flag.StringVar(&a.archive, "archive", "", "image archive that is loaded first")
	flag.StringVar(&a.prefix, "range", "10.216.0.0/24", "addresses of the site")
	flag.DurationVar(&a.quiet, "quiet", 0, "how long a service runs for its failures to be forgotten; 0: as shipped")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := a.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // the rooms are closed by then
	}
}

type appliance struct {
	root, desired, archive, prefix string
	quiet                          time.Duration

	log        *slog.Logger
	tell       sync.Mutex
	store      *store.Store
	engine     *engine.Engine
	network    *network.Network
	supervisor *supervisor.Supervisor
}

// Mark is one line of the output.
type Mark struct {
	At         int64   `json:"at"` // Unix time in nanoseconds
	What       string  `json:"what"`
	Name       string  `json:"name,omitempty"`
	Seconds    float64 `json:"seconds,omitempty"`
	Error      string  `json:"error,omitempty"`
	Goroutines int     `json:"goroutines,omitempty"`
	Heap       uint64  `json:"heap,omitempty"` // bytes in use after a collection
	// Written is when an event of the history, which happened at At, was on disk.
	Written int64 `json:"written,omitempty"`
}

func (a *appliance) mark(m Mark) {
	if m.At == 0 {
		m.At = time.Now().UnixNano()
	}
	line, err := json.Marshal(m)
	if err != nil {
		return // plain data always encodes
	}
	a.tell.Lock()
	defer a.tell.Unlock()
	_, _ = os.Stdout.Write(append(line, '\n')) // without a reader there is nobody to tell
}

func (a *appliance) run(ctx context.Context) (err error) {
	a.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(a.log)
	state, run, logs := filepath.Join(a.root, "state"), filepath.Join(a.root, "run"), filepath.Join(a.root, "log")
	for _, dir := range []string{state, run, logs} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if a.store, err = store.Open(ctx, store.Config{Dir: filepath.Join(state, "store"), Wait: 300 * time.Millisecond, Logger: a.log}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.store.Close()) }()
	if a.engine, err = engine.Open(ctx, engine.Config{
		Root: filepath.Join(state, "engine"), State: filepath.Join(run, "engine"),
		LogDir: func(site string) string { return filepath.Join(logs, site) },
		Logger: a.log, CheckDatabase: store.Verify,
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.engine.Close()) }()
	if a.network, err = network.Open(network.Config{Dir: filepath.Join(run, "net"), Logger: a.log}); err != nil {
		return err
	}
	if a.archive != "" {
		if err := a.load(ctx); err != nil {
			return err
		}
	}
	if a.desired == "" {
		return a.obey(ctx)
	}
	return a.supervise(ctx, run)
}

func (a *appliance) load(ctx context.Context) error {
	archive, err := os.Open(a.archive)
	if err != nil {
		return err
	}
	defer archive.Close()
	_, err = a.engine.LoadArchive(ctx, archive)
	return err
}

// supervise runs what the file asks for, as the daemon would.
func (a *appliance) supervise(ctx context.Context, run string) error {
	data, err := os.ReadFile(a.desired)
	if err != nil {
		return err
	}
	var desired supervisor.Desired
	if err := json.Unmarshal(data, &desired); err != nil {
		return fmt.Errorf("%s: %w", a.desired, err)
	}
	prefix, err := netip.ParsePrefix(a.prefix)
	if err != nil {
		return err
	}
	a.supervisor, err = supervisor.New(supervisor.Config{
		Site: siteName, Engine: &markedEngine{Engine: a.engine, mark: a.mark}, Network: a.network,
		Store: &markedStore{Store: a.store, mark: a.mark}, Router: proxy.NewClient(filepath.Join(run, "proxy", "routes.sock")),
		Logger: a.log, Prefix4: prefix, Policy: supervisor.Policy{Quiet: a.quiet, Base: a.quiet, Cap: a.quiet},
	})
	if err != nil {
		return err
	}
	applied := record.Applied{Generation: 1, SiteFile: data, Release: "bench", At: time.Now()}
	desired.Generation = 1
	if err := a.supervisor.Apply(ctx, desired, applied); err != nil {
		return err
	}
	server, err := control.Listen(run, "tarima", &backend{supervisor: a.supervisor}, a.log)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Close(closing) // the process ends
	}()
	go a.tellFigures(ctx)
	a.mark(Mark{What: "ready"})
	return a.supervisor.Run(ctx)
}

// tellFigures answers SIGUSR1 with what only the process itself knows.
func (a *appliance) tellFigures(ctx context.Context) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			a.mark(Mark{What: "figures", Goroutines: runtime.NumGoroutine(), Heap: m.HeapInuse})
		}
	}
}

// obey starts the containers that standard input asks for, one at a time, with
// engine and network alone: each line is a container.Spec.
func (a *appliance) obey(ctx context.Context) error {
	prefix, err := netip.ParsePrefix(a.prefix)
	if err != nil {
		return err
	}
	a.mark(Mark{What: "ready"})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		text, removed := strings.CutPrefix(lines.Text(), "remove ")
		if removed {
			a.answer("removed", text, time.Now(), a.remove(ctx, text))
			continue
		}
		var spec container.Spec
		if err := json.Unmarshal([]byte(text), &spec); err != nil {
			return err
		}
		// As in a site, the network is there before a container is.
		topology := container.Topology{Site: siteName, Prefix4: prefix, Members: []container.Member{{Name: spec.Name, Addresses: spec.Addresses}}}
		if err := a.network.Apply(ctx, topology); err != nil {
			return err
		}
		if err := a.start(ctx, spec); err != nil {
			return err
		}
	}
	return lines.Err()
}

// start starts one container and, when it is a job, waits for its end.
func (a *appliance) start(ctx context.Context, spec container.Spec) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := a.engine.Events(watching)
	begin := time.Now()
	_, err := a.engine.Start(ctx, spec, func(pid int) error { return a.network.Attach(ctx, siteName, spec.Name, pid) })
	a.answer("started", spec.Name, begin, err)
	if err != nil || spec.Kind != container.Job {
		return nil // the answer says it
	}
	for e := range events {
		if e.Kind == container.EventExit && e.ID == spec.ID() {
			a.answer("ended", spec.Name, begin, nil)
			return nil
		}
	}
	return errors.New("the engine's events ended before the container")
}

func (a *appliance) answer(what, name string, begin time.Time, err error) {
	m := Mark{What: what, Name: name, Seconds: time.Since(begin).Seconds()}
	if err != nil {
		m.Error = err.Error()
	}
	a.mark(m)
}

func (a *appliance) remove(ctx context.Context, name string) error {
	id := container.ID(siteName, name)
	if err := a.engine.Stop(ctx, id, "SIGKILL", 0); err != nil && !errors.Is(err, engine.ErrNotFound) {
		return err
	}
	return errors.Join(a.engine.Remove(ctx, id), a.network.Detach(ctx, siteName, name))
}

// markedEngine tells when a start begins, which is when the decision for it
// has been made, and when it has succeeded.
type markedEngine struct {
	*engine.Engine
	mark func(Mark)
}

// Start implements supervisor.Engine.
func (e *markedEngine) Start(ctx context.Context, spec container.Spec, attach func(pid int) error) (container.Status, error) {
	e.mark(Mark{What: "starting", Name: spec.Name})
	status, err := e.Engine.Start(ctx, spec, attach)
	if err == nil {
		e.mark(Mark{What: "started", Name: spec.Name})
	}
	return status, err
}

// markedStore tells of every event of the history.
type markedStore struct {
	*store.Store
	mark func(Mark)
}

// AppendEvent implements supervisor.Store.
func (s *markedStore) AppendEvent(site string, e record.Event) (record.Event, error) {
	stored, err := s.Store.AppendEvent(site, e)
	s.mark(Mark{At: e.At.UnixNano(), What: string(e.Kind), Name: e.Service, Written: time.Now().UnixNano()})
	return stored, err
}

// backend answers what the benchmark asks of the control API.
type backend struct {
	control.Backend
	supervisor *supervisor.Supervisor
}

// Status implements control.Backend.
func (b *backend) Status(context.Context) (supervisor.SiteStatus, error) {
	return b.supervisor.Status(), nil
}
