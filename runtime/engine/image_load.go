package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"tarima/runtime/container"
)

// LoadArchive brings the images of an archive here and unpacks them: an OCI
// layout as a tar file, whose digests stay what they are, or what docker save
// writes, whose digests are made anew. When the archive is broken, for another
// machine or larger than the disk, nothing of it stays, and names that it has
// in common with images that were here stay theirs. Errors: ErrArchive, with
// ErrPlatform or ErrNoSpace where that is the reason, ErrClosed, and those of
// ctx.
func (e *Engine) LoadArchive(ctx context.Context, archive io.Reader) ([]container.Image, error) {
	return through(e.contextFor(ctx), &e.images.work, func(ctx context.Context) ([]container.Image, error) {
		return e.loadArchive(ctx, archive)
	})
}

func (e *Engine) loadArchive(ctx context.Context, archive io.Reader) ([]container.Image, error) {
	before, err := e.imageTargets(ctx)
	if err != nil {
		return nil, err
	}
	imported, err := e.client.Import(ctx, archive, containerd.WithImportPlatform(platforms.Default()))
	if err != nil {
		return nil, archiveError("reading", err)
	}
	if len(imported) == 0 {
		return nil, fmt.Errorf("%w: it names no image; an OCI layout names one by the annotation io.containerd.image.name", ErrArchive)
	}
	var loaded []container.Image
	for _, record := range imported {
		image := containerd.NewImageWithPlatform(e.client, record, platforms.Default())
		err := e.images.suits(ctx, record)
		if err == nil {
			err = image.Unpack(ctx, snapshotter, containerd.WithUnpackApplyOpts(syncedLayers))
		}
		if err != nil {
			e.forgetImages(context.WithoutCancel(ctx), imported, before)
			return nil, archiveError("unpacking "+record.Name, err)
		}
		size, err := image.Size(ctx)
		if err != nil {
			return nil, fmt.Errorf("size of %s: %w", record.Name, err)
		}
		loaded = append(loaded, container.Image{Ref: record.Name, Digest: record.Target.Digest.String(), Size: size, Created: record.CreatedAt})
	}
	return loaded, nil
}

// archiveError says what went wrong with an archive, and whether the disk was
// the reason.
func archiveError(doing string, err error) error {
	if noSpace(err) {
		return fmt.Errorf("%w: %s: %w", ErrArchive, doing, &imageError{
			what: "load", kind: ErrNoSpace, cause: err,
			detail: "the engine's file system is full: free some space and load it again",
		})
	}
	return fmt.Errorf("%w: %s: %w", ErrArchive, doing, err)
}

func (e *Engine) imageTargets(ctx context.Context) (map[string]images.Image, error) {
	records, err := e.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the list of images: %w", err)
	}
	targets := make(map[string]images.Image, len(records))
	for _, record := range records {
		targets[record.Name] = record
	}
	return targets, nil
}

// forgetImages takes back what a failed load brought: new names go, and names
// that were here point to their images again.
func (e *Engine) forgetImages(ctx context.Context, imported []images.Image, before map[string]images.Image) {
	for _, record := range imported {
		var err error
		if old, ok := before[record.Name]; ok {
			_, err = e.client.ImageService().Update(ctx, old, "target")
		} else {
			err = e.client.ImageService().Delete(ctx, record.Name)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			e.log.Warn("taking back an image of a failed load", "image", record.Name, "error", err)
		}
	}
}

// HasImage says whether ref is here and unpacked, with digest != "" that very
// digest.
func (e *Engine) HasImage(ctx context.Context, ref, digest string) (bool, error) {
	ctx = e.contextFor(ctx)
	wanted := ref
	if digest != "" {
		name, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			return false, fmt.Errorf("image reference %q: %w", ref, err)
		}
		wanted = reference.TrimNamed(name).Name() + "@" + digest
	}
	image, err := e.findImage(ctx, wanted)
	if errors.Is(err, ErrNoImage) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	unpacked, err := image.IsUnpacked(ctx, snapshotter)
	if errdefs.IsNotFound(err) {
		return false, nil // a blob is missing
	}
	return unpacked, err
}

// findImage finds the image of a reference. With a digest, any image of that
// digest is the right one, by whatever name it came; without, the name decides.
func (e *Engine) findImage(ctx context.Context, ref string) (containerd.Image, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w", ref, err)
	}
	var record images.Image
	if digested, ok := named.(reference.Digested); ok {
		records, err := e.client.ImageService().List(ctx, "target.digest=="+digested.Digest().String())
		if err != nil {
			return nil, fmt.Errorf("looking for image %s: %w", ref, err)
		}
		if len(records) == 0 {
			return nil, fmt.Errorf("%w: %s", ErrNoImage, ref)
		}
		record = records[0]
	} else {
		record, err = e.client.ImageService().Get(ctx, named.String())
		if errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("%w: %s", ErrNoImage, ref)
		}
		if err != nil {
			return nil, fmt.Errorf("looking for image %s: %w", ref, err)
		}
	}
	return containerd.NewImageWithPlatform(e.client, record, platforms.Default()), nil
}
