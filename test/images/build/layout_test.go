package main

import (
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func packed(t *testing.T, text string) packedLayer {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "file"), text, 0o644)
	// The layout links to the layer, so the two need one file system.
	path := filepath.Join(t.TempDir(), "layer.tar.gz")
	info, err := packLayer(root, path)
	if err != nil {
		t.Fatal(err)
	}
	return packedLayer{path, info}
}

func TestLayoutKeepsOneImageUnderAName(t *testing.T) {
	path, err := openLayout(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	shared := packed(t, "shared")
	one := &Image{Name: "shop", Tag: "1", Config: v1.Config{User: "1000", Cmd: []string{"open"}}}
	two := &Image{Name: "shop", Tag: "2"}
	old := packed(t, "old")
	for _, put := range []struct {
		image  *Image
		recipe string
		layers []packedLayer
	}{
		{one, "first", []packedLayer{shared, old}},
		{two, "second", []packedLayer{shared}},
		{one, "third", []packedLayer{shared, packed(t, "new")}},
	} {
		if err := putImage(path, put.image, put.recipe, put.layers); err != nil {
			t.Fatal(err)
		}
	}
	if err := dropUnused(path); err != nil {
		t.Fatal(err)
	}
	have, err := recipesIn(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != 2 || have["shop:1"] != "third" || have["shop:2"] != "second" {
		t.Errorf("recipes: %v", have)
	}
	digest, err := old.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(blob(path, digest)); !os.IsNotExist(err) {
		t.Errorf("the replaced image's layer is still there: %v", err)
	}

	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("the layout is not valid: %v", err)
	}
	for _, d := range manifests(t, path) {
		if d.Annotations[annotationRef] != "shop:1" {
			continue
		}
		if d.Annotations[annotationName] != "registry.test/shop:1" {
			t.Errorf("annotations: %v", d.Annotations)
		}
		image, err := path.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Config.User != "1000" || config.OS != "linux" || config.Architecture != "amd64" || len(config.RootFS.DiffIDs) != 2 {
			t.Errorf("configuration: %+v", config)
		}
	}
}

func manifests(t *testing.T, path layout.Path) []v1.Descriptor {
	t.Helper()
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Manifests
}

// TestIncompleteImageIsMadeAgain: a blob that is missing or cut must not pass
// for a finished image.
func TestIncompleteImageIsMadeAgain(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"missing": os.Remove,
		"cut":     func(path string) error { return os.Truncate(path, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			path, err := openLayout(filepath.Join(t.TempDir(), "layout"))
			if err != nil {
				t.Fatal(err)
			}
			image := &Image{Name: "shop", Tag: "1"}
			layer := packed(t, "goods")
			if err := putImage(path, image, "recipe", []packedLayer{layer}); err != nil {
				t.Fatal(err)
			}
			digest, err := layer.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if have, err := recipesIn(path); err != nil || have["shop:1"] != "recipe" {
				t.Fatalf("before: %v %v", have, err)
			}
			if err := harm(blob(path, digest)); err != nil {
				t.Fatal(err)
			}
			have, err := recipesIn(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := have["shop:1"]; ok {
				t.Error("the image passes for finished")
			}
		})
	}
}
