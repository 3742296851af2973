package engine

import (
	"context"
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

// stopped starts a container that reports signals, stops it and returns its exit.
func stopped(t *testing.T, e *Engine, spec container.Spec, signal string, patience time.Duration) *container.Exit {
	t.Helper()
	mustStart(t, e, spec)
	logOf(t, e, spec.ID(), "ready")
	if err := e.Stop(t.Context(), spec.ID(), signal, patience); err != nil {
		t.Fatal(err)
	}
	return waitState(t, e, spec.ID(), container.Exited).Exit
}

func TestStop(t *testing.T) {
	e := newEngine(t)
	traps := "trap 'exit 3' TERM; trap 'exit 4' QUIT; trap 'exit 5' USR1; echo ready; while :; do sleep 0.1; done"
	ofImage := shell("of-image", traps)
	ofImage.StopSignal = ""
	for _, c := range []struct {
		name   string
		spec   container.Spec
		signal string
		code   int
	}{
		{"the signal of the spec", shell("of-spec", traps), "", 3},
		{"the signal of the image", ofImage, "", 4},
		{"the signal of the caller", shell("of-caller", traps), "SIGUSR1", 5},
		{"a number", shell("number", traps), "10", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			if exit := stopped(t, e, c.spec, c.signal, deadline); exit.Code != c.code {
				t.Errorf("exit code %d, want %d", exit.Code, c.code)
			}
			if err := e.Stop(t.Context(), c.spec.ID(), "", 0); !errors.Is(err, ErrNotFound) {
				t.Errorf("stopping what has ended: %v", err)
			}
		})
	}
	t.Run("one that ignores it is killed", func(t *testing.T) {
		spec := shell("deaf", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
		if exit := stopped(t, e, spec, "", 50*time.Millisecond); exit.Code != 137 {
			t.Errorf("exit code %d, want 137", exit.Code)
		}
	})
	t.Run("children get no signal before the main process has gone", func(t *testing.T) {
		spec := shell("family", "(trap 'echo child got it' TERM; while :; do sleep 0.05; done) & trap 'sleep 0.3; exit 0' TERM; echo ready; wait")
		stopped(t, e, spec, "", deadline)
		for _, line := range e.LogTail(spec.ID(), 100) {
			if strings.Contains(line, "child got it") {
				t.Error("the child got the stop signal")
			}
		}
	})
	t.Run("SIGKILL needs no handler", func(t *testing.T) {
		spec := shell("kill", "echo ready; exec sleep 3600")
		mustStart(t, e, spec)
		logOf(t, e, spec.ID(), "ready")
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		if err := e.Stop(ctx, spec.ID(), "SIGKILL", time.Hour); err != nil {
			t.Error(err)
		}
	})
	t.Run("nothing of that name", func(t *testing.T) {
		if err := e.Stop(t.Context(), "test.nobody", "", 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("stopping nobody: %v", err)
		}
	})
}

func TestStartReplacesWhatHasEnded(t *testing.T) {
	e := newEngine(t)
	mustStart(t, e, shell("again", "exit 1"))
	waitState(t, e, "test.again", container.Exited)
	first := mustStart(t, e, shell("again", "sleep 3600"))
	if first.State != container.Running || first.Exit != nil {
		t.Errorf("after the second start: %+v", first)
	}
	if _, err := e.Start(t.Context(), shell("again", "sleep 1"), nil); !errors.Is(err, ErrRunning) {
		t.Errorf("starting what runs: %v", err)
	}
	if now := waitState(t, e, "test.again", container.Running); now.PID != first.PID {
		t.Errorf("the refused start changed the process from %d to %d", first.PID, now.PID)
	}
	if err := e.Remove(t.Context(), "test.again"); !errors.Is(err, ErrRunning) {
		t.Errorf("removing what runs: %v", err)
	}
}

func TestAttachComesBeforeTheProgram(t *testing.T) {
	e := newEngine(t)
	var pid int
	status, err := e.Start(t.Context(), shell("attached", "echo started; sleep 3600"), func(p int) error {
		pid = p
		if lines := e.LogTail("test.attached", 10); len(lines) > 0 {
			t.Errorf("the program ran before its network was there: %q", lines)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pid == 0 || status.PID != pid {
		t.Errorf("attach got process %d, the container is %d", pid, status.PID)
	}
	logOf(t, e, "test.attached", "started")
}

func TestFailedStartLeavesNothing(t *testing.T) {
	e := newEngine(t)
	broken := errors.New("no address left")
	missing := shell("failing", "true")
	missing.Entrypoint = []string{"/no/such/program"}
	noImage := shell("failing", "true")
	noImage.Image = "tarima.test/other:1"
	noUser := shell("failing", "true")
	noUser.User = "nobody-here"
	for _, c := range []struct {
		name   string
		spec   container.Spec
		attach func(int) error
		want   error
	}{
		{"network", shell("failing", "true"), func(int) error { return broken }, broken},
		{"program", missing, nil, nil},
		{"image", noImage, nil, ErrNoImage},
		{"user", noUser, nil, ErrSpec},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := e.Start(t.Context(), c.spec, c.attach)
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			assertNothingOf(t, e, "test.failing")
		})
	}
}

func TestWrongSpecs(t *testing.T) {
	e := newEngine(t)
	for name, change := range map[string]func(*container.Spec){
		"no image":             func(s *container.Spec) { s.Image = "" },
		"no group":             func(s *container.Spec) { s.Group = "" },
		"a name with a dot":    func(s *container.Spec) { s.Name = "a.b" },
		"a name with a slash":  func(s *container.Spec) { s.Name = "../x" },
		"upper case":           func(s *container.Spec) { s.Site = "Test" },
		"environment":          func(s *container.Spec) { s.Env = []string{"secret"} },
		"signal":               func(s *container.Spec) { s.StopSignal = "SIGNOTHING" },
		"ids of the host":      func(s *container.Spec) { s.IDBase = 1 },
		"capability":           func(s *container.Spec) { s.Capabilities = []string{"chown"} },
		"relative target":      func(s *container.Spec) { s.Mounts = []container.Mount{{Tmpfs: true, Target: "x"}} },
		"the root as a target": func(s *container.Spec) { s.Mounts = []container.Mount{{Tmpfs: true, Target: "/x/.."}} },
		"a missing source":     func(s *container.Spec) { s.Mounts = []container.Mount{{Source: "/no/such", Target: "/x"}} },
		"two mounts at one place": func(s *container.Spec) {
			s.Mounts = []container.Mount{{Tmpfs: true, Target: "/x"}, {Tmpfs: true, Target: "/x/"}}
		},
		"a tiny memory limit":  func(s *container.Spec) { s.Limits.MemoryMax = 1000 },
		"swap without memory":  func(s *container.Spec) { s.Limits.Swap = 1 << 30 },
		"negative pids":        func(s *container.Spec) { s.Limits.Pids = -1 },
		"a large CPU weight":   func(s *container.Spec) { s.Limits.CPUWeight = 10001 },
		"an OOM score too low": func(s *container.Spec) { s.OOMScoreAdj = -1001 },
	} {
		t.Run(name, func(t *testing.T) {
			spec := shell("wrong", "true")
			change(&spec)
			_, err := e.Start(t.Context(), spec, nil)
			if !errors.Is(err, ErrSpec) {
				t.Fatalf("error %v, want ErrSpec", err)
			}
			if strings.Contains(err.Error(), "secret") && name != "environment" {
				t.Errorf("the error tells a value: %v", err)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	e := newEngine(t)
	events := e.Events(t.Context())
	mustStart(t, e, shell("event", "exit 9"))
	event := nextEvent(t, events)
	if event.Kind != container.EventExit || event.ID != "test.event" || event.Exit == nil || event.Exit.Code != 9 {
		t.Errorf("event %+v", event)
	}
	// The news of an exit comes after the last line of the log.
	mustStart(t, e, shell("last-words", "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; exit 1"))
	nextEvent(t, events)
	if lines := e.LogTail("test.last-words", 1); len(lines) != 1 || lines[0] != "line 499" {
		t.Errorf("on the news of the exit the log ends with %q", lines)
	}
}

func nextEvent(t *testing.T, events <-chan container.Event) container.Event {
	t.Helper()
	limit := time.NewTimer(deadline)
	defer limit.Stop()
	select {
	case event, ok := <-events:
		if !ok {
			t.Fatal("the channel of events was closed")
		}
		return event
	case <-limit.C:
		t.Fatal("no event")
	}
	return container.Event{}
}

func TestOutOfMemoryIsNamed(t *testing.T) {
	e := newEngine(t)
	events := e.Events(t.Context())
	other := mustStart(t, e, shell("beside", "sleep 3600"))
	spec := shell("greedy", "x=x; while :; do x=$x$x; done")
	spec.Limits = container.Limits{MemoryMax: 24 << 20, Swap: -1}
	mustStart(t, e, spec)
	exit := waitState(t, e, spec.ID(), container.Exited).Exit
	if exit.Code != 137 || !exit.OOM {
		t.Errorf("exit %+v, want 137 by the memory limit", exit)
	}
	var sawOOM, sawExit bool
	for !sawOOM || !sawExit {
		event := nextEvent(t, events)
		sawOOM = sawOOM || event.Kind == container.EventOOM && event.ID == spec.ID()
		if event.Kind == container.EventExit && event.ID == spec.ID() {
			sawExit = true
			if !event.Exit.OOM {
				t.Errorf("the event of the exit %+v does not name the memory limit", event.Exit)
			}
		}
	}
	if now := waitState(t, e, "test.beside", container.Running); now.PID != other.PID {
		t.Error("the other container was touched")
	}
	// An exit by other means is not laid to memory.
	killed := stoppedBySignal(t, e, "SIGKILL")
	if killed.OOM || killed.Code != 137 {
		t.Errorf("after SIGKILL %+v", killed)
	}
}

func stoppedBySignal(t *testing.T, e *Engine, signal string) *container.Exit {
	t.Helper()
	return stopped(t, e, shell("killed", "echo ready; sleep 3600"), signal, deadline)
}

// The kernel throws away a signal that the first process has no handler for:
// one that comes up while it is asked to end is asked again.
func TestStopWhileComingUp(t *testing.T) {
	e := newEngine(t)
	spec := shell("early", "echo up; i=0; while [ $i -lt 10 ]; do sleep 0.1; i=$((i+1)); done; trap 'exit 3' TERM; while :; do sleep 0.1; done")
	mustStart(t, e, spec)
	logOf(t, e, spec.ID(), "up")
	if err := e.Stop(t.Context(), spec.ID(), "SIGTERM", deadline); err != nil {
		t.Fatal(err)
	}
	status := waitState(t, e, spec.ID(), container.Exited)
	if status.Exit == nil || status.Exit.Code != 3 {
		t.Errorf("exit %+v, want code 3: the handler that came late", status.Exit)
	}
}
