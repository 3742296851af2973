package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarima/supervisor"
	"tarima/supervisor/control"
)

const (
	restartServices = 10
	restartRounds   = 10
)

// restarts kills main processes and measures until the supervisor begins the
// restart, and until the new process runs. The peer restarts by its policy
// "always".
func (b *bench) restarts(ctx context.Context) (err error) {
	desired := filepath.Join(b.root, "desired.json")
	if err := writeIdle(desired, restartServices); err != nil {
		return err
	}
	// A second of quiet forgets the earlier end: every restart is the first of
	// its series, which is not delayed.
	a, err := b.appliance("r", "-archive", b.archive, "-desired", desired, "-quiet", "1s")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop(), b.peer.clear(context.WithoutCancel(ctx))) }()
	if _, err := a.collect(time.Minute, "started", restartServices); err != nil {
		return err
	}
	for i := range restartServices {
		if _, err := b.peer.run(ctx, append(dockerRun, "--restart", "always", "--name", fmt.Sprint("idle", i), imageName)...); err != nil {
			return err
		}
	}
	client := control.NewClient(filepath.Join(a.root, "run"))
	var decisions samples
	var again pairs
	for range restartRounds {
		if err := pause(ctx, 1500*time.Millisecond); err != nil {
			return err
		}
		for i := range restartServices {
			name := fmt.Sprint("idle", i)
			decided, running, err := b.killOurs(ctx, a, client, name)
			if err != nil {
				return err
			}
			theirs, err := b.killTheirs(ctx, name)
			if err != nil {
				return err
			}
			decisions = append(decisions, decided)
			again.add(running, theirs)
		}
	}
	b.add(figure{
		Name: "exit to restart decision, median", Value: decisions.median(), Unit: "ms", Spread: decisions.spread(),
		Note: "from kill -9 of the main process to the call that starts it anew",
	}.atMost(10))
	b.add(figure{Name: "exit to restart decision, 99th percentile", Value: decisions.quantile(0.99), Unit: "ms", Spread: decisions.spread()}.atMost(50))
	f := again.figure("exit to running again", "ms", "docker run --restart always")
	f.Note = "the peer waits 100 ms before the first restart by design"
	b.add(f)
	return nil
}

func (b *bench) killOurs(ctx context.Context, a *appliance, client *control.Client, name string) (decided, running float64, err error) {
	status, err := client.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	pid := 0
	for _, s := range status.Services {
		if s.Name == name && s.State == supervisor.StateReady {
			pid = s.PID
		}
	}
	if pid == 0 {
		return 0, 0, fmt.Errorf("%s does not run", name)
	}
	killed := time.Now().UnixNano()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, 0, err
	}
	starting, err := a.next(30*time.Second, func(m mark) bool { return m.Name == name && m.What == "starting" })
	if err != nil {
		return 0, 0, err
	}
	started, err := a.next(30*time.Second, func(m mark) bool { return m.Name == name && m.What == "started" })
	return float64(starting.At-killed) / 1e6, float64(started.At-killed) / 1e6, err
}

func (b *bench) killTheirs(ctx context.Context, name string) (float64, error) {
	pid, err := b.peer.pid(ctx, name)
	if err != nil {
		return 0, err
	}
	if pid == 0 {
		return 0, fmt.Errorf("docker's %s does not run", name)
	}
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	var started float64
	err = poll(30*time.Second, "docker restarts "+name, func() error {
		// The event's own time: what the question costs does not count.
		text, err := b.peer.run(ctx, "events", "--since", fmt.Sprintf("%d.%09d", killed.Unix(), killed.Nanosecond()), "--until", fmt.Sprint(time.Now().Unix()+1),
			"--filter", "container="+name, "--filter", "event=start", "--format", "{{.TimeNano}}")
		if err != nil {
			return err
		}
		at, err := strconv.ParseInt(strings.TrimSpace(strings.SplitN(text, "\n", 2)[0]), 10, 64)
		if err != nil {
			return errors.New("no start yet")
		}
		started = float64(at-killed.UnixNano()) / 1e6
		return nil
	})
	return started, err
}
