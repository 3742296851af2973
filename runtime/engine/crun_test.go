package engine

import (
	"os/exec"
	"strings"
	"testing"

	"tarima/runtime/container"
)

// Any OCI runtime can take runc's place. crun is one; it refuses hosts that
// have cgroup v1 beside v2, and the error then says so in its own words.
func TestCrun(t *testing.T) {
	path, err := exec.LookPath("crun")
	if err != nil {
		t.Fatalf("no crun: apt install crun: %v", err)
	}
	cfg := testConfig(t)
	cfg.Runtime = path
	UseExternal(t, &cfg)
	e := openEngine(t, cfg)
	spec := shell("crun", "echo hello; exit 5")
	status, err := e.Start(t.Context(), spec, nil)
	if !e.host.unified {
		if err == nil {
			t.Fatalf("crun ran on a hybrid host: %+v; this test can ask more of it now", status)
		}
		if !strings.Contains(err.Error(), "hybrid") {
			t.Errorf("the error does not tell why: %v", err)
		}
		if list, err := e.List(t.Context(), "test"); err != nil || len(list) != 0 {
			t.Errorf("a failed start left %+v, %v", list, err)
		}
		assertNothingOf(t, e, spec.ID())
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if now := waitState(t, e, spec.ID(), container.Exited); now.Exit.Code != 5 {
		t.Errorf("exit is %+v, want 5", now.Exit)
	}
	logOf(t, e, spec.ID(), "hello")
}
