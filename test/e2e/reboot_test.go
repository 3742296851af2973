//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarima/store/record"
	"tarima/supervisor"
)

// Scenario 9: everything is gone at once, and the run folder with it, as after a
// reboot: all comes back in the order of dependencies, without a human, and
// what people made is there.
func TestReboot(t *testing.T) {
	before := site.mustBeReady(t)
	clean := site.inventory(t)
	seq := site.lastSeq(t)
	site.makeUser(t, "before-the-reboot")
	site.wreck()
	<-site.daemon.done
	<-site.proxy.done
	if err := os.RemoveAll(filepath.Join(site.root, "run")); err != nil {
		t.Fatal(err)
	}
	if err := site.startProxy(); err != nil {
		t.Fatal(err)
	}
	site.mustStartDaemon(t)
	after := site.mustBeReady(t)
	for name, pid := range pids(before) {
		if pids(after)[name] == pid {
			t.Errorf("%s still is process %d: nothing was wrecked", name, pid)
		}
	}
	startedInOrder(t, site.events(t, seq))
	site.mustHaveUser(t, "before-the-reboot")
	if code, _, err := site.get(t.Context(), host, "/heartbeat"); err != nil || code != 200 {
		t.Errorf("afterwards: %d %v", code, err)
	}
	if after.Generation != before.Generation {
		t.Errorf("generation %d became %d", before.Generation, after.Generation)
	}
	// The kernel's forwarding is still on, which no real reboot leaves so: this
	// time there is nothing to be undone in the end.
	delete(clean, "file run/net/host-settings.json")
	site.mustNotHaveLeaked(t, clean)
}

// startedInOrder checks that whoever asks a database was started after that was
// ready.
func startedInOrder(t *testing.T, events []record.Event) {
	t.Helper()
	ready, started := map[string]int{}, map[string]int{}
	for i, e := range events {
		switch e.Kind {
		case record.ProbePassed:
			if _, ok := ready[e.Service]; !ok {
				ready[e.Service] = i
			}
		case record.Started, record.Restarted:
			if _, ok := started[e.Service]; !ok {
				started[e.Service] = i
			}
		}
	}
	for name, needs := range map[string][]string{
		"lms":        {"mysql", "mongodb", "redis"},
		"cms":        {"mysql", "mongodb", "redis"},
		"lms-worker": {"mysql", "mongodb", "redis"},
		"cms-worker": {"mysql", "mongodb", "redis"},
		"scheduler":  {"redis"},
	} {
		for _, need := range needs {
			at, ok := ready[need]
			if begun, was := started[name]; !ok || !was || begun < at {
				t.Errorf("%s was started before %s was ready:\n%s", name, need, summary(events))
			}
		}
	}
}

// makeUser makes an account of the platform, in MySQL.
func (w *world) makeUser(t *testing.T, name string) {
	t.Helper()
	code, out, stderr := w.run(t, "exec", "lms", "./manage.py", "lms", "manage_user", name, name+"@campus.localhost")
	if code != 0 {
		t.Fatalf("make the user %s: exit code %d: %s%s", name, code, out, stderr)
	}
}

// mustHaveUser asks the platform to remove an account, which it says whether it
// had.
func (w *world) mustHaveUser(t *testing.T, name string) {
	t.Helper()
	code, out, stderr := w.run(t, "exec", "lms", "./manage.py", "lms", "manage_user", "--remove", name, name+"@campus.localhost")
	if code != 0 || !strings.Contains(out+stderr, "Removing user: "+name) {
		t.Errorf("the user %s is lost: exit code %d: %s%s", name, code, out, stderr)
	}
}

// Stopped by an administrator means stopped, over a restart of the daemon too.
func TestStopIsRemembered(t *testing.T) {
	before := site.mustBeReady(t)
	if code, _, stderr := site.run(t, "stop", "scheduler"); code != 0 {
		t.Fatal(stderr)
	}
	site.mustSee(t, time.Minute, "scheduler", "stopped", func(s supervisor.ServiceStatus) bool {
		return s.State == supervisor.StateStopped && s.PID == 0
	})
	site.restartDaemon(t)
	site.mustBeReady(t)
	for range 20 {
		if s := service(site.status(t), "scheduler"); s.State != supervisor.StateStopped || s.PID != 0 {
			t.Fatalf("it came back: %+v", s)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if code, out, _ := site.run(t, "status"); code != 0 || !strings.Contains(out, "stopped") {
		t.Errorf("tarima status: exit %d\n%s", code, out)
	}
	if code, _, stderr := site.run(t, "start", "scheduler"); code != 0 {
		t.Fatal(stderr)
	}
	site.mustSee(t, time.Minute, "scheduler", "ready", func(s supervisor.ServiceStatus) bool {
		return s.State == supervisor.StateReady
	})
	samePids(t, before, site.mustBeReady(t), "scheduler")
}

// A new limit is put into effect on the running container.
func TestLiveLimit(t *testing.T) {
	before := site.mustBeReady(t)
	want := int64(70 << 20)
	more := "[services.mfe]\nmemory = \"70MiB\"\n"
	plan := filepath.Join(site.root, "planned.toml")
	if err := os.WriteFile(plan, []byte(site.siteFile(more)), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := site.run(t, "plan", plan)
	if code != 0 || !strings.Contains(out, "limits") || !strings.Contains(out, "mfe") || strings.Contains(out, "replace") {
		t.Errorf("tarima plan: exit %d, want changes of limits and nothing else: %s%s", code, out, stderr)
	}
	site.mustApply(t, more)
	site.mustHaveLimit(t, "mfe", want)
	samePids(t, before, site.mustBeReady(t))
	site.mustApply(t, "")
	site.mustHaveLimit(t, "mfe", service(before, "mfe").MemoryLimit)
	samePids(t, before, site.mustBeReady(t))
}

func (w *world) mustApply(t *testing.T, more string) {
	t.Helper()
	if err := w.writeSiteFile(more); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := w.run(t, "apply"); code != 0 {
		t.Fatalf("apply: exit code %d: %s", code, stderr)
	}
}

func (w *world) mustHaveLimit(t *testing.T, name string, want int64) {
	t.Helper()
	eventually(t, 20*time.Second, "the kernel knows the limit of "+name, func() error {
		dir := cgroupOf(t, service(w.status(t), name).PID, "memory")
		data, err := os.ReadFile(filepath.Join(dir, "memory.limit_in_bytes"))
		if os.IsNotExist(err) {
			data, err = os.ReadFile(filepath.Join(dir, "memory.max"))
		}
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(string(data)); got != fmt.Sprint(want) {
			return fmt.Errorf("it is %s, want %d", got, want)
		}
		return nil
	})
}
