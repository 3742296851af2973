package registry

import (
	"errors"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Add puts an image under a name into the layout at dir, which is made when it
// is missing. A name that was there moves to the new image; the old one stays
// reachable by digest, as in a registry.
func Add(dir, name string, image v1.Image) error {
	return change(dir, func(path layout.Path) error {
		if err := forget(path, name); err != nil {
			return err
		}
		return path.AppendImage(image, named(name))
	})
}

// AddIndex puts an index of several platforms under a name.
func AddIndex(dir, name string, index v1.ImageIndex) error {
	return change(dir, func(path layout.Path) error {
		if err := forget(path, name); err != nil {
			return err
		}
		return path.AppendIndex(index, named(name))
	})
}

func change(dir string, add func(layout.Path) error) error {
	path, err := layout.FromPath(dir)
	if errors.Is(err, os.ErrNotExist) {
		path, err = layout.Write(dir, empty.Index)
	}
	if err != nil {
		return fmt.Errorf("open layout %s: %w", dir, err)
	}
	if err := add(path); err != nil {
		return fmt.Errorf("add to layout %s: %w", dir, err)
	}
	return nil
}

// forget takes the image of that name out of the index. Its content stays, so
// that it can still be asked for by digest.
func forget(path layout.Path, name string) error {
	return path.RemoveDescriptors(match.Annotation(annotationFullName, name))
}

func named(name string) layout.Option {
	return layout.WithAnnotations(map[string]string{annotationFullName: name})
}

// Random makes an image for linux on the architecture, whose layers hold one
// file of size random bytes each.
func Random(size int64, layers int, architecture string) (v1.Image, error) {
	image, err := random.Image(size, int64(layers))
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	config.OS, config.Architecture = "linux", architecture
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	return mutate.MediaType(mutate.ConfigMediaType(image, types.OCIConfigJSON), types.OCIManifestSchema1), nil
}
