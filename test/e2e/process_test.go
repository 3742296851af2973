//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// process is one of ours, ended by its id alone.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (w *world) start(verb string) (*process, error) {
	logs := filepath.Join(w.root, "log")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(logs, verb+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(w.binary, "--root", w.root, verb), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := w.inside(p.cmd.Start); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ends is looked at by the tests
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process with a signal and waits for its end.
func (p *process) kill(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal) // it may have ended already
	<-p.done
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (w *world) startDaemon() (err error) {
	w.daemon, err = w.start("daemon")
	return err
}

func (w *world) startProxy() (err error) {
	w.proxy, err = w.start("proxy")
	return err
}

// mustStartDaemon starts the daemon and waits until it answers.
func (w *world) mustStartDaemon(t *testing.T) {
	t.Helper()
	if err := w.startDaemon(); err != nil {
		t.Fatal(err)
	}
	w.mustAnswer(t)
}

func (w *world) mustAnswer(t *testing.T) {
	t.Helper()
	eventually(t, 20*time.Second, "the daemon answers", func() error {
		if !w.daemon.alive() {
			return fmt.Errorf("the daemon has ended, see %s/log/daemon.log", w.root)
		}
		_, err := w.client.About(context.Background())
		return err
	})
}

// restartDaemon kills the daemon and starts it again.
func (w *world) restartDaemon(t *testing.T) {
	t.Helper()
	w.daemon.kill(syscall.SIGKILL)
	w.mustStartDaemon(t)
}

// run runs a verb and returns its exit code and output.
func (w *world) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	// Not the test's own context, which has ended when it cleans up.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := w.tarima(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// tarima makes a command line of the world's binary.
func (w *world) tarima(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.binary, append([]string{"--root", w.root}, args...)...)
	cmd.Env = append(os.Environ(), "LANG=C", "LC_ALL=C")
	return cmd
}
