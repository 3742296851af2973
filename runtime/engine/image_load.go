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
// writes, whose digests are made anew. When the archive is broken nothing of
// it stays.
func (e *Engine) LoadArchive(ctx context.Context, archive io.Reader) ([]container.Image, error) {
	ctx = e.contextFor(ctx)
	before, err := e.imageNames(ctx)
	if err != nil {
		return nil, err
	}
	imported, err := e.client.Import(ctx, archive, containerd.WithImportPlatform(platforms.Default()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	if len(imported) == 0 {
		return nil, fmt.Errorf("%w: it names no image; an OCI layout names one by the annotation io.containerd.image.name", ErrArchive)
	}
	var loaded []container.Image
	for _, record := range imported {
		image := containerd.NewImageWithPlatform(e.client, record, platforms.Default())
		err := e.images.suits(ctx, record)
		if err == nil {
			err = image.Unpack(ctx, snapshotter)
		}
		if err != nil {
			e.forgetImages(context.WithoutCancel(ctx), imported, before)
			return nil, fmt.Errorf("%w: unpacking %s: %w", ErrArchive, record.Name, err)
		}
		size, err := image.Size(ctx)
		if err != nil {
			return nil, fmt.Errorf("size of %s: %w", record.Name, err)
		}
		loaded = append(loaded, container.Image{Ref: record.Name, Digest: record.Target.Digest.String(), Size: size, Created: record.CreatedAt})
	}
	return loaded, nil
}

func (e *Engine) imageNames(ctx context.Context) (map[string]bool, error) {
	records, err := e.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the list of images: %w", err)
	}
	names := make(map[string]bool, len(records))
	for _, record := range records {
		names[record.Name] = true
	}
	return names, nil
}

// forgetImages removes what a failed load brought; what was here before stays.
func (e *Engine) forgetImages(ctx context.Context, imported []images.Image, before map[string]bool) {
	for _, record := range imported {
		if before[record.Name] {
			continue
		}
		if err := e.client.ImageService().Delete(ctx, record.Name); err != nil && !errdefs.IsNotFound(err) {
			e.log.Warn("removing an image of a failed load", "image", record.Name, "error", err)
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
