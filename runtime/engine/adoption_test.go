package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"

	"tarima/runtime/container"
)

// A daemon that takes over running containers starts no OCI runtime for it: a
// site would be waiting for one process per service.
func TestAdoptionStartsNoRuntime(t *testing.T) {
	cfg := testConfig(t)
	calls := filepath.Join(filepath.Dir(cfg.Root), "calls")
	wrapper := filepath.Join(filepath.Dir(cfg.Root), "runc")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\nexec %s \"$@\"\n", calls, cfg.Runtime)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.Runtime = wrapper
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	loadTestImage(t, e)
	for i := range 3 {
		mustStart(t, e, shell(fmt.Sprint("c", i), "sleep 3600 & sleep 3600 & wait"))
	}
	for i := range 3 {
		id := container.ID("test", fmt.Sprint("c", i))
		eventually(t, id+" to have three processes", func() bool { return len(pidsOf(t, e, id)) == 3 })
		if status, err := e.statusOf(e.contextFor(t.Context()), id); err != nil || !slices.Contains(pidsOf(t, e, id), uint32(status.PID)) {
			t.Errorf("%s: its main process %d is not among %v (%v)", id, status.PID, pidsOf(t, e, id), err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(calls)
	if err != nil || !strings.Contains(string(before), "create") {
		t.Fatalf("the wrapper was not used: %v", err)
	}

	e, err = Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := e.List(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if more := strings.TrimPrefix(string(after), string(before)); more != "" {
		t.Errorf("the OCI runtime was started:\n%s", more)
	}
	running := 0
	for _, status := range list {
		if status.State == container.Running {
			running++
		}
	}
	if running != 3 {
		t.Errorf("%d of 3 containers run after the second opening: %+v", running, list)
	}
	emptyEngine(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func pidsOf(t *testing.T, e *Engine, id string) []uint32 {
	t.Helper()
	answer, err := e.client.TaskService().ListPids(e.contextFor(t.Context()), &tasksapi.ListPidsRequest{ContainerID: id})
	if err != nil {
		t.Fatal(err)
	}
	var pids []uint32
	for _, p := range answer.Processes {
		pids = append(pids, p.Pid)
	}
	return pids
}

// The name of a shim's socket goes with the shim, however many containers have
// shared it; the next shim of the group has the same name and works.
func TestNoSocketIsLeftOfAShim(t *testing.T) {
	cfg := testConfig(t)
	e := openEngine(t, cfg)
	sockets := func() []string {
		found, err := filepath.Glob(filepath.Join(cfg.State, "s", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for round := range 2 {
		for _, name := range []string{"first", "second"} {
			mustStart(t, e, shell(name, "sleep 3600"))
		}
		if n := len(sockets()); n != 1 {
			t.Fatalf("round %d: %d sockets for one group of containers", round, n)
		}
		for _, name := range []string{"first", "second"} {
			id := container.ID("test", name)
			if err := errors.Join(e.Stop(t.Context(), id, "SIGKILL", time.Second), e.Remove(t.Context(), id)); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			continue // the next container comes while the shim may still be on its way out
		}
		eventually(t, "the shim's socket to go", func() bool { return len(sockets()) == 0 })
	}
}
