//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/store/record"
	"tarima/supervisor"
)

// Scenario 2: a hung service leaves the routing and is restarted. A database in
// the same state is left alone far longer and reported. Both take minutes of
// patience, so they wait side by side, in two sites.
func TestHung(t *testing.T) {
	t.Run("service", func(t *testing.T) {
		t.Parallel()
		hungService(t)
	})
	t.Run("database", func(t *testing.T) {
		t.Parallel()
		hungDatabase(t)
	})
}

func hungService(t *testing.T) {
	before := site.mustBeReady(t)
	clean := site.inventory(t)
	seq := site.lastSeq(t)
	old := service(before, "lms")
	freeze(t, old.PID)
	// The kernel still accepts connections for it: only an answer tells.
	site.mustSee(t, 90*time.Second, "lms", "not ready any more", func(s supervisor.ServiceStatus) bool {
		return s.State == supervisor.StateUnready && s.Why != ""
	})
	eventually(t, 20*time.Second, "visitors get the waiting page", func() error {
		code, body, err := site.get(t.Context(), host, "/")
		if err != nil || code != 503 || !strings.Contains(body, "<html") {
			return errors.Join(err, fmt.Errorf("%d %.100s", code, body))
		}
		return nil
	})
	if code, _, err := site.get(t.Context(), studio, "/heartbeat"); err != nil || code != 200 {
		t.Errorf("Studio meanwhile: %d %v", code, err)
	}
	site.mustSee(t, 5*time.Minute, "lms", "restarted", func(s supervisor.ServiceStatus) bool {
		return s.PID != 0 && s.PID != old.PID
	})
	after := site.mustBeReady(t)
	samePids(t, before, after, "lms")
	if code, _, err := site.get(t.Context(), host, "/heartbeat"); err != nil || code != 200 {
		t.Errorf("afterwards: %d %v", code, err)
	}
	if !slices.ContainsFunc(site.events(t, seq), func(e record.Event) bool {
		return e.Kind == record.Restarted && e.Service == "lms" && strings.Contains(e.Reason, "no sign of life")
	}) {
		t.Errorf("history does not say why: %v", summary(site.events(t, seq)))
	}
	site.mustNotHaveLeaked(t, clean)
}

func hungDatabase(t *testing.T) {
	w := newSmallWorld(t, "hung")
	if err := w.writeSiteFile(onlyStores); err != nil {
		t.Fatal(err)
	}
	w.mustStartDaemon(t)
	before := w.mustRun(t, 4*time.Minute, stores...)
	cache, database := service(before, "redis-cache"), service(before, "mysql")
	thaw := freeze(t, database.PID)
	frozen := time.Now()
	freeze(t, cache.PID)
	untouched := func() supervisor.ServiceStatus {
		now := service(w.status(t), "mysql")
		if now.PID != database.PID || now.State == supervisor.StateStopping || now.Restarts != database.Restarts {
			t.Fatalf("the database was touched after %s: %+v", time.Since(frozen).Round(time.Second), now)
		}
		return now
	}
	// The same state, at the same moment: the cache is restarted ...
	w.mustSee(t, 5*time.Minute, "redis-cache", "restarted", func(s supervisor.ServiceStatus) bool {
		untouched()
		return s.PID != 0 && s.PID != cache.PID && s.State == supervisor.StateReady
	})
	for full && time.Since(frozen) < 9*time.Minute {
		untouched()
		time.Sleep(time.Second)
	}
	// ... the database is left alone and reported.
	now := untouched()
	if now.State != supervisor.StateUnready || now.Healthy || now.Why == "" {
		t.Errorf("the database is not reported: %+v", now)
	}
	if code, out, _ := w.run(t, "status"); code != 4 || !strings.Contains(out, now.Why) {
		t.Errorf("tarima status: exit %d, want 4, and why:\n%s", code, out)
	}
	thaw()
	after := w.mustRun(t, time.Minute, stores...)
	samePids(t, before, after, "redis-cache")
}

// turnOn sets campus' hidden switches in one data folder until the returned
// function is called.
func (w *world) turnOn(t *testing.T, folder, switches string) (off func()) {
	t.Helper()
	path := filepath.Join(w.root, "sites", "default", "data", folder, "campus.json")
	if err := os.WriteFile(path, []byte(switches), 0o644); err != nil {
		t.Fatal(err)
	}
	off = func() {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(off)
	return off
}

// freeze stops every process of the container that pid is the main process of,
// and returns what lets them go on.
func freeze(t *testing.T, pid int) (thaw func()) {
	t.Helper()
	frozen := map[int]bool{}
	for range 10 { // one may fork while the others are being stopped
		grew := false
		for _, p := range sameContainer(t, pid) {
			if frozen[p] {
				continue
			}
			if err := syscall.Kill(p, syscall.SIGSTOP); err == nil {
				frozen[p], grew = true, true
			}
		}
		if !grew {
			break
		}
	}
	if len(frozen) == 0 {
		t.Fatalf("process %d has no container", pid)
	}
	thaw = func() {
		for p := range frozen {
			_ = syscall.Kill(p, syscall.SIGCONT) // it may have been ended by the restart
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// sameContainer lists the processes in the cgroup of a process.
func sameContainer(t *testing.T, pid int) []int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cgroupOf(t, pid, "pids"), "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, text := range strings.Fields(string(data)) {
		p, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// cgroupOf is the folder of a process's cgroup, of a controller where each has
// a tree of its own.
func cgroupOf(t *testing.T, pid int, controller string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	unified := ""
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if slices.Contains(strings.Split(f[1], ","), controller) {
			return filepath.Join("/sys/fs/cgroup", controller, f[2])
		}
		if f[0] == "0" {
			unified = filepath.Join("/sys/fs/cgroup", f[2])
		}
	}
	return unified
}

// summary shows events in short.
func summary(events []record.Event) string {
	var lines []string
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%s %s %s", e.Kind, e.Service, e.Reason))
	}
	return strings.Join(lines, "\n")
}
