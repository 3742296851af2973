package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"tarima/runtime/container"
	"tarima/runtime/network"
)

// repairing is a network that is looked at again from time to time: a firewall
// that was reloaded takes the host's rules of the site along, and somebody may
// have removed its interface.
type repairing struct {
	*network.Network
	log *slog.Logger

	mu   sync.Mutex
	last *container.Topology // as the supervisor wanted it
}

// Apply implements supervisor.Network.
func (r *repairing) Apply(ctx context.Context, t container.Topology) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.Network.Apply(ctx, t)
	if err == nil {
		r.last = &t
	}
	return err
}

// run looks every interval until ctx ends.
func (r *repairing) run(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.again(ctx)
		}
	}
}

func (r *repairing) again(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		return
	}
	if err := r.Network.Apply(ctx, *r.last); err != nil && ctx.Err() == nil {
		r.log.Error("the site's network is not as it should be and could not be repaired", "error", err)
	}
}
