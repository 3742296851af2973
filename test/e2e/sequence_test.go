//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/supervisor"
)

// wish is what the sequence has asked of one service.
type wish struct {
	stopped bool
	memory  int64 // MiB
	env     int
}

// movable services may be asked anything; memory is what they are given at
// least, in MiB. For those with 0 it stays as it is: they are started with
// numbers that follow from it, and no change of it is one of limits alone.
var movable = []struct {
	name   string
	memory int64
}{{"smtp", 40}, {"scheduler", 64}, {"meilisearch", 0}, {"mfe", 64}, {"redis-cache", 0}}

// Scenario 13: random sequences of apply, stop, start, restart, kill and daemon
// restarts end in the desired state, with no leak.
func TestRandomSequences(t *testing.T) {
	atFirst := site.mustBeReady(t)
	clean := site.inventory(t)
	t.Cleanup(func() {
		site.mustApply(t, "")
		site.mustBeReady(t)
	})
	// What one service gets is taken from the others, unless they are given
	// theirs by name.
	wishes := map[string]*wish{}
	for _, s := range atFirst.Services {
		wishes[s.Name] = &wish{memory: s.MemoryLimit >> 20}
	}
	applyWishes(t, wishes)
	samePids(t, atFirst, site.mustBeReady(t))
	moments(t, 200, 100*time.Second, func(t *testing.T, number int) {
		before := site.mustBeReady(t)
		var steps []string
		for range 3 + dice.IntN(5) {
			steps = append(steps, randomStep(t, wishes))
			time.Sleep(time.Duration(dice.Int64N(int64(700 * time.Millisecond))))
		}
		site.mustAnswer(t)
		told := strings.Join(steps, ", ")
		for name, w := range wishes {
			site.mustFulfil(t, name, w, told)
		}
		after := site.mustBeReady(t)
		samePids(t, before, after, "smtp", "scheduler", "meilisearch", "mfe", "redis-cache")
		for name, w := range wishes {
			if w.stopped {
				w.stopped = false
				if code, _, stderr := site.run(t, "start", name); code != 0 {
					t.Fatal(stderr)
				}
			}
		}
		for name, w := range wishes {
			site.mustFulfil(t, name, w, told+", start all")
		}
		site.mustNotHaveLeaked(t, clean)
		if t.Failed() {
			t.Fatalf("sequence %d: %s", number, told)
		}
		t.Logf("sequence %d: %s", number, told)
	})
}

// randomStep does one thing and notes what is wanted from then on.
func randomStep(t *testing.T, wishes map[string]*wish) string {
	site.mustAnswer(t)
	m := movable[dice.IntN(len(movable))]
	w := wishes[m.name]
	switch dice.IntN(6) {
	case 0, 1:
		if m.memory > 0 && dice.IntN(2) == 0 {
			w.memory = m.memory + dice.Int64N(40)
		} else {
			w.env++
		}
		applyWishes(t, wishes)
		return fmt.Sprintf("apply %s %d MiB env %d", m.name, w.memory, w.env)
	case 2:
		verb := "start"
		if w.stopped = dice.IntN(2) == 0; w.stopped {
			verb = "stop"
		}
		if code, _, stderr := site.run(t, verb, m.name); code != 0 {
			t.Fatalf("%s %s: %s", verb, m.name, stderr)
		}
		return verb + " " + m.name
	case 3:
		// Asked of a stopped service, it starts it.
		if code, _, stderr := site.run(t, "restart", m.name); code != 0 {
			t.Fatalf("restart %s: %s", m.name, stderr)
		}
		w.stopped = false
		return "restart " + m.name
	case 4:
		if pid := service(site.status(t), m.name).PID; pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		return "kill " + m.name
	default:
		site.daemon.kill(syscall.SIGKILL)
		if err := site.startDaemon(); err != nil {
			t.Fatal(err)
		}
		return "kill the daemon"
	}
}

// applyWishes puts them into effect, in a site that has room for all of them.
func applyWishes(t *testing.T, wishes map[string]*wish) {
	t.Helper()
	text := strings.Replace(site.siteFile(servicesTables(wishes)), `memory = "8GB"`, `memory = "9GB"`, 1)
	if err := site.write(text); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := site.run(t, "apply"); code != 0 {
		t.Fatalf("apply: exit code %d: %s", code, stderr)
	}
}

func servicesTables(wishes map[string]*wish) string {
	var names []string
	for name := range wishes {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		w := wishes[name]
		fmt.Fprintf(&b, "[services.%s]\nmemory = \"%dMiB\"\n", name, w.memory)
		if w.env > 0 {
			fmt.Fprintf(&b, "env = { E2E_SEQUENCE = \"%d\" }\n", w.env)
		}
	}
	return b.String()
}

// mustFulfil waits until a service is as it was asked to be last.
func (w *world) mustFulfil(t *testing.T, name string, want *wish, told string) {
	t.Helper()
	eventually(t, 3*time.Minute, fmt.Sprintf("%s as wanted (%+v) after %s", name, *want, told), func() error {
		now := service(w.status(t), name)
		if want.stopped {
			if now.State != supervisor.StateStopped || now.PID != 0 {
				return fmt.Errorf("it is %s, process %d", now.State, now.PID)
			}
			return nil
		}
		if now.State != supervisor.StateReady || now.PID == 0 {
			return fmt.Errorf("it is %s: %s", now.State, now.Why)
		}
		// Some servers write over their own environment: what they were started
		// with stands in their bundle.
		bundle, err := os.ReadFile(filepath.Join(w.root, "run", "engine", "io.containerd.runtime.v2.task", "tarima", "default."+name, "config.json"))
		if err != nil {
			return err
		}
		if v := fmt.Sprintf("\"E2E_SEQUENCE=%d\"", want.env); want.env > 0 && !bytes.Contains(bundle, []byte(v)) {
			return fmt.Errorf("process %d is not of this wish", now.PID)
		}
		return nil
	})
	if !want.stopped {
		w.mustHaveLimit(t, name, want.memory<<20)
	}
}
