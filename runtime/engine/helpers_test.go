package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// assertNothingOf checks that nothing of a container is left but its log.
func assertNothingOf(t testing.TB, e *Engine, id string) {
	t.Helper()
	for _, found := range tracesOf(t, e, id) {
		t.Errorf("of %s there is still %s", id, found)
	}
}

// tracesOf finds what there is of containers whose id begins with a text.
func tracesOf(t testing.TB, e *Engine, id string) []string {
	t.Helper()
	ctx := e.contextFor(context.Background())
	var traces []string
	records, err := e.client.ContainerService().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		if strings.HasPrefix(record.ID, id) {
			traces = append(traces, "the record "+record.ID)
		}
	}
	tasks, err := e.tasks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for task := range tasks {
		if strings.HasPrefix(task, id) {
			traces = append(traces, "the process "+task)
		}
	}
	err = e.client.SnapshotService(snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if strings.HasPrefix(info.Labels[labelContainer], id) {
			traces = append(traces, "the root "+info.Name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{
		filepath.Join(e.cfg.State, "*", id+"*"),
		filepath.Join(e.bundles(), id+"*"),
		filepath.Join(e.cfg.State, "runc", namespace, id+"*"),
		filepath.Join("/sys/fs/cgroup/*", e.cfg.Cgroup, "*", id+"*"),
		filepath.Join("/sys/fs/cgroup", e.cfg.Cgroup, "*", id+"*"),
		filepath.Join("/sys/fs/cgroup", slicePath(e.cfg.Cgroup+".slice"), "*", e.cfg.Cgroup+"-"+id+"*"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		traces = append(traces, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, filepath.Join(e.bundles(), id)) {
			traces = append(traces, "the mount "+strings.TrimSpace(line))
		}
	}
	return traces
}
