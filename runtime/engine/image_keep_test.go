package engine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"tarima/runtime/container"
	"tarima/runtime/engine"
	"tarima/test/registry"
)

// The images of an old release stay for a way back while their lease lives, and
// go when it is released; what both releases share stays.
func TestKeepReleasePrune(t *testing.T) {
	s := newSource(t)
	old := s.add(t, "library/app:1", 1<<20, 2)
	e := imageEngine(t, nil)
	ref := s.host + "/library/app:1"
	oldDigest := pullImage(t, e, ref, "").Digest
	if err := e.Keep(t.Context(), "release-1", ref); err != nil {
		t.Fatal(err)
	}

	extra, err := random.Layer(1<<20, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	next, err := mutate.AppendLayers(old, extra) // shares the layers of the old one
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, "library/app:1", next)
	s.Forget()
	newDigest := pullImage(t, e, ref, "").Digest
	if newDigest == oldDigest || s.Bytes() > 3<<19 {
		t.Fatalf("the new image is %s and took %d bytes; want another one, and only its own layer", newDigest, s.Bytes())
	}

	list := images(t, e)
	want := []container.Image{
		{Ref: ref, Digest: newDigest},
		{Ref: s.host + "/library/app@" + oldDigest, Digest: oldDigest, Lease: "release-1"},
	}
	slices.SortFunc(want, func(a, b container.Image) int { return strings.Compare(a.Ref, b.Ref) })
	for i := range list {
		if list[i].Size == 0 || list[i].Created.IsZero() || list[i].InUse {
			t.Errorf("image %+v has no size or no time, or is in use", list[i])
		}
		list[i].Size, list[i].Created = 0, want[i].Created
	}
	if !slices.Equal(list, want) {
		t.Errorf("images are %+v, want %+v", list, want)
	}

	if freed := prune(t, e, newDigest); freed != 0 {
		t.Errorf("prune freed %d bytes of images that are needed", freed)
	}
	wantImage(t, e, ref, oldDigest, true)
	wantImage(t, e, ref, newDigest, true)

	if err := e.Release(t.Context(), "release-1"); err != nil {
		t.Fatal(err)
	}
	if err := e.Release(t.Context(), "release-1"); err != nil {
		t.Errorf("release of what is released: %v", err)
	}
	if freed := prune(t, e, ref); freed <= 0 {
		t.Errorf("prune freed %d bytes of the old image, want some", freed)
	}
	wantImage(t, e, ref, oldDigest, false)
	wantImage(t, e, ref, newDigest, true)

	if freed := prune(t, e); freed < 3<<20 {
		t.Errorf("prune of everything freed %d bytes, want at least the layers", freed)
	}
	if list := images(t, e); len(list) != 0 {
		t.Errorf("images are left: %+v", list)
	}
	use, err := e.DiskUse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if use != 0 {
		t.Errorf("%d bytes are left", use)
	}
	wantNoLeftovers(t, e)
	pullImage(t, e, ref, oldDigest) // a way back through the registry
}

// The lease of an old image outlives the engine.
func TestKeepSurvivesRestart(t *testing.T) {
	s := newSource(t)
	digest := digestOf(t, s.add(t, "library/app:1", 1<<16, 1))
	cfg := eitherConfig(t)
	e, err := engine.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	pullImage(t, e, s.host+"/library/app:1", "")
	if err := e.Keep(t.Context(), "release-1", digest); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openImageEngine(t, cfg)
	prune(t, e)
	wantImage(t, e, s.host+"/library/app:1", digest, true)
}

func TestKeepErrors(t *testing.T) {
	s := newSource(t)
	s.add(t, "library/app:1", 1<<12, 1)
	e := imageEngine(t, nil)
	ref := s.host + "/library/app:1"
	pullImage(t, e, ref, "")
	if err := e.Keep(t.Context(), "r", ref, "absent:1"); !errors.Is(err, engine.ErrNoImage) {
		t.Errorf("an image that is not here gives %v, want ErrNoImage", err)
	}
	if list := images(t, e); list[0].Lease != "" {
		t.Errorf("a failed Keep kept %+v", list)
	}
	for _, name := range []string{"", "a b", "../x", "ñ", strings.Repeat("x", 65)} {
		if err := e.Keep(t.Context(), name, ref); !errors.Is(err, engine.ErrLeaseName) {
			t.Errorf("lease %q gives %v, want ErrLeaseName", name, err)
		}
		if err := e.Release(t.Context(), name); !errors.Is(err, engine.ErrLeaseName) {
			t.Errorf("release of %q gives %v, want ErrLeaseName", name, err)
		}
	}
	if _, err := e.Prune(t.Context(), "NOT A REF"); !errors.Is(err, engine.ErrImageRef) {
		t.Errorf("a pin that is no reference gives %v, want ErrImageRef", err)
	}
	wantImage(t, e, ref, "", true)
}

// What an interrupted pull left goes with a prune, and what a pull under way
// has brought does not.
func TestPruneAndPulls(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 4<<20, 2)
	digest, _ := layerOf(t, image, 1)
	e := imageEngine(t, func(c *engine.Config) { c.Images.Parallel = 1 })
	ref := s.host + "/library/app:1"

	pruned := make(chan error, 1)
	remove := s.Inject(&registry.Fault{Digest: digest, Rate: 8 << 20, Times: 1})
	var once bool
	_, err := e.Pull(t.Context(), ref, "", func(p container.Progress) {
		if p.Phase == "downloading" && p.Done > 0 && !once {
			once = true
			_, err := e.Prune(t.Context())
			pruned <- err
		}
	})
	remove()
	if err != nil {
		t.Fatalf("a pull with a prune in it: %v", err)
	}
	if err := <-pruned; err != nil {
		t.Fatalf("prune during a pull: %v", err)
	}
	wantImage(t, e, ref, "", true)

	other := s.add(t, "library/other:1", 4<<20, 2)
	digest, _ = layerOf(t, other, 1)
	s.Inject(&registry.Fault{Digest: digest, Status: 500})
	if _, err := e.Pull(t.Context(), s.host+"/library/other:1", "", nil); !errors.Is(err, engine.ErrRegistry) {
		t.Fatalf("error is %v, want ErrRegistry", err)
	}
	if freed := prune(t, e, ref); freed < 4<<20 {
		t.Errorf("prune freed %d bytes of an interrupted pull, want at least its first layer", freed)
	}
	wantImage(t, e, ref, "", true)
	wantNoLeftovers(t, e)
}

// An archive's images are treated as pulled ones.
func TestArchiveAndLeases(t *testing.T) {
	image, err := registry.Random(1<<16, 2, goarch)
	if err != nil {
		t.Fatal(err)
	}
	e := imageEngine(t, nil)
	loaded, err := e.LoadArchive(t.Context(), archive(t, "example.org/app:1", image))
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded) != 1 || loaded[0].Ref != "example.org/app:1" || loaded[0].Digest != digestOf(t, image) {
		t.Fatalf("loaded %+v", loaded)
	}
	// With the pinned digest the registry, which does not exist, is not asked.
	if got := pullImage(t, e, "example.org/app:1", loaded[0].Digest); got.Digest != loaded[0].Digest {
		t.Errorf("pull of what was loaded gives %+v", got)
	}
	if err := e.Keep(t.Context(), "r", "example.org/app:1"); err != nil {
		t.Fatal(err)
	}
	prune(t, e)
	wantImage(t, e, "example.org/app:1", "", true)
	if err := e.Release(t.Context(), "r"); err != nil {
		t.Fatal(err)
	}
	prune(t, e)
	wantImage(t, e, "example.org/app:1", "", false)
	wantNoLeftovers(t, e)
}

// A broken or foreign archive is an error and leaves nothing, and the image that
// was here under the name stays.
func TestBrokenArchivesLeaveNothing(t *testing.T) {
	image, err := registry.Random(1<<18, 2, goarch)
	if err != nil {
		t.Fatal(err)
	}
	foreign := withConfig(t, image, func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	whole := archive(t, "example.org/app:2", image).Bytes()
	layer, _ := layerOf(t, image, 1)

	for _, test := range []struct {
		name    string
		content []byte
	}{
		{"empty", nil},
		{"rubbish", []byte(strings.Repeat("rubbish ", 1000))},
		{"truncated in the first layer", whole[:1<<17]},
		{"truncated in the last layer", whole[:len(whole)-1<<16]},
		{"foreign platform", archive(t, "example.org/app:2", foreign).Bytes()},
		{"foreign platform under a name that is here", archive(t, "example.org/app:1", foreign).Bytes()},
		{"corrupt layer", spoil(t, whole, strings.TrimPrefix(layer, "sha256:"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := imageEngine(t, nil)
			kept, err := registry.Random(1<<12, 1, goarch)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.LoadArchive(t.Context(), archive(t, "example.org/app:1", kept)); err != nil {
				t.Fatal(err)
			}
			wantNoLeftovers(t, e)
			before, err := e.DiskUse(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if loaded, err := e.LoadArchive(t.Context(), strings.NewReader(string(test.content))); !errors.Is(err, engine.ErrArchive) {
				t.Errorf("error is %v and %+v was loaded, want ErrArchive", err, loaded)
			}
			wantImage(t, e, "example.org/app:2", "", false)
			wantImage(t, e, "example.org/app:1", "", true)
			wantImage(t, e, "example.org/app:1", digestOf(t, kept), true)
			wantNoLeftovers(t, e)
			after, err := e.DiskUse(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if after != before {
				t.Errorf("a failed load left %d bytes", after-before)
			}
		})
	}
}

// The engine's root is a cache: when it is gone, pinned images come back as they
// were.
func TestRootDeleted(t *testing.T) {
	s := newSource(t)
	s.add(t, "library/app:1", 1<<16, 2)
	cfg := imageConfig(t, nil)
	e, err := engine.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	first := pullImage(t, e, s.host+"/library/app:1", "")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(cfg.Root); err != nil {
		t.Fatal(err)
	}
	e = openImageEngine(t, cfg)
	if again := pullImage(t, e, s.host+"/library/app:1", first.Digest); again.Digest != first.Digest {
		t.Errorf("after the loss of the root comes %s, want %s", again.Digest, first.Digest)
	}
	wantImage(t, e, s.host+"/library/app:1", first.Digest, true)
}

// What a bad disk changed or lost is noticed when it is needed, and downloaded
// again.
func TestDamagedContent(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 1<<18, 2)
	ref := s.host + "/library/app:1"
	layer, _ := layerOf(t, image, 1)
	config, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for what, blob := range map[string]string{"manifest": digestOf(t, image), "configuration": config.String(), "layer": layer} {
		for how, damage := range map[string]func(path string) error{
			"lost":      os.Remove,
			"truncated": func(path string) error { return os.Truncate(path, 100) },
			"changed": func(path string) error {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				content[len(content)/2] ^= 1
				return os.WriteFile(path, content, 0o600)
			},
		} {
			t.Run(what+" "+how, func(t *testing.T) {
				cfg := eitherConfig(t)
				e := openImageEngine(t, cfg)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_, err := e.Pull(ctx, ref, "", func(p container.Progress) {
					if p.Phase == "unpacking" {
						cancel() // all is downloaded, nothing is unpacked
					}
				})
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("error is %v, want the cancellation", err)
				}
				found, err := filepath.Glob(filepath.Join(cfg.Root, "*", "blobs", "sha256", strings.TrimPrefix(blob, "sha256:")))
				if err != nil || len(found) != 1 {
					t.Fatalf("blob on disk: %v, %v", found, err)
				}
				if err := damage(found[0]); err != nil {
					t.Fatal(err)
				}
				pullImage(t, e, ref, "")
				wantImage(t, e, ref, "", true)
				wantNoLeftovers(t, e)
			})
		}
	}
}

func images(t *testing.T, e *engine.Engine) []container.Image {
	t.Helper()
	list, err := e.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func prune(t *testing.T, e *engine.Engine, pins ...string) int64 {
	t.Helper()
	freed, err := e.Prune(t.Context(), pins...)
	if err != nil {
		t.Fatal(err)
	}
	return freed
}
