package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestExec(t *testing.T) {
	e := newEngine(t)
	spec := shell("host", "sleep 3600")
	spec.User, spec.Env, spec.IDBase = "app", []string{"OF_SPEC=yes"}, idBase
	mustStart(t, e, spec)
	id := spec.ID()
	for _, c := range []struct {
		name   string
		argv   []string
		code   int
		output string
	}{
		{"output and code", []string{"sh", "-c", "echo out; exit 5"}, 5, "out\n"},
		{"errors too", []string{"sh", "-c", "echo err >&2"}, 0, "err\n"},
		{"user and environment", []string{"sh", "-c", "echo $(id -u) $OF_SPEC"}, 0, "1000 yes\n"},
		{"by a signal", []string{"sh", "-c", "kill -TERM $$"}, 143, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, output, err := e.Exec(t.Context(), id, c.argv)
			if err != nil || code != c.code || string(output) != c.output {
				t.Errorf("%d, %q, %v; want %d, %q", code, output, err, c.code, c.output)
			}
		})
	}
	t.Run("long output is cut and does not block", func(t *testing.T) {
		code, output, err := e.Exec(t.Context(), id, []string{"sh", "-c", "yes | head -c 1000000; exit 6"})
		if err != nil || code != 6 || len(output) != execOutput {
			t.Errorf("%d, %d bytes, %v", code, len(output), err)
		}
	})
	t.Run("the end of the context kills it", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, _, err := e.Exec(ctx, id, []string{"sleep", "3600"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a child that stays does not hold it up", func(t *testing.T) {
		var output screen
		code, err := e.ExecStreams(t.Context(), id, []string{"sh", "-c", "sleep 3600 & echo left it; exit 4"}, nil, &output, &output)
		if err != nil || code != 4 || output.String() != "left it\n" {
			t.Errorf("%d, %q, %v", code, output.String(), err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		if _, _, err := e.Exec(t.Context(), id, []string{"/no/such"}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("no such container", func(t *testing.T) {
		if _, _, err := e.Exec(t.Context(), "test.nobody", []string{"true"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no pipe is left", func(t *testing.T) {
		eventually(t, "no pipes", func() bool {
			left, err := os.ReadDir(e.cfg.State + "/fifo")
			return err == nil && len(left) == 0
		})
	})
}

// What a command has started ends with it where nobody looks after it any more:
// behind a probe, and when whoever asked has gone. Only what begins a session of
// its own stays.
func TestNothingOutlivesACommandThatIsLeft(t *testing.T) {
	e := newEngine(t)
	spec := shell("left", "sleep 3600")
	status := mustStart(t, e, spec)
	cgroup := memoryEventsOf(status.PID)
	eventually(t, "the container to be at rest", func() bool { return len(cgroup.processes()) > 0 })
	atRest := len(cgroup.processes())
	const children = "sleep 3601 & sleep 3602 & "
	left := func() bool { return len(cgroup.processes()) == atRest }

	code, _, err := e.Exec(t.Context(), spec.ID(), []string{"sh", "-c", children + "exit 7"})
	if err != nil || code != 7 {
		t.Errorf("a probe: %d, %v", code, err)
	}
	eventually(t, "the children of a probe to end", left)

	for name, run := range map[string]func(context.Context) error{
		"a probe that takes too long": func(ctx context.Context) error {
			_, _, err := e.Exec(ctx, spec.ID(), []string{"sh", "-c", children + "wait"})
			return err
		},
		"a command whose caller has gone": func(ctx context.Context) error {
			_, err := e.ExecStreams(ctx, spec.ID(), []string{"sh", "-c", children + "wait"}, nil, io.Discard, io.Discard)
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		eventually(t, name+" to have its children", func() bool { return len(cgroup.processes()) == atRest+3 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, "the children of "+name+" to end", left)
	}

	// At whatever moment of its start the caller goes.
	for moment := range 12 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(moment)*10*time.Millisecond)
		_, _, err := e.Exec(ctx, spec.ID(), []string{"sh", "-c", children + "wait"})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a command that was left after %d0 ms: %v", moment, err)
		}
	}
	eventually(t, "the commands that were left in their start to end", left)

	if code, _, err := e.Exec(t.Context(), spec.ID(), []string{"sh", "-c", "setsid sleep 3604 >/dev/null 2>&1 & sleep 0.2"}); err != nil || code != 0 {
		t.Errorf("a command with a session apart: %d, %v", code, err)
	}
	if n := len(cgroup.processes()); n != atRest+1 {
		t.Errorf("%d processes, want that of its own session beside the %d", n, atRest)
	}
}

// screen is what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(text)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

func TestExecTTY(t *testing.T) {
	e := newEngine(t)
	mustStart(t, e, shell("tty", "sleep 3600"))
	session := func(t *testing.T, ctx context.Context) (io.WriteCloser, *screen, chan Size, chan error, *int) {
		keyboard, typed := io.Pipe()
		out, sizes, done := &screen{}, make(chan Size, 1), make(chan error, 1)
		code := new(int)
		t.Cleanup(func() { _ = typed.Close() })
		go func() {
			var err error
			*code, err = e.ExecTTY(ctx, "test.tty", []string{"sh"}, Terminal{In: keyboard, Out: out, Resize: sizes, Term: "vt100"})
			_ = keyboard.Close()
			done <- err
		}()
		return typed, out, sizes, done, code
	}
	typeLine := func(t *testing.T, w io.Writer, line string) {
		t.Helper()
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	finish := func(t *testing.T, done chan error) error {
		t.Helper()
		select {
		case err := <-done:
			return err
		case <-time.After(deadline):
			t.Fatal("the session does not end")
			return nil
		}
	}

	t.Run("a session", func(t *testing.T) {
		typed, out, sizes, done, code := session(t, t.Context())
		typeLine(t, typed, "test -t 0 && echo is-a-$((1+1))-tty $TERM")
		eventually(t, "the answer", func() bool { return out.shows("is-a-2-tty vt100") })
		sizes <- Size{Width: 111, Height: 37}
		eventually(t, "the size", func() bool {
			typeLine(t, typed, "stty size")
			return out.shows("37 111")
		})
		typeLine(t, typed, "exit 9")
		if err := finish(t, done); err != nil || *code != 9 {
			t.Errorf("code %d, %v", *code, err)
		}
	})
	t.Run("a hang-up ends it", func(t *testing.T) {
		typed, out, _, done, code := session(t, t.Context())
		typeLine(t, typed, "echo up-$((1+1))")
		eventually(t, "the shell", func() bool { return out.shows("up-2") })
		_ = typed.Close()
		if err := finish(t, done); err != nil || *code != 128+1 {
			t.Errorf("code %d, %v", *code, err)
		}
	})
	t.Run("the end of the context ends even one that ignores it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		typed, out, _, done, code := session(t, ctx)
		typeLine(t, typed, "trap '' HUP; echo up-$((1+1)); while :; do sleep 1; done")
		eventually(t, "the shell", func() bool { return out.shows("up-2") })
		cancel()
		if err := finish(t, done); !errors.Is(err, context.Canceled) || *code != 128+9 {
			t.Errorf("code %d, %v", *code, err)
		}
	})
}
