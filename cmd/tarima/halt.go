package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tarima/runtime/network"
	"tarima/store"
	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

const daemonUnit = "tarima.service"

// unitStopCommand is what the unit's ExecStop runs. systemd runs it for a
// restart too, when the containers must go on; which of the two it is, only
// the unit's job tells.
func (c *cli) unitStopCommand() *cobra.Command {
	cmd := c.verb("unit-stop", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		job, err := unitJob(cmd.Context(), daemonUnit)
		switch {
		case err != nil:
			return err
		case job == "stop": // poweroff has this job too
		case job == "":
			// The daemon ended by itself, and systemd will start it again.
			return nil
		default:
			fmt.Fprintln(c.err, "restart of the daemon: the containers go on")
			return nil
		}
		err = c.actOnAll(cmd.Context(), c.paths().client(), control.Stop)
		if errors.Is(err, control.ErrNotRunning) {
			return nil // unit-stopped comes next
		}
		return err
	})
	cmd.Hidden = true
	return cmd
}

// unitStoppedCommand is what the unit's ExecStopPost runs, after every end of
// the daemon. It stops what still runs when the unit is stopped and the daemon
// could not do it, because it was dead, not ready yet or without an answer.
func (c *cli) unitStoppedCommand() *cobra.Command {
	cmd := c.verb("unit-stopped", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		job, err := unitJob(cmd.Context(), daemonUnit)
		if err != nil || job != "stop" {
			return err
		}
		a := &appliance{paths: c.paths(), log: c.logger(), started: time.Now()}
		return a.halt(cmd.Context(), func() { fmt.Fprintln(c.err, c.say("act.stoppingLeft")) })
	})
	cmd.Hidden = true
	return cmd
}

// halt stops the site without a daemon: in order, as the containers' labels
// tell it, and without draining, because the proxy is not told. Nothing is
// started. first is called before the first container is stopped. Nothing
// left running is no error.
func (a *appliance) halt(ctx context.Context, first func()) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("stopping containers needs root")
	}
	if err := a.makeFolders(); err != nil {
		return err
	}
	memory, config, closeStore := a.memoryAtHalt(ctx)
	defer func() { err = errors.Join(err, closeStore()) }()
	if a.engine, err = a.openEngine(ctx, config); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.engine.Close()) }()
	if a.network, err = network.Open(network.Config{Dir: filepath.Join(a.paths.Run, "net"), Logger: a.log}); err != nil {
		return err
	}
	if a.store != nil {
		if err := a.rebuild(ctx); err != nil {
			a.log.Error("complete the store from the containers", "error", err) // they are stopped all the same
		}
	}
	left, err := a.engine.List(ctx, defaultSite)
	if err != nil {
		return fmt.Errorf("look for containers that still run: %w", err)
	}
	if len(left) > 0 {
		first()
		if err := a.stopAllOf(ctx, memory); err != nil {
			return err
		}
		a.log.Info("the site is stopped without its daemon", "containers", len(left), "after", time.Since(a.started).Round(time.Millisecond))
	}
	// Nothing runs any more: nothing of the site stays on the host either.
	return a.network.Remove(context.WithoutCancel(ctx), defaultSite)
}

// stopAllOf has a supervisor that knows no site stop everything it finds.
func (a *appliance) stopAllOf(ctx context.Context, memory supervisor.Store) error {
	s, err := supervisor.New(supervisor.Config{
		Site: defaultSite, Engine: a.engine, Network: a.network, Store: memory, Logger: a.log,
	})
	if err != nil {
		return err
	}
	running, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	stopped := s.StopAll(ctx)
	end()
	return errors.Join(stopped, <-ended)
}

// memoryAtHalt opens the store. One that cannot be opened may be why there is
// no daemon; it is no reason to leave the containers running.
func (a *appliance) memoryAtHalt(ctx context.Context) (supervisor.Store, site.Config, func() error) {
	opened, err := a.openStore(ctx)
	if err == nil {
		a.store = opened
		return opened, a.wantedAtStart().config, opened.Close
	}
	a.log.Error("the store cannot be opened: the stop of the site is not recorded", "error", err)
	var config site.Config
	if data, err := os.ReadFile(a.paths.SiteFile); err == nil {
		// A file that is wrong leaves the engine's usual settings.
		config, _ = parseSiteFile(a.paths.SiteFile, data)
	}
	return noStore{}, config, func() error { return nil }
}

// openStore opens the store, waiting a moment for the process before this one.
func (a *appliance) openStore(ctx context.Context) (*store.Store, error) {
	return store.Open(ctx, store.Config{Dir: filepath.Join(a.paths.State, "store"), Wait: lockWait, Logger: a.log})
}

// noStore remembers nothing. It is enough to stop by.
type noStore struct{}

// Applied implements supervisor.Store.
func (noStore) Applied(string) (record.Applied, bool, error) { return record.Applied{}, false, nil }

// SetApplied implements supervisor.Store.
func (noStore) SetApplied(string, record.Applied) error { return nil }

// Intents implements supervisor.Store.
func (noStore) Intents(string) (map[string]record.Intent, error) { return nil, nil }

// SetIntent implements supervisor.Store.
func (noStore) SetIntent(string, record.Intent) error { return nil }

// Maintenance implements supervisor.Store.
func (noStore) Maintenance(string) (record.Maintenance, error) { return record.Maintenance{}, nil }

// SetMaintenance implements supervisor.Store.
func (noStore) SetMaintenance(string, record.Maintenance) error { return nil }

// Address implements supervisor.Store.
func (noStore) Address(string, string, netip.Prefix, netip.Prefix) (record.Address, error) {
	return record.Address{}, store.ErrClosed
}

// Images implements supervisor.Store.
func (noStore) Images(string) (map[string]record.Image, error) { return nil, nil }

// SetImage implements supervisor.Store.
func (noStore) SetImage(string, record.Image) error { return nil }

// AppendEvent implements supervisor.Store.
func (noStore) AppendEvent(_ string, e record.Event) (record.Event, error) { return e, nil }

// Events implements supervisor.Store.
func (noStore) Events(string, uint64, int) ([]record.Event, error) { return nil, nil }

// ServiceEvents implements supervisor.Store.
func (noStore) ServiceEvents(string, string, int) ([]record.Event, error) { return nil, nil }

// Jobs implements supervisor.Store.
func (noStore) Jobs(string) (map[string]record.JobRecord, error) { return nil, nil }

// SetJob implements supervisor.Store.
func (noStore) SetJob(string, record.JobRecord) error { return nil }
