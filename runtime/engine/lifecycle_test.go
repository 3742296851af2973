package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tarima/runtime/container"
)

func TestStartAndExitCode(t *testing.T) {
	e := newEngine(t)
	status := mustStart(t, e, shell("code", "echo out; echo err >&2; exit 7"))
	if status.Image == testImage || !strings.HasPrefix(status.Image, testImage+"@sha256:") {
		t.Errorf("the status names the image %q, not its digest", status.Image)
	}
	ended := waitState(t, e, "test.code", container.Exited)
	if ended.Exit == nil || ended.Exit.Code != 7 || ended.Exit.OOM || ended.Exit.Unknown {
		t.Errorf("exit %+v, want code 7", ended.Exit)
	}
	if since := time.Since(ended.Exit.At); since < 0 || since > deadline {
		t.Errorf("exit at %v", ended.Exit.At)
	}
	lines := e.LogTail("test.code", 10)
	if len(lines) != 2 || !strings.Contains(strings.Join(lines, " "), "out") || !strings.Contains(strings.Join(lines, " "), "err") {
		t.Errorf("log %q", lines)
	}
	if err := e.Remove(t.Context(), "test.code"); err != nil {
		t.Fatal(err)
	}
	if list, err := e.List(t.Context(), "test"); err != nil || len(list) != 0 {
		t.Errorf("after the removal there is %v, %v", list, err)
	}
	if err := e.Remove(t.Context(), "test.code"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removing again: %v", err)
	}
}
