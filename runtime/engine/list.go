package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"tarima/runtime/container"
)

// List returns the containers of a site, by name, whatever their state.
func (e *Engine) List(ctx context.Context, site string) ([]container.Status, error) {
	ctx = e.contextFor(ctx)
	records, err := e.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%s", container.LabelSite, site))
	if err != nil {
		return nil, fmt.Errorf("listing the containers of site %s: %w", site, err)
	}
	tasks, err := e.tasks(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]container.Status, 0, len(records))
	for _, record := range records {
		status, err := e.status(record, tasks[record.ID])
		if err != nil {
			e.log.Warn("a container in the engine is not ours; left alone", "container", record.ID, "error", err)
			continue
		}
		list = append(list, status)
	}
	slices.SortFunc(list, func(a, b container.Status) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// tasks returns the processes of all our containers by container id.
func (e *Engine) tasks(ctx context.Context) (map[string]*tasktypes.Process, error) {
	answer, err := e.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing the running containers: %w", err)
	}
	tasks := make(map[string]*tasktypes.Process, len(answer.Tasks))
	for _, process := range answer.Tasks {
		tasks[process.ID] = process // a main process has the name of its container
	}
	return tasks, nil
}

// statusOf returns the state of one container.
func (e *Engine) statusOf(ctx context.Context, id string) (container.Status, error) {
	record, err := e.client.ContainerService().Get(ctx, id)
	if err != nil {
		return container.Status{}, e.notFound(id, err)
	}
	process, err := e.process(ctx, id)
	if err != nil {
		return container.Status{}, err
	}
	return e.status(record, process)
}

// process returns a container's main process; nil when there is none.
func (e *Engine) process(ctx context.Context, id string) (*tasktypes.Process, error) {
	answer, err := e.client.TaskService().Get(ctx, &tasksapi.GetRequest{ContainerID: id})
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state of container %s: %w", id, err)
	}
	return answer.Process, nil
}

func (e *Engine) status(c containers.Container, process *tasktypes.Process) (container.Status, error) {
	record, err := recordOf(c)
	if err != nil {
		return container.Status{}, err
	}
	status := container.Status{
		ID:       c.ID,
		Image:    record.Image,
		Labels:   record.Labels,
		Reduced:  record.Reduced,
		LogFile:  record.LogFile,
		Started:  record.Started,
		CgroupV2: e.host.unified,
	}
	switch {
	case process == nil:
		if entry, ok := e.journaled(c.ID, record.Run); ok {
			status.State, status.Exit = container.Exited, entry.exit()
		} else {
			status.State, status.Exit = container.Missing, &container.Exit{Code: -1, Unknown: true}
		}
	case process.Status == tasktypes.Status_CREATED:
		status.State, status.PID, status.Started = container.Created, int(process.Pid), time.Time{}
	case process.Status == tasktypes.Status_STOPPED:
		exit := e.exitOf(c.ID, record.Run, int(process.ExitStatus), process.ExitedAt.AsTime())
		status.State, status.Exit = container.Exited, &exit
	default:
		status.State, status.PID = container.Running, int(process.Pid)
	}
	return status, nil
}

func (entry exitEntry) exit() *container.Exit {
	return &container.Exit{Code: entry.Code, At: entry.At, OOM: entry.OOM}
}

// exitOf completes what containerd says of an exit with the journal, which
// also knows of memory kills.
func (e *Engine) exitOf(id, run string, code int, at time.Time) container.Exit {
	if entry, ok := e.journaled(id, run); ok {
		return *entry.exit()
	}
	return container.Exit{Code: code, At: at}
}

// journaled returns the entry of one run of a container. There is none after a
// reboot.
func (e *Engine) journaled(id, run string) (exitEntry, bool) {
	entry, err := readExit(e.exitFile(id))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.log.Warn("an entry of the exit journal cannot be read", "container", id, "error", err)
	}
	return entry, err == nil && entry.Run == run
}

// notFound turns containerd's answer for an unknown name into ErrNotFound.
func (e *Engine) notFound(id string, err error) error {
	if isGone(err) {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return fmt.Errorf("container %s: %w", id, err)
}

// isGone says whether containerd means that something does not exist or does
// not run any more. A shim that has just ended answers with a closed
// connection.
func isGone(err error) bool {
	if err == nil {
		return false
	}
	// Some in-process services answer as the wire would.
	return errdefs.IsNotFound(err) || errdefs.IsNotFound(errgrpc.ToNative(err)) || strings.Contains(err.Error(), "ttrpc: closed") ||
		strings.Contains(err.Error(), "process already finished")
}
