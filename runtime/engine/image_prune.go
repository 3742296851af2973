package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"tarima/runtime/container"
)

// list returns the images that are here, by name: one for each tag, and one by
// digest for each image whose tag has moved on.
func (c *imageCache) list(ctx context.Context) ([]container.Image, error) {
	records, err := c.records(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := c.kept(ctx)
	if err != nil {
		return nil, err
	}
	used, err := c.used(ctx, records)
	if err != nil {
		return nil, err
	}
	named := map[digest.Digest]bool{}
	for _, record := range records {
		if tagged(record.Name) {
			named[record.Target.Digest] = true
		}
	}
	var list []container.Image
	for _, record := range records {
		if !tagged(record.Name) && named[record.Target.Digest] {
			continue
		}
		image, err := c.describe(ctx, record)
		if err != nil {
			// One damaged image must not hide the others.
			c.logger.Warn("image cannot be read", "image", record.Name, "error", err)
			image = container.Image{Ref: record.Name, Digest: record.Target.Digest.String(), Created: record.CreatedAt}
		}
		image.Lease = strings.Join(kept[record.Target.Digest], " ")
		image.InUse = used[record.Target.Digest]
		list = append(list, image)
	}
	slices.SortFunc(list, func(a, b container.Image) int { return strings.Compare(a.Ref, b.Ref) })
	return list, nil
}

// describe tells of one image without asking who needs it.
func (c *imageCache) describe(ctx context.Context, record images.Image) (container.Image, error) {
	size, err := record.Size(ctx, c.client.ContentStore(), c.platform)
	if err != nil {
		return container.Image{}, fmt.Errorf("size of image %s: %w", record.Name, err)
	}
	return container.Image{Ref: record.Name, Digest: record.Target.Digest.String(), Size: size, Created: record.CreatedAt}, nil
}

// used are the digests of images that containers were made from. A container
// names its image by a record or by a reference with a digest.
func (c *imageCache) used(ctx context.Context, records recordList) (map[digest.Digest]bool, error) {
	all, err := c.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[digest.Digest]bool{}
	for _, one := range all {
		if _, fixed, ok := strings.Cut(one.Image, "@"); ok {
			used[digest.Digest(fixed)] = true
			continue
		}
		if record, ok := records.find(one.Image); ok {
			used[record.Target.Digest] = true
		}
	}
	return used, nil
}

// prune removes the images that no container was made from, no lease holds and
// pins does not name, and what interrupted pulls left; see Engine.Prune.
func (c *imageCache) prune(ctx context.Context, pins ...string) (int64, error) {
	before, err := c.diskUse(ctx)
	if err != nil {
		return 0, err
	}
	records, err := c.records(ctx)
	if err != nil {
		return 0, err
	}
	needed, err := c.used(ctx, records)
	if err != nil {
		return 0, err
	}
	kept, err := c.kept(ctx)
	if err != nil {
		return 0, err
	}
	for d := range kept {
		needed[d] = true
	}
	for _, pin := range pins {
		if d := digest.Digest(pin); d.Validate() != nil {
			if _, err := parseRef(pin, ""); err != nil {
				return 0, fmt.Errorf("prune: pin: %w", err)
			}
		}
		if record, ok := records.find(pin); ok {
			needed[record.Target.Digest] = true
		}
	}
	// Asked for after the list, so that no record in it is of a pull unknown here.
	pulling := c.pulls.names()
	for _, record := range records {
		if needed[record.Target.Digest] || slices.Contains(pulling, record.Name) {
			continue
		}
		// The record may have moved to a new image since it was read: only the
		// image that was judged may go.
		target := images.DeleteTarget(&record.Target)
		if err := c.client.ImageService().Delete(ctx, record.Name, target); err != nil && !errdefs.IsNotFound(err) {
			return 0, fmt.Errorf("remove image %s: %w", record.Name, err)
		}
	}
	if err := c.dropInterrupted(ctx); err != nil {
		return 0, err
	}
	if err := c.collect(ctx); err != nil {
		return 0, err
	}
	after, err := c.diskUse(ctx)
	return max(before-after, 0), err
}

// dropInterrupted gives up the leases of pulls that are not under way.
func (c *imageCache) dropInterrupted(ctx context.Context) error {
	manager := c.client.LeasesService()
	all, err := manager.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	// Asked for after the list: a pull that begins now has no lease in it.
	pulling := c.pulls.names()
	for _, lease := range all {
		if !strings.HasPrefix(lease.ID, pullLeasePrefix) || slices.Contains(pulling, lease.Labels[leaseLabel]) {
			continue
		}
		if err := manager.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove the lease of an interrupted pull: %w", err)
		}
	}
	return nil
}

// collect removes what nothing refers to, now and not some seconds later. A
// deletion is what containerd's interface has for that.
func (c *imageCache) collect(ctx context.Context) error {
	manager := c.client.LeasesService()
	lease, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(pullLeaseLife))
	if err != nil {
		return fmt.Errorf("collect unreferenced content: %w", err)
	}
	if err := manager.Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		return fmt.Errorf("collect unreferenced content: %w", err)
	}
	return nil
}

// diskUse is what blobs, downloads under way and unpacked layers take, in
// bytes. The roots of containers are not counted: they are no images.
func (c *imageCache) diskUse(ctx context.Context) (int64, error) {
	var total int64
	store := c.client.ContentStore()
	err := store.Walk(ctx, func(info content.Info) error {
		total += info.Size
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("size of images: %w", err)
	}
	downloads, err := store.ListStatuses(ctx)
	if err != nil {
		return 0, fmt.Errorf("size of downloads: %w", err)
	}
	for _, download := range downloads {
		total += download.Offset
	}
	service := c.client.SnapshotService(snapshotter)
	var names []string
	err = service.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			names = append(names, info.Name)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("size of unpacked layers: %w", err)
	}
	for _, name := range names {
		usage, err := service.Usage(ctx, name)
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return 0, fmt.Errorf("size of unpacked layer %s: %w", name, err)
		}
		total += usage.Size
	}
	return total, nil
}
