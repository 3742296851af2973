package engine_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"tarima/runtime/container"
	"tarima/runtime/engine"
	"tarima/test/registry"
)

// childPull names the variable by which this test binary becomes a process that
// pulls an image until it is killed.
const childPull = "TARIMA_TEST_CHILD_PULL"

type childOrder struct {
	Root, State, Runtime, Socket, Ref string
}

func init() {
	text := os.Getenv(childPull)
	if text == "" {
		return
	}
	var order childOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Config{
		Root: order.Root, State: order.State, Runtime: order.Runtime, Socket: order.Socket, Logger: discard,
		Images: engine.ImagesConfig{Reserve: -1},
	})
	if err == nil {
		_, err = e.Pull(ctx, order.Ref, "", func(p container.Progress) { fmt.Fprintln(os.Stdout, p.Phase, p.Done) })
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A process that is killed in the middle of a pull leaves what came, and the
// next one goes on there.
func TestKillDuringPull(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 4<<20, 2)
	digest, size := layerOf(t, image, 1)
	remove := s.Inject(&registry.Fault{Digest: digest, StallAfter: 3 << 20})
	cfg := eitherConfig(t)
	ref := s.host + "/library/app:1"

	// The layers come side by side. Where the second stalls nothing is left to
	// come of the first; the same figure once more says that this is the place,
	// and gives the first the time to be put where it belongs.
	var last int64
	same := 0
	killDuringPull(t, cfg, ref, func(line string) bool {
		var done int64
		if _, err := fmt.Sscanf(line, "downloading %d", &done); err != nil || done <= size+1<<20 {
			return false
		}
		if done != last {
			last, same = done, 0
		}
		same++
		return same == 5
	})
	remove()
	s.forget(t, digest)
	e := openImageEngine(t, cfg)
	if err := e.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	pullImage(t, e, ref, "")
	requests := s.blobRequests(digest)
	if len(requests) != 1 || requests[0].Range == "" || requests[0].Bytes >= size {
		t.Errorf("after the kill the pull asked %+v, want the rest of %d bytes", requests, size)
	}
	first, _ := layerOf(t, image, 0)
	if n := len(s.blobRequests(first)); n != 0 {
		t.Errorf("a layer that was here was asked for %d times", n)
	}
	wantNoLeftovers(t, e)
}

// A process that is killed while it unpacks leaves nothing half-made that
// stays.
func TestKillDuringUnpack(t *testing.T) {
	s := newSource(t)
	s.add(t, "library/app:1", 16<<20, 3)
	cfg := eitherConfig(t)
	ref := s.host + "/library/app:1"
	killDuringPull(t, cfg, ref, func(line string) bool {
		var done int64
		_, err := fmt.Sscanf(line, "unpacking %d", &done)
		return err == nil && done > 0
	})
	s.Forget()
	e := openImageEngine(t, cfg)
	pullImage(t, e, ref, "")
	if s.Bytes() > 4096 { // the configuration at most
		t.Errorf("%d bytes were downloaded again", s.Bytes())
	}
	wantImage(t, e, ref, "", true)
	wantNoLeftovers(t, e)
}

// killDuringPull starts a process that pulls, and kills it at the first line of
// progress that reached takes for the moment.
func killDuringPull(t *testing.T, cfg engine.Config, ref string, reached func(line string) bool) {
	t.Helper()
	order, err := json.Marshal(childOrder{cfg.Root, cfg.State, cfg.Runtime, cfg.Socket, ref})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, self)
	child.Env = append(os.Environ(), childPull+"="+string(order))
	watch := &lineWatch{reached: reached, at: func() { _ = child.Process.Signal(syscall.SIGKILL) }}
	child.Stdout = watch
	var stderr strings.Builder
	child.Stderr = &stderr
	err = child.Run()
	if !watch.done || child.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed at the moment meant: %v, %s", err, stderr.String())
	}
}

// lineWatch calls at once, at the first line that reached accepts.
type lineWatch struct {
	mu      sync.Mutex
	rest    string
	reached func(string) bool
	at      func()
	done    bool
}

func (w *lineWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := strings.Split(w.rest+string(p), "\n")
	w.rest = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		if !w.done && w.reached(line) {
			w.done = true
			w.at()
		}
	}
	return len(p), nil
}

// tmpfs mounts a small file system and returns its path.
func tmpfs(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tarima-images-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatalf("mount a small tmpfs (these tests need root): %v", err)
	}
	t.Cleanup(func() {
		// Detached, as containerd's test for fs-verity leaves a file open until
		// the process ends.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// smallDisk opens an engine whose root is on a small file system. About 45 MB
// of it are taken by the copy of this test binary that the engine keeps.
func smallDisk(t *testing.T, bytes int, change func(*engine.Config)) (e *engine.Engine, root string) {
	t.Helper()
	root = filepath.Join(tmpfs(t, bytes), "root")
	cfg := imageConfig(t, func(c *engine.Config) {
		c.Root = root
		if change != nil {
			change(c)
		}
	})
	return openImageEngine(t, cfg), root
}

func TestFullDisk(t *testing.T) {
	const disk = 160 << 20
	s := newSource(t)
	small := s.add(t, "library/small:1", 1<<16, 1)
	s.add(t, "library/large:1", 40<<20, 3)
	s.put(t, "library/swollen:1", zeros(t, 300<<20))

	// usable proves that the engine works after a full disk.
	usable := func(t *testing.T, e *engine.Engine) {
		t.Helper()
		wantNoLeftovers(t, e)
		if got := pullImage(t, e, s.host+"/library/small:1", ""); got.Digest != digestOf(t, small) {
			t.Errorf("after the full disk comes %s", got.Digest)
		}
		wantImage(t, e, s.host+"/library/small:1", "", true)
	}

	t.Run("seen before the download", func(t *testing.T) {
		s.Forget()
		e, root := smallDisk(t, disk, nil)
		_, err := e.Pull(t.Context(), s.host+"/library/large:1", "", nil)
		if !errors.Is(err, engine.ErrNoSpace) || !strings.Contains(err.Error(), root) {
			t.Fatalf("error is %v, want ErrNoSpace that names the folder", err)
		}
		if s.Bytes() > 1<<16 {
			t.Errorf("%d bytes were downloaded in vain", s.Bytes())
		}
		usable(t, e)
	})
	t.Run("reserve", func(t *testing.T) {
		e, _ := smallDisk(t, disk, func(c *engine.Config) { c.Images.Reserve = 1 << 30 })
		if _, err := e.Pull(t.Context(), s.host+"/library/small:1", "", nil); !errors.Is(err, engine.ErrNoSpace) {
			t.Errorf("error is %v, want ErrNoSpace", err)
		}
	})
	t.Run("while unpacking", func(t *testing.T) {
		e, _ := smallDisk(t, disk, nil)
		if _, err := e.Pull(t.Context(), s.host+"/library/swollen:1", "", nil); !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("error is %v, want ErrNoSpace", err)
		}
		usable(t, e)
	})
	t.Run("while loading an archive", func(t *testing.T) {
		e, _ := smallDisk(t, disk, nil)
		_, err := e.LoadArchive(t.Context(), archive(t, "example.org/swollen:1", zeros(t, 300<<20)))
		if !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("error is %v, want ErrNoSpace", err)
		}
		wantImage(t, e, "example.org/swollen:1", "", false)
		usable(t, e)
	})
	t.Run("while downloading", func(t *testing.T) {
		medium := s.add(t, "library/medium:1", 8<<20, 1)
		digest, _ := layerOf(t, medium, 0)
		e, root := smallDisk(t, disk, nil)
		filler := filepath.Join(filepath.Dir(root), "filler")
		defer s.Inject(&registry.Fault{Digest: digest, CutAfter: 1 << 20, Times: 1, Reached: func() { fill(t, filler) }})()
		if _, err := e.Pull(t.Context(), s.host+"/library/medium:1", "", nil); !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("error is %v, want ErrNoSpace", err)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		usable(t, e)
		pullImage(t, e, s.host+"/library/medium:1", "")
	})
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	file, err := os.Create(path)
	if err != nil {
		t.Errorf("filler: %v", err)
		return
	}
	defer file.Close()
	block := make([]byte, 64<<10)
	for {
		if _, err := file.Write(block); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("filler: %v", err)
			}
			return
		}
	}
}

// zeros is an image of one file of zeros: much larger unpacked than compressed.
func zeros(t *testing.T, size int64) v1.Image {
	t.Helper()
	base, err := registry.Random(64, 1, goarch)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		out, in := io.Pipe()
		go func() {
			archive := tar.NewWriter(in)
			err := archive.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: size})
			if err == nil {
				_, err = io.CopyN(archive, zeroReader{}, size)
			}
			if err == nil {
				err = archive.Close()
			}
			in.CloseWithError(err)
		}()
		return out, nil
	}, tarball.WithCompressedCaching)
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
