package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"tarima/runtime/container"
	"tarima/supervisor"
)

// mark is what the appliance tells on its output.
type mark struct {
	At         int64   `json:"at"`
	What       string  `json:"what"`
	Name       string  `json:"name"`
	Seconds    float64 `json:"seconds"`
	Error      string  `json:"error"`
	Goroutines int     `json:"goroutines"`
	Heap       uint64  `json:"heap"`
	Written    int64   `json:"written"`
}

// appliance is a running test/bench/appliance.
type appliance struct {
	root  string
	cmd   *exec.Cmd
	begun time.Time
	input io.WriteCloser
	ended chan struct{}

	mu    sync.Mutex
	marks []mark
	seen  int // marks that next has returned or passed over
}

// startAppliance starts it on a folder, new or used.
func startAppliance(binary, root string, args ...string) (*appliance, error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, err
	}
	if err := inMemory(filepath.Join(root, "run")); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(root, "appliance.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	a := &appliance{root: root, ended: make(chan struct{})}
	a.cmd = exec.Command(binary, append([]string{"-root", root}, args...)...)
	a.cmd.Stderr = log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a.input, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.begun = time.Now()
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(a.ended)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			var m mark
			if json.Unmarshal(lines.Bytes(), &m) == nil {
				a.mu.Lock()
				a.marks = append(a.marks, m)
				a.mu.Unlock()
			}
		}
		_ = a.cmd.Wait() // how it ends is in its log
	}()
	if _, err := a.next(30*time.Second, func(m mark) bool { return m.What == "ready" }); err != nil {
		return nil, errors.Join(err, a.kill(syscall.SIGKILL))
	}
	return a, nil
}

// next waits for the first mark behind those seen that fits.
func (a *appliance) next(patience time.Duration, fits func(mark) bool) (mark, error) {
	deadline := time.Now().Add(patience)
	for {
		a.mu.Lock()
		for a.seen < len(a.marks) {
			m := a.marks[a.seen]
			a.seen++
			if fits(m) {
				a.mu.Unlock()
				return m, nil
			}
		}
		a.mu.Unlock()
		select {
		case <-a.ended:
			return mark{}, fmt.Errorf("the appliance has ended: %s", lastLines(filepath.Join(a.root, "appliance.log")))
		default:
		}
		if time.Now().After(deadline) {
			return mark{}, fmt.Errorf("the appliance did not tell what was waited for within %s: %s", patience, lastLines(filepath.Join(a.root, "appliance.log")))
		}
		time.Sleep(time.Millisecond)
	}
}

// collect waits for a number of fitting marks with different names.
func (a *appliance) collect(patience time.Duration, what string, count int) (map[string]mark, error) {
	found := map[string]mark{}
	for len(found) < count {
		m, err := a.next(patience, func(m mark) bool { return m.What == what })
		if err != nil {
			return nil, fmt.Errorf("%d of %d %s: %w", len(found), count, what, err)
		}
		found[m.Name] = m
	}
	return found, nil
}

// start asks an appliance without a desired state for a container.
func (a *appliance) start(spec container.Spec) (mark, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return mark{}, err
	}
	what := "started"
	if spec.Kind == container.Job {
		what = "ended"
	}
	return a.ask(string(data), what)
}

func (a *appliance) remove(name string) error {
	_, err := a.ask("remove "+name, "removed")
	return err
}

func (a *appliance) ask(line, what string) (mark, error) {
	if _, err := io.WriteString(a.input, line+"\n"); err != nil {
		return mark{}, err
	}
	m, err := a.next(2*time.Minute, func(m mark) bool { return m.What == what || m.Error != "" })
	if err == nil && m.Error != "" {
		err = errors.New(m.Error)
	}
	return m, err
}

// kill ends the daemon alone.
func (a *appliance) kill(signal syscall.Signal) error {
	_ = a.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-a.ended:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("the appliance (process %d) does not end", a.cmd.Process.Pid)
	}
}

// stop ends everything and removes the folder.
func (a *appliance) stop() error {
	_ = a.input.Close() // one that waits for orders ends with them
	return errors.Join(a.kill(syscall.SIGTERM), wreck(a.root))
}

// processes are the daemon and its shims.
func (a *appliance) processes() ([]processInfo, error) { return having(a.root) }

// idleSpec is a container as the supervisor starts them, that does nothing.
func idleSpec(name string, number int) container.Spec {
	group := container.Stores
	if number%2 == 1 {
		group = container.Applications
	}
	return container.Spec{
		Site: "default", Name: name, Kind: container.Service, Group: group,
		Image: imageName, ReadOnlyRoot: true,
		Limits: container.Limits{MemoryMax: 64 << 20, Pids: 100, CPUWeight: 100},
	}
}

// writeIdle writes a desired state of so many idle services, half of them in
// each group.
func writeIdle(path string, count int) error {
	desired := supervisor.Desired{Site: "default"}
	for i := range count {
		desired.Services = append(desired.Services, supervisor.Service{Spec: idleSpec(fmt.Sprintf("idle%d", i), i)})
	}
	return writeDesired(path, desired)
}

func writeDesired(path string, desired supervisor.Desired) error {
	data, err := json.Marshal(desired)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// lastLines of a log, for an error message.
func lastLines(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
