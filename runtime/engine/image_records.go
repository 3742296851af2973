package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image has up to two records in containerd: one under its tag, which moves
// with the tag, and one under repository@digest, which stays. By the second one
// the image can still be found when the tag has moved on.

// record puts an image under its names.
func (c *imageCache) record(ctx context.Context, ref imageRef, target ocispec.Descriptor) error {
	names := []string{ref.exact(target.Digest)}
	if ref.tag != "" {
		names = append(names, ref.name())
	}
	for _, name := range names {
		if err := c.put(ctx, images.Image{Name: name, Target: target}); err != nil {
			return fmt.Errorf("record image %s: %w", name, err)
		}
	}
	return nil
}

func (c *imageCache) put(ctx context.Context, image images.Image) error {
	store := c.client.ImageService()
	_, err := store.Create(ctx, image)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	_, err = store.Update(ctx, image, "target")
	return err
}

// recordList is all image records at one moment.
type recordList []images.Image

func (c *imageCache) records(ctx context.Context) (recordList, error) {
	list, err := c.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return list, nil
}

// find returns the record of a reference or of a digest. A digest in the
// reference wins over its tag, and the repository that the image came from does
// not matter then: the content is the same.
func (l recordList) find(ref string) (images.Image, bool) {
	want := digest.Digest(ref)
	name := ""
	if want.Validate() != nil {
		parsed, err := parseRef(ref, "")
		if err != nil {
			return images.Image{}, false
		}
		want, name = parsed.digest, parsed.name()
	}
	at := slices.IndexFunc(l, func(i images.Image) bool {
		if want != "" {
			return i.Target.Digest == want
		}
		return i.Name == name
	})
	if at < 0 {
		return images.Image{}, false
	}
	return l[at], true
}

// tagged says whether a record's name has a tag and not a digest.
func tagged(name string) bool { return !strings.Contains(name, "@") }
