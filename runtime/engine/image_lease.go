package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Leases of ours. A pull's holds what has come so far, so that it can go on
// after a cut, a kill or a reboot; a kept one holds images for a way back.
const (
	pullLeasePrefix = "pull-"
	keepLeasePrefix = "keep-"
	leaseLabel      = "tarima/lease" // name of a kept lease, or reference of a pull

	// pullLeaseLife is how long an interrupted pull can be continued.
	pullLeaseLife = 24 * time.Hour
)

// pullLease makes the lease of a pull and returns a context in which
// everything that is stored belongs to it. Without it the collector would
// remove what no image refers to yet. What an interrupted pull of the same
// image left is taken over: leases cannot be prolonged.
func (c *imageCache) pullLease(ctx context.Context, ref imageRef) (context.Context, leases.Lease, error) {
	manager := c.client.LeasesService()
	var suffix [8]byte
	_, _ = rand.Read(suffix[:]) // never fails
	lease, err := manager.Create(ctx,
		leases.WithID(pullLeasePrefix+hex.EncodeToString(suffix[:])), leases.WithExpiration(pullLeaseLife),
		leases.WithLabels(map[string]string{leaseLabel: ref.name()}))
	if err != nil {
		return nil, leases.Lease{}, fmt.Errorf("lease of the pull: %w", err)
	}
	all, err := manager.List(ctx)
	if err != nil {
		return nil, leases.Lease{}, fmt.Errorf("leases of earlier pulls: %w", err)
	}
	for _, old := range all {
		if !strings.HasPrefix(old.ID, pullLeasePrefix) || old.Labels[leaseLabel] != ref.name() || old.ID == lease.ID {
			continue
		}
		if err := c.takeOver(ctx, old, lease); err != nil {
			return nil, leases.Lease{}, fmt.Errorf("take over the lease of an interrupted pull: %w", err)
		}
	}
	return leases.WithLease(ctx, lease.ID), lease, nil
}

// takeOver moves what one lease holds to another. An error leaves both, and
// nothing is lost.
func (c *imageCache) takeOver(ctx context.Context, from, to leases.Lease) error {
	manager := c.client.LeasesService()
	resources, err := manager.ListResources(ctx, from)
	if errdefs.IsNotFound(err) {
		return nil // expired this moment
	}
	if err != nil {
		return err
	}
	for _, r := range resources {
		// What the lease names and is gone already is no loss.
		if err := manager.AddResource(ctx, to, r); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := manager.Delete(ctx, from); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// keep holds images, by the references or digests of refs, under a lease of
// that name, so that Prune leaves them: a release's images are kept until the
// next release is healthy. It adds to what the lease holds. An image that is
// not here is an ErrNoImage, and then nothing is kept.
func (c *imageCache) keep(ctx context.Context, name string, refs ...string) error {
	if err := checkLeaseName(name); err != nil {
		return err
	}
	held, err := c.records(ctx)
	if err != nil {
		return err
	}
	var digests []digest.Digest
	for _, ref := range refs {
		record, ok := held.find(ref)
		if !ok {
			return fmt.Errorf("keep %s under lease %s: %w", ref, name, ErrNoImage)
		}
		digests = append(digests, record.Target.Digest)
	}
	manager := c.client.LeasesService()
	lease := leases.Lease{ID: keepLeasePrefix + name}
	_, err = manager.Create(ctx, leases.WithID(lease.ID), leases.WithLabels(map[string]string{leaseLabel: name}))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("lease %s: %w", name, err)
	}
	for _, d := range digests {
		if err := manager.AddResource(ctx, lease, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			return fmt.Errorf("keep %s under lease %s: %w", d, name, err)
		}
	}
	return nil
}

// release gives up a lease. What only it held goes with the next Prune. A lease
// that is not there is no error.
func (c *imageCache) release(ctx context.Context, name string) error {
	if err := checkLeaseName(name); err != nil {
		return err
	}
	err := c.client.LeasesService().Delete(ctx, leases.Lease{ID: keepLeasePrefix + name})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("release lease %s: %w", name, err)
	}
	return nil
}

func checkLeaseName(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return fmt.Errorf("%w: %q: want 1 to 64 letters, digits, dots, dashes or underscores", ErrLeaseName, name)
	}
	return nil
}

// kept returns the digests that leases hold, each with the leases' names.
func (c *imageCache) kept(ctx context.Context) (map[digest.Digest][]string, error) {
	manager := c.client.LeasesService()
	all, err := manager.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	held := map[digest.Digest][]string{}
	for _, lease := range all {
		name, ok := strings.CutPrefix(lease.ID, keepLeasePrefix)
		if !ok {
			continue
		}
		resources, err := manager.ListResources(ctx, lease)
		if errdefs.IsNotFound(err) {
			continue // released meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list lease %s: %w", name, err)
		}
		for _, r := range resources {
			if r.Type == "content" {
				held[digest.Digest(r.ID)] = append(held[digest.Digest(r.ID)], name)
			}
		}
	}
	return held, nil
}
