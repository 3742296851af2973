package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"tarima/proxy"
	"tarima/runtime/engine"
	"tarima/runtime/network"
	"tarima/store"
	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// readers is the group whose members may look at the site without being root.
const readers = "tarima"

// lockWait is how long a daemon waits for the one before it to let go of the
// store: no longer than a person takes for "at once".
const lockWait = 300 * time.Millisecond

func (c *cli) daemonCommand() *cobra.Command {
	return c.verb("daemon", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		watchdog, err := daemon.SdWatchdogEnabled(false)
		if err != nil {
			return fmt.Errorf("read systemd's watchdog interval: %w", err)
		}
		log := c.logger()
		slog.SetDefault(log)
		if os.Getenv("NOTIFY_SOCKET") != "" { // systemd starts it
			if err := pauseBetweenStarts(cmd.Context(), c.paths().Run); err != nil {
				log.Error("pause between starts", "error", err) // no reason not to start
			}
		}
		d := &appliance{paths: c.paths(), log: log, notify: notifier(), started: time.Now()}
		return d.run(cmd.Context(), watchdog)
	})
}

// appliance is the daemon: every room of the house, wired together.
type appliance struct {
	paths   paths
	log     *slog.Logger
	notify  func(state string)
	started time.Time

	store      *store.Store
	engine     *engine.Engine
	network    *network.Network
	router     *proxy.Client
	supervisor *supervisor.Supervisor
	wishes     wishes
	stopped    atomic.Bool // the whole site was stopped and not started since
}

// run starts the rooms in order, serves until ctx ends, and closes them in
// reverse. Containers go on.
func (a *appliance) run(ctx context.Context, watchdog time.Duration) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the daemon starts containers and needs root; the unit tarima.service runs it so")
	}
	if err := a.makeFolders(); err != nil {
		return err
	}
	if a.store, err = a.openStore(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.store.Close()) }()

	wanted := a.wantedAtStart()
	if err := a.checkOthers(wanted.config); err != nil {
		return err
	}
	if a.engine, err = a.openEngine(ctx, wanted.config); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.engine.Close()) }()
	if a.network, err = network.Open(network.Config{Dir: filepath.Join(a.paths.Run, "net"), Logger: a.log}); err != nil {
		return err
	}
	a.router = proxy.NewClient(a.paths.proxySocket())
	if err := a.rebuild(ctx); err != nil {
		return err
	}

	repaired := &repairing{Network: a.network, log: a.log}
	changed := newBell()
	a.supervisor, err = supervisor.New(supervisor.Config{
		Site:          defaultSite,
		Engine:        a.engine,
		Network:       repaired,
		Store:         a.store,
		Router:        a.router,
		Logger:        a.log,
		Prefix4:       wanted.config.Network.Range4,
		Prefix6:       wanted.config.Network.Range6,
		Resolvers:     func() ([]netip.Addr, error) { return network.Resolvers("") },
		Watchdog:      a.feed(watchdog),
		WatchdogEvery: watchdog / 3,
		Notify:        changed.tell,
	})
	if err != nil {
		return err
	}
	if err := a.applyAtStart(ctx, wanted); err != nil {
		return err
	}
	server, err := control.Listen(a.paths.Run, readers, a, a.log)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, server.Close(closing))
	}()
	a.notify("READY=1\nSTATUS=" + a.statusLine())
	a.log.Info("ready", "after", time.Since(a.started).Round(time.Millisecond), "version", version)
	background, end := context.WithCancel(ctx)
	defer end()
	go repaired.run(background, time.Minute)
	go (&certificateWatch{files: a.certificateFiles, proxy: a.router, log: a.log}).run(background)
	go a.dropDamaged(background)
	go changed.each(background, func() { a.notify("STATUS=" + a.statusLine()) })
	err = a.supervisor.Run(ctx)
	a.notify("STOPPING=1")
	if a.stopped.Load() {
		// Nothing runs any more: nothing of the site stays on the host either.
		err = errors.Join(err, a.network.Remove(context.WithoutCancel(ctx), defaultSite))
	}
	return err
}

// makeFolders makes what systemd's StateDirectory= and RuntimeDirectory= make
// where there is systemd. Containers reach their mounts through these folders,
// so that others must be able to pass, not to read.
func (a *appliance) makeFolders() error {
	for _, dir := range []string{a.paths.State, a.paths.Sites, a.paths.Run, a.paths.Logs} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make the folder %s: %w", dir, err)
		}
	}
	return nil
}

// openEngine opens the engine. Its root is a cache: one that is damaged is
// moved aside and built anew from the store, images are pulled again.
func (a *appliance) openEngine(ctx context.Context, config site.Config) (*engine.Engine, error) {
	root := a.paths.engineRoot()
	options := engine.Config{
		Root:    root,
		State:   filepath.Join(a.paths.Run, "engine"),
		Runtime: config.Engine.Runtime,
		Socket:  config.Engine.Socket,
		LogDir:  a.logDir,
		Logger:  a.log,
		// The same database format as the store's.
		CheckDatabase: store.Verify,
		Images: engine.ImagesConfig{
			Mirrors:     config.Images.Mirrors,
			Credentials: config.Images.Credentials,
			PlainHTTP:   config.Images.Insecure,
		},
	}
	e, err := engine.Open(ctx, options)
	if !errors.Is(err, engine.ErrDamaged) {
		return e, err
	}
	aside := asideName(root, time.Now())
	a.log.Error("the engine's root is damaged; it is moved aside and built anew", "error", err, "aside", aside)
	if err := os.Rename(root, aside); err != nil {
		return nil, fmt.Errorf("move the damaged engine root aside: %w", err)
	}
	a.tell(record.Trouble, fmt.Sprintf("engine: its root was damaged (%v) and is built anew; images are brought here again. The damaged one is kept for a week as %s", err, aside))
	return engine.Open(ctx, options)
}

func (a *appliance) logDir(site string) string { return filepath.Join(a.paths.Logs, site) }

// rebuild fills a store that was lost with what the containers' labels know.
func (a *appliance) rebuild(ctx context.Context) error {
	recovery, ok := a.store.Recovered()
	if !ok {
		return nil
	}
	a.log.Error("the store was damaged", "reason", recovery.Reason, "moved to", recovery.MovedTo, "restored from", recovery.From,
		"records lost", len(recovery.Records))
	a.tell(record.Trouble, damageSentence(recovery))
	statuses, err := a.engine.List(ctx, defaultSite)
	if err != nil {
		return fmt.Errorf("ask the engine for what the store lost: %w", err)
	}
	rebuilt, err := a.store.Rebuild(defaultSite, statuses)
	if err != nil {
		return fmt.Errorf("rebuild the store from the containers: %w", err)
	}
	a.wishes.floor = rebuilt.Generation
	a.log.Warn("the store was completed from the containers", "addresses", len(rebuilt.Addresses), "images", len(rebuilt.Images),
		"jobs", len(rebuilt.Jobs), "generation", rebuilt.Generation)
	return nil
}

// tell writes an event of the whole site. That the store has no space for it is
// no reason to do less: it is logged.
func (a *appliance) tell(kind record.EventKind, reason string) {
	if _, err := a.store.AppendEvent(defaultSite, record.Event{At: time.Now(), Kind: kind, Reason: reason}); err != nil {
		a.log.Error("write an event down", "kind", string(kind), "reason", reason, "error", err)
	}
}

// damageSentence says what happened to the store, for people.
func damageSentence(r store.Recovery) string {
	text := "store: "
	switch {
	case r.Reason == "":
		text += fmt.Sprintf("%d records were damaged", len(r.Records))
	case r.From != "":
		text += fmt.Sprintf("it was damaged (%s) and is restored from the copy of %s; what was recorded since then is lost",
			r.Reason, r.CopiedAt.UTC().Format(time.RFC3339))
	default:
		text += fmt.Sprintf("it was damaged (%s) and no copy was good; it is built anew from the containers", r.Reason)
	}
	if r.MovedTo != "" {
		text += "; the damaged file is kept as " + r.MovedTo
	}
	return text
}

// feed returns what the loop calls when it has turned; nil without a watchdog.
func (a *appliance) feed(watchdog time.Duration) func() {
	if watchdog == 0 {
		return nil
	}
	return func() { a.notify("WATCHDOG=1") }
}

// bell rings for whoever listens; rings that nobody heard yet are one.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

// tell rings. It is called from within the loop and never blocks.
func (b bell) tell(string) {
	select {
	case b <- struct{}{}:
	default:
	}
}

// each calls f after every ring until ctx ends.
func (b bell) each(ctx context.Context, f func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b:
			f()
		}
	}
}

// statusLine is what systemctl status shows.
func (a *appliance) statusLine() string {
	status := a.supervisor.Status()
	if len(status.Services) == 0 {
		return a.noSiteYet()
	}
	ready := 0
	for _, s := range status.Services {
		if s.State == supervisor.StateReady {
			ready++
		}
	}
	return fmt.Sprintf("%s, %d of %d services ready", status.Overall, ready, len(status.Services))
}
