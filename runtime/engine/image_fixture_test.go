package engine_test

import (
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"tarima/runtime/container"
	"tarima/runtime/engine"
	"tarima/test/registry"
)

// imageEngine opens an engine of its own folders, ready for pulls that lose no
// time with waiting.
func imageEngine(t *testing.T, change func(*engine.Config)) *engine.Engine {
	t.Helper()
	cfg := imageConfig(t, change)
	engine.UseExternal(t, &cfg)
	return openImageEngine(t, cfg)
}

func openImageEngine(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	e, err := engine.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func imageConfig(t *testing.T, change func(*engine.Config)) engine.Config {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tarima-images-") //nolint:usetesting // the path of a shim's socket has few bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove engine folders: %v", err)
		}
	})
	cfg := engine.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		Runtime: ociRuntime(t),
		Images:  engine.ImagesConfig{Attempts: 3, Backoff: time.Millisecond, MaxWait: 5 * time.Second, Stall: 30 * time.Second, Reserve: -1},
		Logger:  newTestLog(t),
	}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// eitherConfig is imageConfig for an external containerd when the tests are to
// use one.
func eitherConfig(t *testing.T) engine.Config {
	t.Helper()
	cfg := imageConfig(t, nil)
	engine.UseExternal(t, &cfg)
	return cfg
}

// ociRuntime is the runtime that the engine insists on, though pulls do not
// run it.
func ociRuntime(t *testing.T) string {
	t.Helper()
	for _, path := range []string{os.Getenv("TARIMA_RUNC"), filepath.Join("..", "..", "bin", "runc")} {
		if path == "" {
			continue
		}
		path, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("no OCI runtime: run make build, or set TARIMA_RUNC")
	return ""
}

// testLog writes a logger's lines to the test's log while the test runs.
// Afterwards they have nowhere to go.
type testLog struct {
	t     *testing.T
	mu    sync.Mutex
	ended bool
}

func newTestLog(t *testing.T) *slog.Logger {
	l := &testLog{t: t}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ended = true
	})
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (l *testLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.t.Log(strings.TrimRight(string(line), "\n"))
	}
	return len(line), nil
}

// source is a registry and the images in it.
type source struct {
	*registry.Server
	host string
	dir  string
}

func newSource(t *testing.T) *source {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	s := &source{Server: &registry.Server{Dirs: []string{dir}}, dir: dir}
	server := httptest.NewServer(s.Server)
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

// add puts an image of random layers for this machine under name, which goes
// without the host, and returns the image.
func (s *source) add(t *testing.T, name string, size int64, layers int) v1.Image {
	t.Helper()
	image, err := registry.Random(size, layers, goarch)
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, name, image)
	return image
}

func (s *source) put(t *testing.T, name string, image v1.Image) {
	t.Helper()
	if err := registry.Add(s.dir, "docker.io/"+name, image); err != nil {
		t.Fatal(err)
	}
}

// blobRequests are the requests for the content of one layer.
func (s *source) blobRequests(digest string) (list []registry.Request) {
	for _, r := range s.Requests() {
		if r.Kind == registry.Blob && r.Reference == digest {
			list = append(list, r)
		}
	}
	return list
}

// forget empties the registry's list when the one request for the layer that a
// client broke off is in it: the registry notices a moment later.
func (s *source) forget(t *testing.T, digest string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for len(s.blobRequests(digest)) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the registry never noticed that its client has left")
		}
		<-time.After(5 * time.Millisecond)
	}
	s.Forget()
}

func digestOf(t *testing.T, image interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// layerOf returns digest and compressed size of one layer.
func layerOf(t *testing.T, image v1.Image, at int) (digest string, size int64) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	size, err = layers[at].Size()
	if err != nil {
		t.Fatal(err)
	}
	return digestOf(t, layers[at]), size
}

// withConfig returns the image with its configuration changed.
func withConfig(t *testing.T, image v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	change(config)
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// recorder collects the progress of a pull.
type recorder struct {
	mu   sync.Mutex
	list []container.Progress
}

func (r *recorder) note(p container.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, p)
}

func pullImage(t *testing.T, e *engine.Engine, ref, pinned string) container.Image {
	t.Helper()
	image, err := e.Pull(t.Context(), ref, pinned, nil)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func wantImage(t *testing.T, e *engine.Engine, ref, digest string, want bool) {
	t.Helper()
	got, err := e.HasImage(t.Context(), ref, digest)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("HasImage(%s, %s) is %v, want %v", ref, digest, got, want)
	}
}

// wantNoLeftovers fails the test when a pull left something behind.
func wantNoLeftovers(t *testing.T, e *engine.Engine) {
	t.Helper()
	if err := e.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := e.Leftovers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

// discard is for what is not looked at.
var discard = slog.New(slog.NewTextHandler(io.Discard, nil))
