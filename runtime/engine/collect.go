package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// collectDelay is how long after a deletion unreferenced blobs and snapshots
// are removed: several deletions are then one collection.
const collectDelay = 2 * time.Second

// mutationsPerCollection is after how many changes without a deletion a
// collection is made anyway, for what an interrupted pull left.
const mutationsPerCollection = 200

func init() {
	registry.Register(&plugin.Registration{
		Type:     plugins.GCPlugin,
		ID:       "scheduler",
		Requires: []plugin.Type{plugins.MetadataPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			db, err := ic.GetSingle(plugins.MetadataPlugin)
			if err != nil {
				return nil, fmt.Errorf("garbage collector: %w", err)
			}
			c := &collector{db: db.(*metadata.DB), wake: make(chan struct{}, 1)}
			c.db.RegisterMutationCallback(c.mutated)
			c.running.Go(func() { c.run(ic.Context) })
			return c, nil
		},
	})
}

// collector removes what nothing refers to any more. It stands in for
// containerd's scheduler, which registers metrics for the whole process.
type collector struct {
	db      *metadata.DB
	wake    chan struct{}
	running sync.WaitGroup

	mu        sync.Mutex // one collection at a time; guards mutations
	mutations int
}

// mutated is called by the database after each change.
func (c *collector) mutated(deletion bool) {
	// The database calls this from inside its own locks, so nothing here may
	// wait for a collection, which takes them too.
	if !deletion {
		if !c.mu.TryLock() {
			return
		}
		c.mutations++
		due := c.mutations >= mutationsPerCollection
		if due {
			c.mutations = 0
		}
		c.mu.Unlock()
		if !due {
			return
		}
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *collector) run(ctx context.Context) {
	timer := time.NewTimer(collectDelay) // one at the start, for what a crash left
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			timer.Reset(collectDelay)
		case <-timer.C:
			if _, err := c.ScheduleAndWait(ctx); err != nil && ctx.Err() == nil {
				log.G(ctx).WithError(err).Error("removing unreferenced blobs and snapshots")
			}
		}
	}
}

// ScheduleAndWait collects now. The name is the one that containerd's lease
// plugin calls.
func (c *collector) ScheduleAndWait(ctx context.Context) (gc.Stats, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.db.GarbageCollect(ctx)
}

// Close waits for the end of the background work; its context has ended before.
func (c *collector) Close() error {
	c.running.Wait()
	return nil
}
