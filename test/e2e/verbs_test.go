//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarima/runtime/container"
)

// exec passes standard input on, and the exit code back.
func TestExecStreams(t *testing.T) {
	before := site.mustBeReady(t)
	input := bytes.Repeat([]byte("a line for the container\n"), 40_000) // more than any pipe holds
	var out, errs bytes.Buffer
	cmd := site.tarima(t.Context(), "exec", "redis-cache", "sh", "-c", "cat; echo told >&2; exit 7")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
	_ = cmd.Run() // the exit code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code %d, want the command's 7: %s", code, errs.String())
	}
	if !bytes.Equal(out.Bytes(), input) {
		t.Errorf("%d bytes went in, %d came out, or others", len(input), out.Len())
	}
	if got := strings.TrimSpace(errs.String()); got != "told" {
		t.Errorf("standard error: %q", got)
	}
	for _, one := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"exec", "redis-cache", "true"}, 0, ""},
		{[]string{"exec", "redis-cache", "no-such-program"}, 1, "no-such-program"},
		{[]string{"exec", "redis-cash", "true"}, 1, `did you mean "redis-cache"`},
		{[]string{"exec", "redis-cache"}, 2, "--help"},
	} {
		code, _, stderr := site.run(t, one.args...)
		if code != one.code || !strings.Contains(stderr, one.says) {
			t.Errorf("tarima %v: exit %d, want %d and %q: %s", one.args, code, one.code, one.says, stderr)
		}
	}
	samePids(t, before, site.mustBeReady(t))
}

// exec on a terminal: the command has one too, of the same size, also after a
// change of it.
func TestExecTerminal(t *testing.T) {
	site.mustBeReady(t)
	ours, theirs := openTerminal(t)
	resize(t, ours, 101, 31)
	cmd := site.tarima(t.Context(), "exec", "redis-cache", "sh", "-c",
		"tty; stty size; read line; until [ \"$(stty size)\" = '22 77' ]; do sleep 0.05; done; echo resized; exit 5")
	cmd.Env = append(cmd.Env, "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	screen := watch(ours)
	screen.mustShow(t, "/dev/pts/", "31 101")
	resize(t, ours, 77, 22)
	fmt.Fprint(ours, "\r")
	screen.mustShow(t, "resized")
	_ = cmd.Wait() // the exit code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
}

// openTerminal makes a pseudo terminal (pts(4)).
func openTerminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

func resize(t *testing.T, terminal *os.File, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
}

// screen is what a command has written so far.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func watch(r io.Reader) *screen {
	s := &screen{}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := r.Read(buffer)
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) mustShow(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("the terminal shows %q", want), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range want {
			if !strings.Contains(s.text.String(), w) {
				return fmt.Errorf("it shows %q", s.text.String())
			}
		}
		return nil
	})
}

// logs shows what was written since a moment, and goes on with what comes.
func TestLogs(t *testing.T) {
	site.mustBeReady(t)
	say := func(text string) {
		// What pid 1 of the container writes to is its log.
		if code, _, stderr := site.run(t, "exec", "redis-cache", "redis-cli", "ping"); code != 0 {
			t.Fatal(stderr)
		}
		pid := service(site.status(t), "redis-cache").PID
		file, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		fmt.Fprintln(file, text)
	}
	stamp := time.Now().UnixNano()
	first, second := fmt.Sprintf("first-%d", stamp), fmt.Sprintf("second-%d", stamp)
	say(first)
	eventually(t, 10*time.Second, "the line is in the log", func() error {
		if _, out, stderr := site.run(t, "logs", "redis-cache", "-n", "20"); !strings.Contains(out, first) {
			return fmt.Errorf("%s%s", out, stderr)
		}
		return nil
	})
	since := time.Now()
	say(second)
	eventually(t, 10*time.Second, "only the second line is shown", func() error {
		_, out, stderr := site.run(t, "logs", "redis-cache", "--since", since.Format(time.RFC3339Nano))
		if !strings.Contains(out, second) || strings.Contains(out, first) {
			return fmt.Errorf("%s%s", out, stderr)
		}
		return nil
	})
	if code, _, stderr := site.run(t, "logs", "--since", "yesterday"); code != 2 || !strings.Contains(stderr, "yesterday") {
		t.Errorf("a wrong --since: exit %d: %s", code, stderr)
	}

	cmd := site.tarima(t.Context(), "logs", "-f", "-n", "1", "redis-cache")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	third := fmt.Sprintf("third-%d", stamp)
	for lines.Scan() {
		if strings.Contains(lines.Text(), second) {
			say(third)
		}
		if strings.Contains(lines.Text(), third) {
			break
		}
	}
	if !strings.Contains(lines.Text(), third) {
		t.Errorf("logs -f ended with %q: %v", lines.Text(), lines.Err())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C is how following ends: %v", err)
	}
}

// stats tells of every container, in JSON for programs.
func TestStats(t *testing.T) {
	status := site.mustBeReady(t)
	code, out, stderr := site.run(t, "stats", "--json")
	var usage []container.Usage
	if err := json.Unmarshal([]byte(out), &usage); code != 0 || err != nil {
		t.Fatalf("exit %d: %v: %s%s", code, err, out, stderr)
	}
	byID := map[string]container.Usage{}
	for _, u := range usage {
		byID[u.ID] = u
	}
	for _, s := range status.Services {
		if u := byID["default."+s.Name]; u.Memory <= 0 || u.MemoryLimit != s.MemoryLimit || u.CPU <= 0 || u.Pids <= 0 {
			t.Errorf("%s: %+v", s.Name, u)
		}
	}
}

// Images that nothing needs go with a prune, and no others.
func TestImages(t *testing.T) {
	before := site.mustBeReady(t)
	images := func() string {
		code, out, stderr := site.run(t, "image", "list")
		if code != 0 {
			t.Fatal(stderr)
		}
		return out
	}
	if code, out, stderr := site.run(t, "image", "pull", "registry.test/campus:2"); code != 0 || !strings.Contains(out, "registry.test/campus:2 sha256:") {
		t.Fatalf("exit %d: %s%s", code, out, stderr)
	}
	if got := images(); !strings.Contains(got, "campus:2") {
		t.Errorf("the image is not listed:\n%s", got)
	}
	if code, _, stderr := site.run(t, "image", "prune"); code != 0 {
		t.Error(stderr)
	}
	if got := images(); strings.Contains(got, "campus:2") || !strings.Contains(got, "campus:1") || !strings.Contains(got, "redis:1") {
		t.Errorf("after the prune:\n%s", got)
	}
	samePids(t, before, site.mustBeReady(t))
}
