package engine

import (
	"os"
	"runtime"
	"testing"

	"tarima/runtime/container"
)

// Starting and ending containers again and again leaves nothing: no mount, no
// cgroup, no root, no pipe, no goroutine, no open file.
func TestNothingGrows(t *testing.T) {
	e := newEngine(t)
	mustStart(t, e, shell("base", "sleep 3600"))
	round := func() {
		spec := shell("round", "echo x; sleep 3600")
		spec.IDBase = idBase
		mustStart(t, e, spec)
		if code, _, err := e.Exec(t.Context(), spec.ID(), []string{"true"}); err != nil || code != 0 {
			t.Fatalf("exec: %d, %v", code, err)
		}
		if err := e.Stop(t.Context(), spec.ID(), "SIGKILL", deadline); err != nil {
			t.Fatal(err)
		}
		waitState(t, e, spec.ID(), container.Exited)
		if err := e.Remove(t.Context(), spec.ID()); err != nil {
			t.Fatal(err)
		}
	}
	round() // what is made once
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 8 {
		round()
	}
	// Some end a moment after what they worked for.
	eventually(t, "goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	eventually(t, "open files as before", func() bool { return openFiles(t) <= files+1 })
	assertNothingOf(t, e, "test.round")
	if err := e.collect(e.contextFor(t.Context())); err != nil {
		t.Error(err)
	}
	upper, err := os.ReadDir(e.cfg.Root + "/io.containerd.snapshotter.v1.overlayfs/snapshots")
	if err != nil || len(upper) != 2 {
		t.Errorf("%d folders of roots on disk, %v; want those of the image and of one container", len(upper), err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
