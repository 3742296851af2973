package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// Sweep removes what no container owns any more and what a crash left
// half-made: processes that were created and never started, commands of a
// daemon that is gone, root file systems, bundles, hosts files, cgroups, idle
// shims and their sockets. What runs, and what has ended and is still in the
// list, stays. Open does it too; it is safe at any time.
func (e *Engine) Sweep(ctx context.Context) error {
	return e.sweep(e.contextFor(ctx))
}

// sweepAtOpen also ends idle shims. Later one of them may be about to get its
// first container.
func (e *Engine) sweepAtOpen(ctx context.Context) error {
	ctx = e.contextFor(ctx)
	return errors.Join(e.sweep(ctx), e.sweepShims(ctx), e.sweepCommands(ctx), e.sweepForgotten(ctx))
}

// sweepForgotten has containerd look for root file systems that it has dropped
// from its database and not yet from the disk. It looks only after a removal of
// this process's own: what one that was killed in between has left would stay
// until then. So there is one.
func (e *Engine) sweepForgotten(ctx context.Context) error {
	if e.embedded == nil {
		return nil // it has a process, and a memory, of its own
	}
	const key = "sweep"
	service := e.client.SnapshotService(snapshotter)
	if _, err := service.Prepare(ctx, key, ""); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("sweep: looking for forgotten root file systems: %w", err)
	}
	if err := service.Remove(ctx, key); err != nil && !isGone(err) {
		return fmt.Errorf("sweep: looking for forgotten root file systems: %w", err)
	}
	return nil
}

func (e *Engine) sweep(ctx context.Context) error {
	records, err := e.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("sweep: listing containers: %w", err)
	}
	tasks, err := e.tasks(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	known := map[string]bool{}
	roots := map[string]bool{}
	for _, record := range records {
		known[record.ID] = true
		roots[record.SnapshotKey] = true
	}
	var errs []error
	for id, process := range tasks {
		if known[id] {
			errs = append(errs, e.sweepProcess(ctx, id, process))
		} else {
			errs = append(errs, e.sweepStray(ctx, id))
		}
	}
	errs = append(errs,
		e.sweepRoots(ctx, roots),
		e.sweepNamed(ctx, known, filepath.Join(e.cfg.State, "files"), ""),
		e.sweepNamed(ctx, known, filepath.Join(e.cfg.State, "exits"), ".json"),
		e.sweepNamed(ctx, known, filepath.Join(e.cfg.State, "runc", namespace), ""),
	)
	if e.embedded != nil {
		errs = append(errs, e.sweepNamed(ctx, known, e.bundles(), ""))
	}
	return errors.Join(errs...)
}

func (e *Engine) bundles() string {
	return filepath.Join(e.cfg.State, "io.containerd.runtime.v2.task", namespace)
}

// sweepProcess removes a container that was created and never started.
func (e *Engine) sweepProcess(ctx context.Context, id string, process *tasktypes.Process) error {
	if process.Status != tasktypes.Status_CREATED {
		return nil
	}
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	// It may have been started since the list was made.
	process, err = e.process(ctx, id)
	if err != nil || process == nil || process.Status != tasktypes.Status_CREATED {
		return err
	}
	e.log.Info("removing a container whose start was cut off", "container", id)
	return e.remove(ctx, id)
}

// sweepStray ends a container that runs and that no record tells of: the
// engine's root was thrown away. containerd ends none without a record, so it
// gets one for the moment.
func (e *Engine) sweepStray(ctx context.Context, id string) error {
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	stub := containers.Container{
		ID:      id,
		Runtime: containers.RuntimeInfo{Name: e.shim},
		Spec:    &anypb.Any{},
	}
	if _, err := e.client.ContainerService().Create(ctx, stub); errdefs.IsAlreadyExists(err) {
		return nil // started since the list was made
	} else if err != nil {
		return fmt.Errorf("sweep: %s: %w", id, err)
	}
	e.log.Warn("ending a container that the engine has no record of", "container", id)
	return e.remove(ctx, id)
}

// sweepRoots removes root file systems without a container.
func (e *Engine) sweepRoots(ctx context.Context, used map[string]bool) error {
	service := e.client.SnapshotService(snapshotter)
	owners := map[string]string{}
	err := service.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if owner := info.Labels[labelContainer]; owner != "" && !used[info.Name] {
			owners[info.Name] = owner
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep: listing root file systems: %w", err)
	}
	var errs []error
	for key, owner := range owners {
		errs = append(errs, e.unlessBusy(ctx, owner, func() error {
			c, err := e.client.ContainerService().Get(ctx, owner)
			if err == nil && c.SnapshotKey == key {
				return nil // started since the list was made
			}
			if err := service.Remove(ctx, key); err != nil && !isGone(err) {
				return fmt.Errorf("sweep: root file system %s: %w", key, err)
			}
			return nil
		}))
	}
	return errors.Join(errs...)
}

// unlessBusy does something to what belongs to a container while nobody starts
// or stops it.
func (e *Engine) unlessBusy(ctx context.Context, id string, do func() error) error {
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

// sweepNamed removes what lies in a folder under the name of a container that
// does not exist.
func (e *Engine) sweepNamed(ctx context.Context, known map[string]bool, dir, suffix string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), suffix)
		if ok && known[id] {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		errs = append(errs, e.unlessBusy(ctx, id, func() error {
			if _, err := e.client.ContainerService().Get(ctx, id); err == nil {
				return nil // started since the list was made
			}
			return errors.Join(e.removeRest(ctx, id), os.RemoveAll(path))
		}))
	}
	return errors.Join(errs...)
}

// removeRest removes what containerd does not know of a container any more:
// the runtime's state, mounts in its bundle, its cgroups with all processes in
// them. There is none after an orderly end.
func (e *Engine) removeRest(ctx context.Context, id string) error {
	var errs []error
	if exists(filepath.Join(e.cfg.State, "runc", namespace, id)) {
		command := exec.CommandContext(ctx, e.cfg.Runtime, "--root", filepath.Join(e.cfg.State, "runc", namespace), "delete", "--force", id)
		if output, err := command.CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("runtime's state of %s: %w: %s", id, err, strings.TrimSpace(string(output))))
		}
	}
	if bundle := filepath.Join(e.bundles(), id); e.embedded != nil && exists(bundle) {
		if err := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, os.RemoveAll(bundle))
	}
	site, _, ok := strings.Cut(id, ".")
	if ok {
		errs = append(errs, removeCgroups(ctx, e.host.cgroupFolder(e.cfg.Cgroup, site, id)))
	}
	return errors.Join(errs...)
}

// sweepShims asks shims that serve no container to end, and removes sockets
// that nobody listens on. A daemon that was killed between the start of a shim
// and its first container leaves one.
func (e *Engine) sweepShims(ctx context.Context) error {
	if e.embedded == nil {
		return nil
	}
	used := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(e.bundles(), "*", "bootstrap.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		var bootstrap struct {
			Address string `json:"address"`
		}
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &bootstrap) == nil {
			used[strings.TrimPrefix(bootstrap.Address, "unix://")] = true
		}
	}
	sockets, err := filepath.Glob(filepath.Join(e.cfg.State, "s", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, socket := range sockets {
		if used[socket] {
			continue
		}
		connection, err := net.DialTimeout("unix", socket, time.Second)
		if err != nil {
			if errors.Is(err, unix.ECONNREFUSED) {
				errs = append(errs, os.Remove(socket))
			}
			continue
		}
		client := ttrpc.NewClient(connection)
		call, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, namespace), shimPatience)
		// A shim that has containers after all refuses.
		_, err = taskapi.NewTTRPCTaskClient(client).Shutdown(call, &taskapi.ShutdownRequest{ID: filepath.Base(socket)})
		if call.Err() != nil && err != nil && ctx.Err() == nil {
			e.log.Warn("killing an idle shim that does not answer", "socket", socket)
			errs = append(errs, killListener(socket))
		}
		cancel()
		errs = append(errs, client.Close())
	}
	return errors.Join(errs...)
}

// shimPatience is how long an idle shim may take to answer.
const shimPatience = 2 * time.Second

// killListener kills the process that listens on a unix socket. The socket's
// own record of its owner names the process that made it, which is gone.
func killListener(socket string) error {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // Num RefCount Protocol Flags Type St Inode Path
		if len(fields) != 8 || fields[7] != socket {
			continue
		}
		links, err := filepath.Glob("/proc/[0-9]*/fd/*")
		if err != nil {
			return err
		}
		for _, link := range links {
			if target, err := os.Readlink(link); err != nil || target != "socket:["+fields[6]+"]" {
				continue
			}
			pid, err := strconv.Atoi(strings.Split(link, "/")[2])
			if err != nil {
				return err
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("killing the shim %d: %w", pid, err)
			}
		}
	}
	return nil
}

// sweepCommands ends commands in containers whose daemon is gone: nobody reads
// their output any more. Their pipes tell of them.
func (e *Engine) sweepCommands(ctx context.Context) error {
	dir := filepath.Join(e.cfg.State, "fifo")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if id, command, ok := strings.Cut(entry.Name(), execSeparator); ok {
			_, err := e.client.TaskService().Kill(ctx, &tasksapi.KillRequest{ContainerID: id, ExecID: command, Signal: uint32(unix.SIGKILL)})
			if err == nil {
				_, err = e.client.TaskService().Wait(ctx, &tasksapi.WaitRequest{ContainerID: id, ExecID: command})
			}
			// One that never came to run cannot be killed, only removed.
			if err == nil || isGone(err) || errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
				_, err = e.client.TaskService().DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: id, ExecID: command})
			}
			if err != nil && !isGone(err) {
				errs = append(errs, fmt.Errorf("sweep: command %s in %s: %w", command, id, err))
			}
		}
		errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return errors.Join(errs...)
}

func collectKeys(keys *[]string) snapshots.WalkFunc {
	return func(_ context.Context, info snapshots.Info) error {
		*keys = append(*keys, info.Name)
		return nil
	}
}
