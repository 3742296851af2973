package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"tarima/runtime/container"
)

// minMemory is below what any program starts in; less is a typing error.
const minMemory = 1 << 20

func validateLimits(l container.Limits) error {
	switch {
	case l.MemoryHigh < 0 || l.MemoryMax < 0 || l.Pids < 0 || l.Swap < -1:
		return errors.New("a limit is negative")
	case l.MemoryMax > 0 && l.MemoryMax < minMemory, l.MemoryHigh > 0 && l.MemoryHigh < minMemory:
		return fmt.Errorf("a memory limit of less than %d bytes", minMemory)
	case l.Swap > 0 && l.MemoryMax == 0:
		return errors.New("a swap limit without a memory limit")
	case l.CPUWeight > 10000:
		return fmt.Errorf("CPU weight %d is above 10000", l.CPUWeight)
	}
	return nil
}

// resources translates limits for this host's cgroups. A limit of zero is
// written as "none" where a running container may have had one before.
func (h *host) resources(l container.Limits) (*specs.LinuxResources, []string) {
	r := &specs.LinuxResources{}
	reduced := h.memoryResources(r, l)
	if h.lacks["pids"] {
		if l.Pids > 0 {
			reduced = append(reduced, "processes are not limited: this host's cgroups have no controller for pids")
		}
	} else {
		pids := l.Pids
		if pids == 0 {
			pids = -1
		}
		r.Pids = &specs.LinuxPids{Limit: &pids}
	}
	weight := l.CPUWeight
	if weight == 0 {
		weight = 100
	}
	switch {
	case h.lacks["cpu"]:
		if weight != 100 {
			reduced = append(reduced, "no CPU weight: this host's cgroups have no controller for cpu")
		}
	case h.unified:
		setUnified(r, "cpu.weight", strconv.FormatUint(weight, 10))
	default:
		// 100 is the usual weight and 1,024 the usual shares; 2 is the least.
		shares := max(weight*1024/100, 2)
		r.CPU = &specs.LinuxCPU{Shares: &shares}
	}
	return r, reduced
}

func setUnified(r *specs.LinuxResources, file, text string) {
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	r.Unified[file] = text
}

// memoryResources writes the limits of memory and swap into r.
func (h *host) memoryResources(r *specs.LinuxResources, l container.Limits) (reduced []string) {
	if h.lacks["memory"] {
		if l.MemoryMax > 0 || l.MemoryHigh > 0 || l.Swap != 0 {
			reduced = append(reduced, "memory is not limited: this host's cgroups have no controller for memory")
		}
		return reduced
	}
	unlimited := int64(-1)
	limit := l.MemoryMax
	if limit == 0 {
		limit = unlimited
	}
	r.Memory = &specs.LinuxMemory{Limit: &limit}
	// The specification counts memory and swap together, as cgroup v1 does.
	swap := unlimited
	switch {
	case l.MemoryMax > 0 && l.Swap > 0:
		swap = l.MemoryMax + l.Swap
	case l.MemoryMax > 0 && l.Swap < 0:
		swap = l.MemoryMax
	}
	if h.swap && !h.unified {
		r.Memory.Swap = &swap
	} else if !h.swap && l.Swap != 0 {
		reduced = append(reduced, "swap is not limited: this kernel does not count it")
	}
	if !h.unified {
		if l.MemoryHigh > 0 {
			reduced = append(reduced, "no memory.high: cgroup v1 has none")
		}
		return reduced
	}
	high := "max"
	if l.MemoryHigh > 0 {
		high = strconv.FormatInt(l.MemoryHigh, 10)
	}
	setUnified(r, "memory.high", high)
	if h.swap {
		// Swap in v2's own words: runc writes a limit of zero in the other
		// form to the kernel alone, and systemd undoes it when it reads its
		// units again.
		swapMax := "max"
		if l.MemoryMax > 0 && l.Swap != 0 {
			swapMax = strconv.FormatInt(max(l.Swap, 0), 10)
		}
		setUnified(r, "memory.swap.max", swapMax)
	}
	return reduced
}

// Update changes the limits of a running container and remembers them with it.
// A memory limit below what is in use is refused by cgroup v1 and enforced by
// v2.
func (e *Engine) Update(ctx context.Context, id string, limits container.Limits) error {
	if err := validateLimits(limits); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSpec, id, err)
	}
	ctx = e.contextFor(ctx)
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	resources, reduced := e.host.resources(limits)
	message, err := typeurl.MarshalAny(resources)
	if err != nil {
		return fmt.Errorf("limits of %s: %w", id, err)
	}
	_, err = e.client.TaskService().Update(ctx, &tasksapi.UpdateTaskRequest{
		ContainerID: id,
		Resources:   &anypb.Any{TypeUrl: message.GetTypeUrl(), Value: message.GetValue()},
	})
	if isGone(err) {
		return fmt.Errorf("%w: %s does not run", ErrNotFound, id)
	}
	if err != nil {
		return fmt.Errorf("new limits of %s: %w", id, err)
	}
	return e.updateRecord(ctx, id, func(r *runRecord) {
		_, before := e.host.resources(r.Limits)
		r.Limits = limits
		r.Reduced = append(without(r.Reduced, before), reduced...)
		updateSpecLabel(r.Labels, limits)
	})
}

// without returns list less the entries of drop.
func without(list, drop []string) []string {
	gone := map[string]bool{}
	for _, entry := range drop {
		gone[entry] = true
	}
	var kept []string
	for _, entry := range list {
		if !gone[entry] {
			kept = append(kept, entry)
		}
	}
	return kept
}
