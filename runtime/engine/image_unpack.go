package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDocument bounds a manifest, index or image configuration that is read into
// memory; containerd's own bound for manifests is 8 MB.
const maxDocument = 8 << 20

// unpack makes the layers' snapshots. It applies them in this process, also
// with an external containerd: its interface tells nothing of the bytes inside
// a layer, and the layers of an Open edX image are large.
func (p *pull) unpack(ctx context.Context, image fetched) error {
	p.report.unpack(image.manifest.Layers)
	store := p.client.ContentStore()
	snapshots := p.client.SnapshotService(snapshotter)
	applier := apply.NewFileSystemApplier(store)
	options := []diff.ApplyOpt{
		diff.WithProgress(func(layer ocispec.Descriptor, n int64) { p.report.unpacking(layer.Digest, n) }),
		syncedLayers,
	}
	var chain []digest.Digest
	for i, blob := range image.manifest.Layers {
		layer := rootfs.Layer{Blob: blob, Diff: image.diffIDs[i]}
		applied, err := rootfs.ApplyLayerWithOpts(ctx, layer, chain, snapshots, applier, nil, options)
		if err != nil {
			if ctx.Err() != nil || noSpace(err) {
				return err
			}
			return p.corrupt(blob, err)
		}
		if applied {
			info := content.Info{Digest: blob.Digest, Labels: map[string]string{labels.LabelUncompressed: layer.Diff.Digest.String()}}
			if _, err := store.Update(ctx, info, "labels."+labels.LabelUncompressed); err != nil {
				return fmt.Errorf("label layer %s: %w", blob.Digest, err)
			}
		}
		chain = append(chain, layer.Diff.Digest)
		p.report.unpackedLayer(blob.Digest, blob.Size)
	}
	// The configuration holds the top snapshot, and the image holds the
	// configuration: so snapshots live as long as the image.
	label := "containerd.io/gc.ref.snapshot." + snapshotter
	info := content.Info{Digest: image.manifest.Config.Digest, Labels: map[string]string{label: identity.ChainID(chain).String()}}
	if _, err := store.Update(ctx, info, "labels."+label); err != nil {
		return fmt.Errorf("link the unpacked layers: %w", err)
	}
	return nil
}

// syncedLayers writes a layer's files to disk before its snapshot counts as
// made. The snapshot's record is synced at once: without the same for its files
// a power cut would leave a layer that counts as whole and is empty.
func syncedLayers(_ context.Context, _ ocispec.Descriptor, c *diff.ApplyConfig) error {
	c.SyncFs = true
	return nil
}

// chainIDs are the snapshot names of the layers, bottom first.
func chainIDs(layers []ocispec.Descriptor) []digest.Digest {
	ids := make([]digest.Digest, len(layers))
	for i, layer := range layers {
		ids[i] = layer.Digest
	}
	return identity.ChainIDs(ids)
}

// unpacked says whether an image's content and its snapshots are here.
func (c *imageCache) unpacked(ctx context.Context, record images.Image) (bool, error) {
	store := c.client.ContentStore()
	available, _, _, missing, err := images.Check(ctx, store, record.Target, c.platform)
	if err != nil || !available || len(missing) > 0 {
		return false, ctx.Err()
	}
	ids, err := record.RootFS(ctx, store, c.platform)
	if err != nil {
		// Recorded and not readable: a pull repairs it.
		c.logger.Warn("image on disk is damaged", "image", record.Name, "error", err)
		return false, nil
	}
	_, err = c.client.SnapshotService(snapshotter).Stat(ctx, identity.ChainID(ids).String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("check image %s: %w", record.Name, err)
	}
	return true, nil
}

// readDocument reads a JSON document from the store. Documents are small, so
// their digest is checked each time.
func readDocument(ctx context.Context, store content.Provider, blob ocispec.Descriptor, into any) error {
	if blob.Size > maxDocument {
		return fmt.Errorf("document of %d bytes is larger than %d", blob.Size, maxDocument)
	}
	raw, err := content.ReadBlob(ctx, store, blob)
	if err != nil {
		return err
	}
	if got := blob.Digest.Algorithm().FromBytes(raw); got != blob.Digest {
		return fmt.Errorf("content on disk has the digest %s", got)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return errors.New("document is not the JSON of an image")
	}
	return nil
}
