package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/typeurl/v2"

	"tarima/runtime/container"
)

// Usage returns what each running container of a site uses now.
func (e *Engine) Usage(ctx context.Context, site string) ([]container.Usage, error) {
	list, err := e.List(ctx, site)
	if err != nil {
		return nil, err
	}
	ctx = e.contextFor(ctx)
	var usages []container.Usage
	for _, status := range list {
		if status.State != container.Running {
			continue
		}
		usage, err := e.usage(ctx, status.ID)
		if isGone(err) || errors.Is(err, ErrNotFound) {
			continue // ended since the list was made
		}
		if err != nil {
			return nil, err
		}
		usages = append(usages, usage)
	}
	return usages, nil
}

func (e *Engine) usage(ctx context.Context, id string) (container.Usage, error) {
	answer, err := e.client.TaskService().Metrics(ctx, &tasksapi.MetricsRequest{Filters: []string{"id==" + id}})
	if err != nil {
		return container.Usage{}, fmt.Errorf("usage of %s: %w", id, err)
	}
	if len(answer.Metrics) == 0 || answer.Metrics[0].Data == nil {
		return container.Usage{}, fmt.Errorf("usage of %s: %w", id, ErrNotFound)
	}
	message, err := typeurl.UnmarshalAny(answer.Metrics[0].Data)
	if err != nil {
		return container.Usage{}, fmt.Errorf("usage of %s: %w", id, err)
	}
	usage := container.Usage{ID: id, At: time.Now()}
	switch metrics := message.(type) {
	case *v1.Metrics:
		fillV1(&usage, metrics)
	case *v2.Metrics:
		fillV2(&usage, metrics)
	default:
		return usage, fmt.Errorf("usage of %s: unknown kind %T", id, message)
	}
	return usage, nil
}

func fillV1(usage *container.Usage, m *v1.Metrics) {
	if memory := m.GetMemory(); memory != nil {
		usage.Memory = inUse(memory.GetUsage().GetUsage(), memory.GetTotalInactiveFile())
		usage.MemoryLimit = limitOf(memory.GetUsage().GetLimit())
	}
	usage.CPU = time.Duration(min(m.GetCPU().GetUsage().GetTotal(), math.MaxInt64))
	usage.Pids = int64(m.GetPids().GetCurrent())
}

func fillV2(usage *container.Usage, m *v2.Metrics) {
	if memory := m.GetMemory(); memory != nil {
		usage.Memory = inUse(memory.GetUsage(), memory.GetInactiveFile())
		usage.MemoryLimit = limitOf(memory.GetUsageLimit())
	}
	usage.CPU = time.Duration(min(m.GetCPU().GetUsageUsec(), math.MaxInt64/1000)) * time.Microsecond
	usage.Pids = int64(m.GetPids().GetCurrent())
}

// inUse leaves out cached files that nobody has used for a while: the kernel
// drops them before it would end a process.
func inUse(usage, droppable uint64) int64 {
	if droppable > usage {
		return 0
	}
	return int64(min(usage-droppable, math.MaxInt64))
}

// limitOf returns 0 for the numbers that stand for no limit: the largest
// multiple of a page below 2^63 in cgroup v1, 2^64-1 for v2's "max".
func limitOf(limit uint64) int64 {
	if limit >= math.MaxInt64-1<<20 {
		return 0
	}
	return int64(limit)
}
