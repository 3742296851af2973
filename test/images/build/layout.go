package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// Annotations of an image in the layout's index.
const (
	annotationRef    = "org.opencontainers.image.ref.name" // name:tag
	annotationName   = "io.containerd.image.name"          // the whole reference
	annotationRecipe = "tarima/recipe"                     // the recipe's content hash
)

// registryHost is where the images pretend to come from. The name is reserved
// for tests (RFC 6761), so that it can belong to nobody.
const registryHost = "registry.test"

// packedLayer is a layer that lies packed in a file and whose digests are known.
type packedLayer struct {
	path string
	info layerInfo
}

var _ v1.Layer = packedLayer{}

func (l packedLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.info.Digest) }
func (l packedLayer) DiffID() (v1.Hash, error) { return v1.NewHash(l.info.DiffID) }
func (l packedLayer) Size() (int64, error)     { return l.info.Size, nil }

func (l packedLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

func (l packedLayer) Compressed() (io.ReadCloser, error) { return os.Open(l.path) }

func (l packedLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{zip, f}, nil
}

// openLayout opens the layout at dir and makes an empty one when there is none.
func openLayout(dir string) (layout.Path, error) {
	path, err := layout.FromPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		path, err = layout.Write(dir, empty.Index)
	}
	if err != nil {
		return "", fmt.Errorf("image layout %s: %w (remove the folder to start anew)", dir, err)
	}
	return path, nil
}

// recipesIn returns the recipe hash of every image in the layout whose blobs
// are all there, by its name.
func recipesIn(path layout.Path) (map[string]string, error) {
	index, err := path.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, d := range manifest.Manifests {
		if complete(path, d) {
			found[d.Annotations[annotationRef]] = d.Annotations[annotationRecipe]
		}
	}
	return found, nil
}

// complete says whether manifest, configuration and layers lie in the layout
// with their right sizes.
func complete(path layout.Path, d v1.Descriptor) bool {
	raw, err := os.ReadFile(blob(path, d.Digest))
	if err != nil || int64(len(raw)) != d.Size {
		return false
	}
	var manifest v1.Manifest
	if json.Unmarshal(raw, &manifest) != nil {
		return false
	}
	for _, part := range append(manifest.Layers, manifest.Config) {
		info, err := os.Stat(blob(path, part.Digest))
		if err != nil || info.Size() != part.Size {
			return false
		}
	}
	return true
}

func blob(path layout.Path, h v1.Hash) string {
	return filepath.Join(string(path), "blobs", h.Algorithm, h.Hex)
}

// putImage assembles the image from its packed layers and makes it the one that
// the layout has under its name.
func putImage(path layout.Path, image *Image, recipe string, layers []packedLayer) error {
	assembled := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	assembled = mutate.ConfigMediaType(assembled, types.OCIConfigJSON)
	for _, l := range layers {
		if err := linkBlob(path, l); err != nil {
			return err
		}
		var err error
		if assembled, err = mutate.AppendLayers(assembled, l); err != nil {
			return err
		}
	}
	config, err := assembled.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	config.Created = v1.Time{Time: epoch}
	config.Config = image.Config
	if assembled, err = mutate.ConfigFile(assembled, config); err != nil {
		return err
	}
	return path.ReplaceImage(assembled, match.Name(image.Ref()), layout.WithAnnotations(map[string]string{
		annotationRef:    image.Ref(),
		annotationName:   registryHost + "/" + image.Ref(),
		annotationRecipe: recipe,
	}))
}

// linkBlob gives the layout a hard link to the layer, so that it is not stored
// twice; the two lie in the same output folder.
func linkBlob(path layout.Path, l packedLayer) error {
	digest, err := l.Digest()
	if err != nil {
		return err
	}
	target := blob(path, digest)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if info, err := os.Stat(target); err == nil && info.Size() == l.info.Size {
		return nil
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Link(l.path, target)
}

// dropUnused removes blobs that no image of the layout names.
func dropUnused(path layout.Path) error {
	unused, err := path.GarbageCollect()
	if err != nil {
		return fmt.Errorf("image layout %s: %w", path, err)
	}
	for _, h := range unused {
		if err := path.RemoveBlob(h); err != nil && !strings.Contains(err.Error(), "no such file") {
			return err
		}
	}
	return nil
}
