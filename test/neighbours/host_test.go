//go:build e2e

// Package neighbours brings up a site's network beside the firewalls that
// administrators have: Debian's Docker, ufw and firewalld, each started for
// real on a host of its own, which is a set of namespaces: nothing of the
// machine that runs the tests is touched.
package neighbours

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary one of the processes that the tests need.
const (
	roleEnv    = "TARIMA_NEIGHBOURS_ROLE"
	roleHost   = "host"   // namespaces with a file system of its own
	roleMember = "member" // only keeps its namespaces open
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleMember:
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	case roleHost:
		if err := beHost(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of test/neighbours make namespaces: run them as root")
		os.Exit(1)
	}
	for _, tool := range []string{"dockerd", "docker", "containerd", "iptables", "nft", "ufw", "firewalld", "firewall-cmd", "dbus-daemon", "ip", "nsenter", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "%v: ./test/setup neighbours installs what is needed\n", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// beHost is the first process of a host: it gives it its own writable /etc,
// /var and /run, says so, and ends when its input does; all other processes of
// the host end with it.
func beHost() error {
	const private, upper = "/run", "/run/tarima-neighbours"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ kind, target string }{{"tmpfs", private}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.target, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	for _, dir := range []string{"/etc", "/var"} {
		changes, work := filepath.Join(upper, dir), filepath.Join(upper, "work", dir)
		if err := errors.Join(os.MkdirAll(changes, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		if err := unix.Mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+changes+",workdir="+work); err != nil {
			return fmt.Errorf("mount an overlay on %s: %w", dir, err)
		}
	}
	fmt.Fprintln(os.Stdout, "ready")
	ended := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	go func() {
		// Daemons leave their children to the first process.
		tick := time.NewTicker(100 * time.Millisecond)
		for range tick.C {
			_, _ = unix.Wait4(-1, nil, unix.WNOHANG, nil)
		}
	}()
	return <-ended
}

// host is a machine of the test's own.
type host struct {
	testing.TB
	pid int
}

// spawn starts the test binary in another role, with namespaces of its own.
func spawn(t testing.TB, role string, flags uintptr) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a process in new namespaces: %v", err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if role == roleHost {
		ready := make([]byte, len("ready\n"))
		if _, err := io.ReadFull(stdout, ready); err != nil {
			t.Fatalf("a host of the test's own did not come up: %v", err)
		}
	}
	return cmd.Process.Pid
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t, spawn(t, roleHost, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID|syscall.CLONE_NEWIPC|syscall.CLONE_NEWUTS)}
	// As on a machine on which nothing has ever routed.
	h.must("sysctl -q net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; ip link set lo up")
	return h
}

// enter is a command inside of the host.
func (h *host) enter(ctx context.Context, script string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", "--target", fmt.Sprint(h.pid), "--net", "--mount", "--pid", "--ipc", "--uts", "sh", "-c", script)
}

// commandTimeout only bounds a test that fails.
const commandTimeout = time.Minute

// sh runs what an administrator would type.
func (h *host) sh(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := h.enter(ctx, script)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", script, err, &out, &errs)
	}
	return out.String(), nil
}

func (h *host) must(script string) string {
	h.Helper()
	out, err := h.sh(script)
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// daemon starts a program that stays, and waits until ready succeeds.
func (h *host) daemon(script, ready string) {
	h.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.enter(ctx, "exec "+script)
	// A file: a pipe would be waited for as long as a child of the program has it.
	log, err := os.Create(filepath.Join(h.TempDir(), "log"))
	if err != nil {
		cancel()
		h.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		cancel()
		h.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	h.Cleanup(func() {
		// The host's end, which is a clean-up of before, comes later: end the
		// program here so that nobody writes while it goes.
		cancel()
		<-ended
	})
	deadline := time.Now().Add(commandTimeout)
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		if _, err := h.sh(ready); err == nil {
			return
		}
		select {
		case err := <-ended:
			ended <- err
			said, _ := os.ReadFile(log.Name())
			h.Fatalf("%s ended: %v\n%s", script, err, said)
		default:
		}
		if time.Now().After(deadline) {
			h.Fatalf("%s is not ready after %s: see what it says with: %s", script, commandTimeout, ready)
		}
	}
}

// rules are the host's firewall without counters, either Tarima's tables or
// those of all others.
func (h *host) rules(tarima bool) string {
	h.Helper()
	var all strings.Builder
	for line := range strings.Lines(h.must("nft list tables")) {
		table := strings.TrimPrefix(strings.TrimSpace(line), "table ")
		if strings.Contains(table, " tarima_") == tarima {
			all.WriteString(h.must("nft --stateless list table " + table))
		}
	}
	return all.String()
}

// within runs fn in the network namespace of a process. The thread ends with
// it, so that nothing else is ever run there.
func within(pid int, fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			result <- err
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the network of process %d: %w", pid, err)
			return
		}
		result <- fn()
	}()
	return <-result
}
