package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
)

// defaultPatience is how long a container has to end when neither the caller
// nor its spec says.
const defaultPatience = 10 * time.Second

// killPatience is how long the kernel has to end a killed process. One that
// takes longer waits for a device or a network file system.
const killPatience = 20 * time.Second

// isAlive says whether a process has been started and not ended. One that was
// created and never started belongs to a start that was cut off.
func isAlive(process *tasktypes.Process) bool {
	return process != nil && process.Status != tasktypes.Status_STOPPED && process.Status != tasktypes.Status_CREATED
}

// Stop sends the stop signal to a container's main process alone, waits, and
// then kills all its processes. With signal "" or patience 0 those of the spec
// count. A start of the same container that is under way comes to its end
// first. ErrNotFound means that none runs. When ctx ends first, the container
// may still be running: Stop again.
func (e *Engine) Stop(ctx context.Context, id string, signal string, patience time.Duration) error {
	ctx = e.contextFor(ctx)
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := e.client.ContainerService().Get(ctx, id)
	if err != nil {
		return e.notFound(id, err)
	}
	record, err := recordOf(c)
	if err != nil {
		return err
	}
	if signal == "" {
		signal = record.StopSignal
	}
	if patience <= 0 {
		patience = record.StopTimeout
	}
	if patience <= 0 {
		patience = defaultPatience
	}
	number, err := parseSignal(signal)
	if err != nil {
		return fmt.Errorf("%w: stopping %s: %w", ErrSpec, id, err)
	}
	process, err := e.process(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case process == nil, process.Status == tasktypes.Status_STOPPED:
		return fmt.Errorf("%w: %s does not run", ErrNotFound, id)
	case process.Status == tasktypes.Status_CREATED:
		patience = 0 // it never began; there is nothing to end in order
	}
	ended := e.waitExit(ctx, id)
	if patience > 0 {
		heard := hearing(int(process.Pid), number)
		if err := e.signal(ctx, id, uint32(number), false); err != nil && !isGone(err) {
			return fmt.Errorf("stopping %s: %w", id, err)
		}
		for end := time.Now().Add(patience); ; {
			err := await(ctx, ended, min(time.Until(end), hearingInterval))
			if !errors.Is(err, errPatience) {
				return err
			}
			if time.Now().After(end) {
				break
			}
			if now := hearing(int(process.Pid), number); now != heard {
				heard = now
				if err := e.signal(ctx, id, uint32(number), false); err != nil && !isGone(err) {
					return fmt.Errorf("stopping %s: %w", id, err)
				}
			}
		}
		e.log.Info("container did not end in time and is killed", "container", id, "signal", signal, "patience", patience)
	}
	return e.kill(ctx, id, ended)
}

// hearingInterval is how often a container that is to end is looked at.
const hearingInterval = 50 * time.Millisecond

// ears are what decides whether a main process hears a signal.
type ears struct {
	program string
	handled bool
}

// hearing looks at a main process. The kernel throws a signal away that the
// first process of a pid namespace has no handler for (pid_namespaces(7)): a
// service that is asked to end while it still comes up, or while its entrypoint
// runs, never hears of it. So it is asked again when it has become another
// program or has got a handler.
func hearing(pid int, signal unix.Signal) ears {
	// A process that has ended has neither.
	program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ears{}
	}
	now := ears{program: program}
	for line := range strings.Lines(string(status)) {
		// In hexadecimal, signal 1 the lowest bit; proc_pid_status(5).
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			now.handled = err == nil && caught&(1<<(uint(signal)-1)) != 0
		}
	}
	return now
}

// kill ends all processes of a container.
func (e *Engine) kill(ctx context.Context, id string, ended <-chan error) error {
	if err := e.signal(ctx, id, uint32(unix.SIGKILL), true); err != nil && !isGone(err) {
		return fmt.Errorf("killing %s: %w", id, err)
	}
	if err := await(ctx, ended, killPatience); err != nil {
		return fmt.Errorf("killing %s: %w", id, err)
	}
	return nil
}

func (e *Engine) signal(ctx context.Context, id string, number uint32, all bool) error {
	_, err := e.client.TaskService().Kill(ctx, &tasksapi.KillRequest{ContainerID: id, Signal: number, All: all})
	return err
}

// waitExit returns a channel that gets one value when the main process has
// ended, or the error of waiting for it.
func (e *Engine) waitExit(ctx context.Context, id string) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := e.client.TaskService().Wait(ctx, &tasksapi.WaitRequest{ContainerID: id})
		if isGone(err) {
			err = nil
		}
		ended <- err
	}()
	return ended
}

var errPatience = errors.New("it does not end")

func await(ctx context.Context, ended <-chan error, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return errPatience
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Remove deletes a container that has ended: its root file system, its entry
// in the exit journal, its files. Its log stays. Removing what is not there is
// ErrNotFound and harmless; a running one gives ErrRunning.
func (e *Engine) Remove(ctx context.Context, id string) error {
	ctx = e.contextFor(ctx)
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	process, err := e.process(ctx, id)
	if err != nil {
		return err
	}
	if isAlive(process) {
		return fmt.Errorf("%w: %s; stop it first", ErrRunning, id)
	}
	_, missing := e.client.ContainerService().Get(ctx, id)
	if err := e.remove(ctx, id); err != nil {
		return err
	}
	if missing != nil {
		return e.notFound(id, missing)
	}
	return nil
}

// remove deletes all that there is of a container, whatever of it there is:
// a start may have been cut off anywhere. A process is killed.
func (e *Engine) remove(ctx context.Context, id string) error {
	var errs []error
	if err := e.removeTask(ctx, id); err != nil {
		return fmt.Errorf("removing the process of %s: %w", id, err)
	}
	if err := e.client.ContainerService().Delete(ctx, id); err != nil && !isGone(err) {
		errs = append(errs, fmt.Errorf("removing the record of %s: %w", id, err))
	}
	if err := e.removeRoots(ctx, id); err != nil {
		errs = append(errs, fmt.Errorf("removing the root of %s: %w", id, err))
	}
	errs = append(errs, e.removeRest(ctx, id), os.RemoveAll(e.filesDir(id)), removeExit(e.exitFile(id)))
	return errors.Join(errs...)
}

func (e *Engine) removeTask(ctx context.Context, id string) error {
	process, err := e.process(ctx, id)
	if err != nil || process == nil {
		return err
	}
	if process.Status != tasktypes.Status_STOPPED {
		if err := e.kill(ctx, id, e.waitExit(ctx, id)); err != nil {
			return err
		}
	}
	_, err = e.client.TaskService().Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: id})
	if isGone(err) {
		return nil
	}
	return err
}

// removeRoots removes the snapshots of all runs of a container.
func (e *Engine) removeRoots(ctx context.Context, id string) error {
	service := e.client.SnapshotService(snapshotter)
	var keys []string
	if err := service.Walk(ctx, collectKeys(&keys), fmt.Sprintf("labels.%q==%s", labelContainer, id)); err != nil {
		return err
	}
	var errs []error
	for _, key := range keys {
		if err := service.Remove(ctx, key); err != nil && !isGone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
