package engine

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

	"tarima/runtime/container"
)

func TestContainersOutliveTheDaemon(t *testing.T) {
	cfg := testConfig(t)
	first := startDaemon(t, cfg)
	first.load()
	before := first.ask(daemonRequest{Do: "start", Spec: shell("survivor", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done")}).Status
	leaving := first.ask(daemonRequest{Do: "start", Spec: shell("leaving", "while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 42")}).Status
	first.ask(daemonRequest{Do: "start", Spec: shell("gone", "exit 1")})
	first.kill()

	// One ends while nobody is there to see it.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/tmp/go", leaving.PID), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the container", func() bool { return syscall.Kill(leaving.PID, 0) != nil })
	at := time.Now()

	second := startDaemon(t, cfg)
	states := map[string]container.Status{}
	for _, status := range second.ask(daemonRequest{Do: "list", Site: "test"}).List {
		states[status.ID] = status
	}
	if now := states["test.survivor"]; now.State != container.Running || now.PID != before.PID {
		t.Errorf("before: process %d; after: %+v", before.PID, now)
	}
	if now := states["test.survivor"]; now.Labels[container.LabelHash] != "h1" || now.Image != before.Image {
		t.Errorf("labels or image were lost: %+v", now)
	}
	exit := states["test.leaving"].Exit
	if states["test.leaving"].State != container.Exited || exit == nil || exit.Code != 42 || at.Sub(exit.At).Abs() > 10*time.Second {
		t.Errorf("who left in the meantime: %+v, exit %+v", states["test.leaving"], exit)
	}
	if states["test.gone"].Exit == nil || states["test.gone"].Exit.Code != 1 {
		t.Errorf("who had left before: %+v", states["test.gone"])
	}
	second.kill()

	// The log has every line, in order, across both daemons.
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	defer emptyEngine(t, e)
	if err := e.Stop(t.Context(), "test.survivor", "SIGKILL", deadline); err != nil {
		t.Fatal(err)
	}
	assertCounted(t, e.LogTail("test.survivor", 1<<20))
	for _, id := range []string{"test.survivor", "test.leaving", "test.gone"} {
		if err := e.Remove(t.Context(), id); err != nil {
			t.Errorf("removing %s: %v", id, err)
		}
	}
	assertNothingOf(t, e, "test.")
}

// assertCounted checks that lines are the numbers from 0 on.
func assertCounted(t *testing.T, lines []string) {
	t.Helper()
	if len(lines) == 0 {
		t.Fatal("the log is empty")
	}
	for i, line := range lines {
		if line != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
}

func TestFloodIsLoggedWholeAcrossKillsOfTheDaemon(t *testing.T) {
	const lines = 200_000
	cfg := testConfig(t)
	d := startDaemon(t, cfg)
	d.load()
	spec := shell("flood", fmt.Sprintf("exec seq 0 %d", lines-1))
	spec.Log = container.LogLimits{File: 8 << 20, Total: 64 << 20}
	d.ask(daemonRequest{Do: "start", Spec: spec})
	for range 3 {
		d.kill()
		d = startDaemon(t, cfg)
	}
	eventually(t, "the end of the flood", func() bool {
		list := d.ask(daemonRequest{Do: "list", Site: "test"}).List
		return len(list) == 1 && list[0].State == container.Exited
	})
	d.kill()
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	defer emptyEngine(t, e)
	got := e.LogTail("test.flood", 2*lines)
	if len(got) != lines {
		t.Errorf("%d of %d lines are in the log", len(got), lines)
	}
	assertCounted(t, got)
	if _, err := os.Stat(e.logFile("test", "flood") + ".1"); err != nil {
		t.Errorf("the log was not rotated: %v", err)
	}
}

func TestEndOfAShimEndsItsGroupAlone(t *testing.T) {
	e := newEngine(t)
	events := e.Events(t.Context())
	store := shell("store", "sleep 3600")
	store.Group = container.Stores
	kept := mustStart(t, e, store)
	first := mustStart(t, e, shell("app-a", "sleep 3600"))
	second := mustStart(t, e, shell("app-b", "sleep 3600"))
	shim := parentOf(t, first.PID)
	if other := parentOf(t, second.PID); other != shim {
		t.Fatalf("two containers of one group have the shims %d and %d", shim, other)
	}
	if other := parentOf(t, kept.PID); other == shim {
		t.Fatal("two groups share a shim")
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended := map[string]bool{}
	for len(ended) < 2 {
		event := nextEvent(t, events)
		if event.Kind == container.EventExit {
			ended[event.ID] = true
		}
	}
	for _, id := range []string{"test.app-a", "test.app-b"} {
		status := waitState(t, e, id, container.Exited)
		if status.Exit == nil || status.Exit.Code != 137 || status.Exit.Unknown {
			t.Errorf("exit of %s: %+v", id, status.Exit)
		}
	}
	if now := waitState(t, e, "test.store", container.Running); now.PID != kept.PID {
		t.Error("the other group was touched")
	}
	// The group comes back.
	if again := mustStart(t, e, shell("app-a", "sleep 3600")); again.State != container.Running {
		t.Errorf("after the loss of its shim: %+v", again)
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return parent
		}
	}
	t.Fatalf("process %d has no parent", pid)
	return 0
}

// A daemon that is killed while it starts a container leaves it created and
// not started; the next one removes it.
func TestStartCutOff(t *testing.T) {
	cfg := testConfig(t)
	d := startDaemon(t, cfg)
	d.load()
	d.send(daemonRequest{Do: "start", Spec: shell("half", "sleep 3600"), Blocking: true})
	d.await("attaching")
	d.kill()
	e := openEngine(t, cfg)
	assertNothingOf(t, e, "test.half")
	mustStart(t, e, shell("half", "sleep 3600"))
}

// Kill the daemon at many moments of a start; whatever is left then is taken
// over or removed, and the start works the next time.
func TestDaemonKilledAtAnyMomentOfAStart(t *testing.T) {
	cfg := testConfig(t)
	d := startDaemon(t, cfg)
	d.load()
	for i := range 12 {
		d.send(daemonRequest{Do: "start", Spec: shell("moment", "sleep 3600")})
		// A moment is a time, and any time is right.
		timer := time.NewTimer(time.Duration(i) * 12 * time.Millisecond)
		<-timer.C
		d.kill()
		d = startDaemon(t, cfg)
		for _, status := range d.ask(daemonRequest{Do: "list", Site: "test"}).List {
			if status.State == container.Created {
				t.Errorf("moment %d: a container that was never started is still there", i)
			}
			if status.State == container.Running {
				d.ask(daemonRequest{Do: "stop", ID: status.ID})
			}
		}
	}
	if now := d.ask(daemonRequest{Do: "start", Spec: shell("moment", "sleep 3600")}).Status; now.State != container.Running {
		t.Errorf("in the end: %+v", now)
	}
	d.kill()
	e := openEngine(t, cfg)
	emptyEngine(t, e)
	if err := e.sweepAtOpen(t.Context()); err != nil {
		t.Error(err)
	}
	assertNothingOf(t, e, "test.")
	assertNoShims(t, e)
}

// assertNoShims checks that no shim of this engine runs.
func assertNoShims(t *testing.T, e *Engine) {
	t.Helper()
	eventually(t, "the end of all shims", func() bool { return len(shimsOf(e)) == 0 })
}

func shimsOf(e *Engine) []string {
	var found []string
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, filepath.Join(e.cfg.Root, "bin")) {
			found = append(found, link)
		}
	}
	return found
}

func TestCommandOfADeadDaemonIsEnded(t *testing.T) {
	cfg := testConfig(t)
	d := startDaemon(t, cfg)
	d.load()
	started := d.ask(daemonRequest{Do: "start", Spec: shell("busy", "sleep 3600")}).Status
	d.send(daemonRequest{Do: "exec", ID: "test.busy", Argv: []string{"/bin/sh", "-c", "echo attaching; sleep 7777"}})
	d.await("attaching")
	d.kill()
	e := openEngine(t, cfg)
	// It was killed; a slow machine takes its time to end it.
	eventually(t, "the end of the dead daemon's command", func() bool {
		return !slices.Contains(commandsIn(started.PID), "sleep 7777")
	})
	if now := waitState(t, e, "test.busy", container.Running); now.PID != started.PID {
		t.Error("the container did not survive")
	}
	eventually(t, "the removal of its pipes", func() bool {
		left, err := os.ReadDir(filepath.Join(cfg.State, "fifo"))
		return err == nil && len(left) == 0
	})
}

// commandsIn lists the command lines of a container's processes.
func commandsIn(pid int) []string {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return nil
	}
	var commands []string
	links, _ := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, link := range links {
		if other, err := os.Readlink(link); err != nil || other != namespace {
			continue
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "cmdline"))
		if err == nil {
			commands = append(commands, strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " ")))
		}
	}
	return commands
}

// A reboot takes the state folder and every process; containers are then
// missing and can be started again.
func TestAfterAReboot(t *testing.T) {
	cfg := testConfig(t)
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	loadTestImage(t, e)
	mustStart(t, e, shell("rebooted", "sleep 3600"))
	if err := e.Stop(t.Context(), "test.rebooted", "SIGKILL", deadline); err != nil {
		t.Fatal(err)
	}
	ctx := e.contextFor(t.Context())
	if err := e.removeTask(ctx, "test.rebooted"); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(cfg.State); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, cfg)
	list, err := e.List(t.Context(), "test")
	if err != nil || len(list) != 1 {
		t.Fatalf("after the reboot: %v, %v", list, err)
	}
	if list[0].State != container.Missing || list[0].Exit == nil || !list[0].Exit.Unknown || list[0].Exit.Code != -1 {
		t.Errorf("after the reboot: %+v, exit %+v", list[0], list[0].Exit)
	}
	if now := mustStart(t, e, shell("rebooted", "sleep 3600")); now.State != container.Running {
		t.Errorf("started again: %+v", now)
	}
}

// The engine's root is a cache: without it containers are gone from the list
// and everything works again after the image is loaded.
func TestRootThrownAway(t *testing.T) {
	cfg := testConfig(t)
	d := startDaemon(t, cfg)
	d.load()
	old := d.ask(daemonRequest{Do: "start", Spec: shell("orphan", "sleep 3600")}).Status
	d.kill()
	if err := os.RemoveAll(cfg.Root); err != nil {
		t.Fatal(err)
	}
	e := openEngine(t, cfg)
	if list, err := e.List(t.Context(), "test"); err != nil || len(list) > 0 {
		t.Errorf("without its root the engine lists %v, %v", list, err)
	}
	if now := mustStart(t, e, shell("orphan", "sleep 3600")); now.State != container.Running {
		t.Errorf("started anew: %+v", now)
	}
	eventually(t, "the end of the process that nobody knows any more", func() bool {
		return errors.Is(syscall.Kill(old.PID, 0), syscall.ESRCH)
	})
}

// A daemon that ends before it has collected what it removed leaves the root
// file system on the disk. The next one takes it away.
func TestForgottenRootIsCollected(t *testing.T) {
	cfg := testConfig(t)
	first, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	loadTestImage(t, first)
	roots := func() int {
		found, err := filepath.Glob(filepath.Join(cfg.Root, "io.containerd.snapshotter.v1."+snapshotter, "snapshots", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	mustStart(t, first, shell("forgotten", "sleep 3600"))
	if err := errors.Join(first.Stop(t.Context(), "test.forgotten", "SIGKILL", deadline), first.Remove(t.Context(), "test.forgotten"), first.Close()); err != nil {
		t.Fatal(err)
	}
	const layers = 1 // of the test image
	if n := roots(); n <= layers {
		t.Fatalf("%d root file systems are left: nothing was forgotten", n)
	}
	openEngine(t, cfg)
	eventually(t, "the removal of the root file system", func() bool { return roots() == layers })
}

func TestSecondOpenIsRefused(t *testing.T) {
	cfg := testConfig(t)
	openEngine(t, cfg)
	_, err := Open(t.Context(), cfg)
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("the second engine on one root: %v", err)
	}
	// Another root is another engine.
	openEngine(t, testConfig(t))
}
