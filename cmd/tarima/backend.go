package main

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarima/runtime/container"
	"tarima/runtime/engine"
	"tarima/runtime/network"
	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// The methods here make the appliance a control.Backend.

// About implements control.Backend.
func (a *appliance) About() control.About {
	return control.About{API: control.Version, Version: version, PID: os.Getpid(), Started: a.started}
}

// Status implements control.Backend.
func (a *appliance) Status(context.Context) (supervisor.SiteStatus, error) {
	status := a.supervisor.Status()
	a.wishes.mu.Lock()
	defer a.wishes.mu.Unlock()
	if a.wishes.trouble != "" {
		status.Trouble = append(slices.Clone(status.Trouble), a.wishes.trouble)
	}
	return status, nil
}

// serviceNames of the site as it is wanted.
func (a *appliance) serviceNames() []string {
	var names []string
	for _, s := range a.supervisor.Status().Services {
		names = append(names, s.Name)
	}
	return names
}

// mustBeService refuses a name that no service has, and says the nearest one.
func (a *appliance) mustBeService(name string) error {
	names := a.serviceNames()
	if slices.Contains(names, name) {
		return nil
	}
	if len(names) == 0 {
		return control.NotFound("there is no service %q: the site has none yet, see tarima check", name)
	}
	if near := site.Nearest(name, names); near != "" {
		return control.NotFound("there is no service %q; did you mean %q?", name, near)
	}
	return control.NotFound("there is no service %q; there are: %s", name, strings.Join(names, ", "))
}

// Act implements control.Backend.
func (a *appliance) Act(ctx context.Context, service string, action control.Action) error {
	if err := a.mustBeService(service); err != nil {
		return err
	}
	switch action {
	case control.Start:
		return a.supervisor.StartService(ctx, service)
	case control.Stop:
		return a.supervisor.StopService(ctx, service)
	default:
		return a.supervisor.RestartService(ctx, service)
	}
}

// StopSite implements control.Backend.
func (a *appliance) StopSite(ctx context.Context) error {
	err := a.supervisor.StopAll(ctx)
	a.stopped.Store(err == nil)
	return err
}

// StartSite implements control.Backend.
func (a *appliance) StartSite(ctx context.Context) error {
	a.stopped.Store(false)
	return a.supervisor.StartAll(ctx)
}

// Events implements control.Backend.
func (a *appliance) Events(ctx context.Context, after uint64, limit int, wait time.Duration) ([]record.Event, error) {
	events, err := a.store.Events(defaultSite, after, limit)
	if err != nil || len(events) > 0 || wait == 0 {
		return events, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if first, ok := <-a.supervisor.Subscribe(ctx, after); ok {
		return []record.Event{first}, nil
	}
	return []record.Event{}, nil
}

// Logs implements control.Backend.
func (a *appliance) Logs(ctx context.Context, q control.LogQuery, emit func(control.LogLine) error) error {
	names := q.Services
	if len(names) == 0 {
		found, err := filepath.Glob(filepath.Join(a.logDir(defaultSite), "*.log"))
		if err != nil {
			return err
		}
		for _, f := range found {
			names = append(names, strings.TrimSuffix(filepath.Base(f), ".log"))
		}
	} else {
		for _, name := range names {
			if err := a.mustHaveLog(name); err != nil {
				return err
			}
		}
	}
	return mergeLogs(ctx, names, q.Follow, func(ctx context.Context, name string) iter.Seq2[engine.LogLine, error] {
		return a.engine.Logs(ctx, defaultSite, name, engine.LogQuery{Since: q.Since, Tail: q.Tail, Follow: q.Follow})
	}, emit)
}

// mustHaveLog refuses a name that is neither a service nor a job with a log.
func (a *appliance) mustHaveLog(name string) error {
	err := a.mustBeService(name)
	if err == nil || strings.ContainsAny(name, "/.") {
		return err
	}
	if _, e := os.Stat(filepath.Join(a.logDir(defaultSite), name+".log")); e == nil {
		return nil
	}
	return err
}

// Exec implements control.Backend.
func (a *appliance) Exec(ctx context.Context, service string, e control.Exec, s control.Streams) (int, error) {
	if err := a.mustBeService(service); err != nil {
		return 0, err
	}
	var code int
	var err error
	id := container.ID(defaultSite, service)
	if e.TTY {
		code, err = a.engine.ExecTTY(ctx, id, e.Argv, engine.Terminal{In: s.Stdin, Out: s.Stdout, Resize: sizes(ctx, e.Size, s.Resizes)})
	} else {
		code, err = a.engine.ExecStreams(ctx, id, e.Argv, s.Stdin, s.Stdout, s.Stderr)
	}
	if errors.Is(err, engine.ErrNotFound) {
		return 0, control.Conflict("%s does not run: see tarima status", service)
	}
	return code, err
}

// sizes translates sizes of a terminal until ctx ends; the first comes at once.
func sizes(ctx context.Context, first control.Size, next <-chan control.Size) <-chan engine.Size {
	translated := make(chan engine.Size)
	go func() {
		size := first
		for {
			select {
			case <-ctx.Done():
				return
			case translated <- engine.Size{Width: size.Columns, Height: size.Rows}:
			}
			select {
			case <-ctx.Done():
				return
			case size = <-next:
			}
		}
	}()
	return translated
}

// Usage implements control.Backend.
func (a *appliance) Usage(ctx context.Context) ([]container.Usage, error) {
	return a.engine.Usage(ctx, defaultSite)
}

// Images implements control.Backend.
func (a *appliance) Images(ctx context.Context) ([]container.Image, error) {
	return a.engine.Images(ctx)
}

// PullImage implements control.Backend.
func (a *appliance) PullImage(ctx context.Context, ref string, progress func(container.Progress)) (container.Image, error) {
	image, err := a.engine.Pull(ctx, ref, "", progress)
	if errors.Is(err, engine.ErrImageNotFound) {
		return image, control.NotFound("%v", err)
	}
	return image, err
}

// LoadImages implements control.Backend.
func (a *appliance) LoadImages(ctx context.Context, archive io.Reader) ([]container.Image, error) {
	images, err := a.engine.LoadArchive(ctx, archive)
	if errors.Is(err, engine.ErrArchive) || errors.Is(err, engine.ErrPlatform) {
		return nil, control.Invalid(nil, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	// What was loaded by hand is what is meant from now on.
	for _, image := range images {
		pin := record.Image{Ref: image.Ref, Digest: image.Digest, Size: image.Size, At: time.Now()}
		if err := a.store.SetImage(defaultSite, pin); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// PruneImages implements control.Backend.
func (a *appliance) PruneImages(ctx context.Context) (control.Pruned, error) {
	images, err := a.store.Images(defaultSite)
	if err != nil {
		return control.Pruned{}, err
	}
	var pins []string
	for _, image := range images {
		pins = append(pins, image.Digest)
	}
	freed, err := a.engine.Prune(ctx, pins...)
	return control.Pruned{Freed: freed}, err
}

// Doctor implements control.Backend.
func (a *appliance) Doctor(ctx context.Context) ([]control.Finding, error) {
	var findings []control.Finding
	found := a.network.Inspect(ctx, a.networkWanted())
	for _, f := range found {
		findings = append(findings, finding(f.Code, string(f.Level), f.Text, f.Fix))
	}
	for _, text := range a.notes() {
		findings = append(findings, finding("SITE-SIZE", levelWarning, text, ""))
	}
	for _, text := range a.engine.Reduced() {
		findings = append(findings, finding("ENGINE-REDUCED", levelWarning, text, ""))
	}
	findings = append(findings, a.certificateFindings(ctx)...)
	status, err := a.Status(ctx)
	if err != nil {
		return nil, err
	}
	a.wishes.mu.Lock()
	config := a.wishes.config
	a.wishes.mu.Unlock()
	findings = append(findings, examineDoor(ctx, config, status.Maintenance, time.Now())...)
	for _, trouble := range status.Trouble {
		findings = append(findings, finding("SITE-TROUBLE", levelError, trouble, ""))
	}
	for _, s := range status.Services {
		if s.State == supervisor.StateFailing {
			findings = append(findings, finding("SERVICE-FAILING", levelError, s.Name+" is failing: "+s.Why, "see tarima logs "+s.Name))
		}
	}
	return findings, nil
}

// networkWanted is what the host is asked to carry for the site.
func (a *appliance) networkWanted() network.Wanted {
	a.wishes.mu.Lock()
	config := a.wishes.config
	a.wishes.mu.Unlock()
	wanted := network.Wanted{Site: defaultSite, Egress: true, Ports: publicPorts(config.Proxy.HTTP, config.Proxy.HTTPS)}
	for _, p := range []netip.Prefix{config.Network.Range4, config.Network.Range6} {
		if p.IsValid() {
			wanted.Prefixes = append(wanted.Prefixes, p)
		}
	}
	return wanted
}
