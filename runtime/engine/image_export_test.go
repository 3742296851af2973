package engine

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// Leftovers are what only pulls make and what must be gone when one has ended
// well: downloads under way, their leases, half-unpacked layers.
func (e *Engine) Leftovers(ctx context.Context) (list []string, err error) {
	ctx = e.contextFor(ctx)
	downloads, err := e.client.ContentStore().ListStatuses(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range downloads {
		list = append(list, "download "+d.Ref)
	}
	leases, err := e.client.LeasesService().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range leases {
		if !strings.HasPrefix(l.ID, keepLeasePrefix) {
			list = append(list, "lease "+l.ID)
		}
	}
	err = e.client.SnapshotService(snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			list = append(list, "snapshot "+info.Name)
		}
		return nil
	})
	return list, err
}

// Collect removes what nothing refers to, now.
func (e *Engine) Collect(ctx context.Context) error { return e.images.collect(e.contextFor(ctx)) }

// DiskUse is what images take.
func (e *Engine) DiskUse(ctx context.Context) (int64, error) {
	return e.images.diskUse(e.contextFor(ctx))
}
