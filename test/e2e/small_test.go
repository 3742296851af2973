//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"tarima/supervisor"
)

// onlyStores keeps a site small: the platform's image does not exist, so that
// only the stores, the relay and the micro-frontends come up.
const onlyStores = `[images.use]
openedx = "registry.test/campus:missing"
`

// stores are the services of a small site.
var stores = []string{"mysql", "mongodb", "redis", "redis-cache", "meilisearch", "smtp", "mfe"}

// newSmallWorld makes a second site in a network of its own, so that it meets
// the shared one nowhere but on the disk. Nothing runs in it yet.
func newSmallWorld(t *testing.T, name string) *world {
	t.Helper()
	network, err := newNetwork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = network.Close() }) // nothing is lost with it
	w, err := emptyWorld(t.Context(), "/var/lib/tarima-e2e-"+name, network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.dump(os.Stderr)
		}
		w.destroy()
	})
	return w
}

// mustRun waits until these services are ready.
func (w *world) mustRun(t *testing.T, patience time.Duration, names ...string) supervisor.SiteStatus {
	t.Helper()
	var now supervisor.SiteStatus
	eventually(t, patience, fmt.Sprintf("%v are ready", names), func() (err error) {
		if w.daemon == nil || !w.daemon.alive() {
			t.Fatalf("the daemon of %s has ended", w.root)
		}
		if now, err = w.client.Status(context.Background()); err != nil {
			return err
		}
		for _, name := range names {
			if s := service(now, name); s.State != supervisor.StateReady {
				return fmt.Errorf("%s is %s: %s; %v", name, s.State, s.Why, now.Trouble)
			}
		}
		return nil
	})
	return now
}

// mustSee waits until a service's status is as check wants it.
func (w *world) mustSee(t *testing.T, patience time.Duration, name, what string, check func(supervisor.ServiceStatus) bool) supervisor.ServiceStatus {
	t.Helper()
	var one supervisor.ServiceStatus
	eventually(t, patience, name+": "+what, func() error {
		now, err := w.client.Status(context.Background())
		if err != nil {
			return err
		}
		if one = service(now, name); !check(one) {
			return fmt.Errorf("it is %s, process %d: %s; %v", one.State, one.PID, one.Why, now.Trouble)
		}
		return nil
	})
	return one
}
