//go:build e2e

package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cgroupPrefix begins the names of the guests' cgroups; the id of the process
// that tests follows, so that what a killed test left can be told.
const cgroupPrefix = "tarima-guest-"

// guest is a Debian system with a systemd of its own.
type guest struct {
	dir     string // of ours on the host; the guest sees dir/shared as /test
	cgroup  string
	cmd     *exec.Cmd
	done    chan error
	console string
	init    int
}

// bootScript runs in a mount namespace of its own: the guest's file system is
// in memory and goes when the guest does. The guest's cgroups lie below ours.
// Containers have keyrings of their own, and cgroups in which BPF programs say
// which devices there are.
const bootScript = `set -e
dir=$1 root=$2 cgroup=$3
for top in %s; do
  mkdir -p $top/$cgroup
  echo $$ > $top/$cgroup/cgroup.procs
done
mount -t tmpfs -o mode=755 tmpfs $dir/root
tar -x -f $root -C $dir/root --numeric-owner
exec systemd-nspawn --quiet --directory=$dir/root --register=no --keep-unit --private-network \
  --system-call-filter='@keyring bpf' --bind=/proc:/run/proc --bind=/sys:/run/sys --bind=$dir/shared:/test %s --boot
`

// cgroupTops are the hierarchies in which systemd keeps processes.
func cgroupTops() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	return []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"}
}

// boots counts the guests of this process.
var boots atomic.Int32

// boot starts a guest and waits until it is up. options are more of
// systemd-nspawn's.
func boot(ctx context.Context, dir, root string, options ...string) (*guest, error) {
	g := &guest{dir: dir, cgroup: fmt.Sprint(cgroupPrefix, os.Getpid(), ".", boots.Add(1)), done: make(chan error, 1), console: filepath.Join(dir, "console.log")}
	for _, sub := range []string{"root", "shared"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	script := filepath.Join(dir, "boot")
	if err := os.WriteFile(script, fmt.Appendf(nil, bootScript, strings.Join(cgroupTops(), " "), strings.Join(options, " ")), 0o755); err != nil {
		return nil, err
	}
	// systemd-nspawn wants a terminal; script(1) makes one.
	line := fmt.Sprintf("sh %s %s %s %s", script, dir, root, g.cgroup)
	g.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "script", "--quiet", "--return", "--flush", "--command", line, g.console)
	g.cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { g.done <- g.cmd.Wait() }()
	err := wait(ctx, time.Minute, func() error {
		select {
		case err := <-g.done:
			g.done <- err
			return fatal{errors.New("systemd-nspawn ended: " + fmt.Sprintln(err) + g.consoleTail())}
		default:
		}
		if g.init == 0 {
			if g.init = initOf(g.cgroup); g.init == 0 {
				return errors.New("the guest's systemd does not run yet")
			}
		}
		out, _ := g.command(ctx, "systemctl", "is-system-running").CombinedOutput() // the word says it
		switch state := strings.TrimSpace(string(out)); state {
		case "running", "degraded":
			return nil
		default:
			return fmt.Errorf("the guest is %q", state)
		}
	})
	if err != nil {
		g.kill()
		return nil, fmt.Errorf("boot the guest: %w\n%s", err, g.consoleTail())
	}
	return g, nil
}

func (g *guest) consoleTail() string {
	data, err := os.ReadFile(g.console)
	if err != nil {
		return err.Error()
	}
	return tail(string(data), 30)
}

// initOf finds the guest's first process, as the host counts.
func initOf(cgroup string) int {
	for _, top := range cgroupTops() {
		data, err := os.ReadFile(filepath.Join(top, cgroup, "payload", "init.scope", "cgroup.procs"))
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(string(data), "\n")
		if pid, err := strconv.Atoi(first); err == nil {
			return pid
		}
	}
	return 0
}

// command runs a program inside the guest.
func (g *guest) command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{
		"--target", strconv.Itoa(g.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"env", "--ignore-environment", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive",
	}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// poweroff ends the guest as its administrator would.
func (g *guest) poweroff(ctx context.Context) error {
	if out, err := g.command(ctx, "systemctl", "poweroff").CombinedOutput(); err != nil {
		return fmt.Errorf("poweroff: %w: %s", err, out)
	}
	select {
	case err := <-g.done:
		g.done <- err
		return err
	case <-time.After(time.Minute):
		return errors.New("the guest does not power off within a minute:\n" + g.consoleTail())
	}
}

// kill ends the guest, however it is, and removes its cgroups.
func (g *guest) kill() {
	removeCgroup(g.cgroup)
	<-g.done
}

// removeCgroup ends all processes of a guest and takes its cgroups away.
func removeCgroup(name string) {
	_ = wait(context.Background(), 20*time.Second, func() error {
		left := false
		for _, top := range cgroupTops() {
			var dirs []string
			_ = filepath.WalkDir(filepath.Join(top, name), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil // what has gone in the meantime is what is wanted
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				data, _ := os.ReadFile(filepath.Join(dirs[i], "cgroup.procs"))
				for _, field := range strings.Fields(string(data)) {
					if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
				if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
					left = true
				}
			}
		}
		if left {
			return errors.New("processes are left")
		}
		return nil
	})
}

// removeLeft removes guests of tests that were killed.
func removeLeft() {
	for _, top := range cgroupTops() {
		found, _ := filepath.Glob(filepath.Join(top, cgroupPrefix+"*")) // the pattern is a right one
		for _, path := range found {
			name := filepath.Base(path)
			number, _, _ := strings.Cut(strings.TrimPrefix(name, cgroupPrefix), ".")
			pid, err := strconv.Atoi(number)
			if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
				removeCgroup(name)
			}
		}
	}
}

// fatal ends a wait before its time.
type fatal struct{ error }

// wait asks again and again until check has no error.
func wait(ctx context.Context, patience time.Duration, check func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return nil
		}
		var f fatal
		if errors.As(err, &f) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", patience, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// sh runs a line in the guest; it returns what both streams said.
func (g *guest) sh(t *testing.T, line string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := g.command(ctx, "sh", "-c", line)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s: %v (%v)\n%s", line, err, ctx.Err(), out)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(string(out))
}

// must runs a line that has to succeed.
func (g *guest) must(t *testing.T, line string) string {
	t.Helper()
	code, out := g.sh(t, line)
	if code != 0 {
		t.Fatalf("%s: exit code %d\n%s", line, code, out)
	}
	return out
}

// show is a property of a unit.
func (g *guest) show(t *testing.T, unit, property string) string {
	t.Helper()
	return g.must(t, "systemctl show -P "+property+" "+unit)
}

// cursor is a place in the guest's journal.
func (g *guest) cursor(t *testing.T) string {
	t.Helper()
	g.must(t, "journalctl --sync")
	_, cursor, ok := strings.Cut(g.must(t, "journalctl -n 1 --show-cursor -o cat -q | tail -n 1"), "-- cursor: ")
	if !ok {
		t.Fatal("the journal has no cursor")
	}
	return cursor
}

// journal is what was written about a unit since.
func (g *guest) journal(t *testing.T, unit, cursor string) string {
	t.Helper()
	return g.must(t, "journalctl --sync; journalctl -q -o cat -u "+unit+" --after-cursor '"+cursor+"'")
}

// eventually waits for a line in the guest to print what is wanted.
func (g *guest) eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := wait(t.Context(), 30*time.Second, check); err != nil {
		_, log := g.sh(t, "systemctl status --no-pager -l -n 25 tarima tarima-proxy")
		t.Fatalf("%s: %v\n%s", what, err, log)
	}
}
