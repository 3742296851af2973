package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"tarima/runtime/container"
)

func TestMain(m *testing.M) {
	RunAsShim()
	if os.Getenv(daemonConfig) != "" {
		runTestDaemon()
	}
	code := m.Run()
	if code == 0 {
		code = leftovers()
	}
	os.Exit(code)
}

// testImage is what the tests run: a static busybox with a few users.
const testImage = "tarima.test/busybox:1"

// deadline for what a real process has to do; only a hang meets it.
const deadline = 30 * time.Second

// runtimeForTest finds the OCI runtime that make build made.
func runtimeForTest(t testing.TB) string {
	t.Helper()
	for _, path := range []string{os.Getenv("TARIMA_RUNC"), "../../bin/runc"} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err == nil {
			absolute, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			return absolute
		}
	}
	t.Fatal("no runc: run `make build`, or name one in TARIMA_RUNC")
	return ""
}

// testConfig makes folders for an engine of its own. They lie directly below
// /tmp: t.TempDir makes folders that nobody else may search, and sockets need
// short paths.
func testConfig(t testing.TB) Config {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("engine tests run containers: run them as root")
	}
	base, err := os.MkdirTemp("", "eng-*") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(base, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("removing the engine's folders: %v", err)
		}
	})
	cgroup := strings.ToLower(filepath.Base(base))
	testCgroups[cgroup] = true
	return Config{
		Cgroup:  cgroup,
		Root:    filepath.Join(base, "root"),
		State:   filepath.Join(base, "run"),
		Runtime: runtimeForTest(t),
		LogDir:  func(site string) string { return filepath.Join(base, "logs", site) },
		Logger:  testLogger(t),
	}
}

// testCgroups are the names that tests gave to their engines' cgroups.
var testCgroups = map[string]bool{}

func testLogger(t testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if os.Getenv("TARIMA_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	w := &testWriter{t: t}
	// Now, not with the first line: that may come when the test is over.
	t.Cleanup(func() { w.mu.Lock(); w.ended = true; w.mu.Unlock() })
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// testWriter logs to the test while it runs, and to nobody afterwards.
type testWriter struct {
	t     testing.TB
	mu    sync.Mutex
	ended bool
}

func (w *testWriter) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.t.Log(strings.TrimSpace(string(text)))
	}
	return len(text), nil
}

// openEngine opens an engine with the test image and closes it, with all its
// containers gone, at the end of the test.
func openEngine(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		emptyEngine(t, e)
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
	})
	loadTestImage(t, e)
	return e
}

func newEngine(t testing.TB) *Engine {
	t.Helper()
	cfg := testConfig(t)
	UseExternal(t, &cfg)
	return openEngine(t, cfg)
}

// emptyEngine removes every container of every site.
func emptyEngine(t testing.TB, e *Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	records, err := e.client.ContainerService().List(e.contextFor(ctx))
	if err != nil {
		t.Errorf("listing what is left: %v", err)
	}
	for _, record := range records {
		if err := e.remove(e.contextFor(ctx), record.ID); err != nil {
			t.Errorf("removing %s: %v", record.ID, err)
		}
	}
}

func loadTestImage(t testing.TB, e *Engine) {
	t.Helper()
	images, err := e.LoadArchive(t.Context(), bytes.NewReader(testArchive(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 || images[0].Ref != testImage {
		t.Fatalf("loading the test image gave %+v", images)
	}
}

var testArchive = func() func(t testing.TB) []byte {
	build := sync.OnceValues(func() ([]byte, error) {
		return imageArchive(testImage, v1.Config{
			Cmd:        []string{"/bin/sh", "-c", "echo hello from the image; exec sleep 3600"},
			Env:        []string{"PATH=/bin", "FROM_IMAGE=yes", "BOTH=image"},
			WorkingDir: "/srv",
			StopSignal: "SIGQUIT",
			Volumes:    map[string]struct{}{"/var/data": {}},
		})
	})
	return func(t testing.TB) []byte {
		archive, err := build()
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
}()

// imageArchive builds an image around the static busybox of this machine and
// returns it as an OCI layout in a tar file.
func imageArchive(ref string, config v1.Config) ([]byte, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("no static busybox: apt install busybox-static: %w", err)
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"bin", "etc", "srv", "proc", "sys", "dev", "tmp", "data", "var", "var/data", "home"} {
		mode := int64(0o755)
		if dir == "tmp" || dir == "data" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: mode}); err != nil {
			return nil, err
		}
	}
	files := map[string]string{
		"bin/busybox": string(busybox),
		"etc/passwd":  "root:x:0:0:root:/:/bin/sh\napp:x:1000:1001:app:/home:/bin/sh\n",
		"etc/group":   "root:x:0:\napp:x:1001:\nextra:x:1002:app\n",
	}
	for path, text := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(text))}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return nil, err
		}
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet == "busybox" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	content := layer.Bytes()
	built, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, built)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Config, file.Architecture, file.OS = config, "amd64", "linux"
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return nil, err
	}
	return layoutArchive(ref, image)
}

// layoutArchive writes an image as an OCI layout that names it.
func layoutArchive(ref string, image v1.Image) ([]byte, error) {
	if _, err := name.ParseReference(ref); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "eng-layout-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return nil, err
	}
	if err := path.AppendImage(image, layout.WithAnnotations(map[string]string{"io.containerd.image.name": ref})); err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

// shell is the spec of a container that runs a shell script.
func shell(name, script string) container.Spec {
	return container.Spec{
		Site: "test", Name: name, Kind: container.Service, Group: container.Applications,
		Image: testImage, Entrypoint: []string{"/bin/sh", "-c", script},
		StopSignal: "SIGTERM",
		Labels:     map[string]string{container.LabelSite: "test", container.LabelName: name, container.LabelHash: "h1"},
	}
}

func mustStart(t testing.TB, e *Engine, spec container.Spec) container.Status {
	t.Helper()
	status, err := e.Start(t.Context(), spec, nil)
	if err != nil {
		t.Fatalf("starting %s: %v", spec.ID(), err)
	}
	return status
}

// waitState polls until a container is in a state.
func waitState(t testing.TB, e *Engine, id string, state container.State) container.Status {
	t.Helper()
	var last container.Status
	eventually(t, fmt.Sprintf("%s to be %s", id, state), func() bool {
		var err error
		last, err = e.statusOf(e.contextFor(t.Context()), id)
		return err == nil && last.State == state
	})
	return last
}

// eventually polls for a condition that must become true.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(deadline)
	defer limit.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited %v for %s", deadline, what)
		}
	}
}

// logOf polls until the log of a container holds a text.
func logOf(t testing.TB, e *Engine, id, text string) []string {
	t.Helper()
	var lines []string
	eventually(t, fmt.Sprintf("%q in the log of %s", text, id), func() bool {
		lines = e.LogTail(id, 1000)
		return strings.Contains(strings.Join(lines, "\n"), text)
	})
	return lines
}

// leftovers counts what the tests left on the machine: each of them removes
// its containers, so there is nothing.
func leftovers() int {
	code := 0
	complain := func(what string, found []string) {
		if len(found) > 0 {
			fmt.Fprintf(os.Stderr, "the tests left %s: %v\n", what, found)
			code = 1
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var ours []string
	for line := range strings.Lines(string(mounts)) {
		for base := range testCgroups { // named as the folders: other runs of these tests are not ours
			if strings.Contains(line, os.TempDir()+"/"+base+"/") {
				ours = append(ours, strings.TrimSpace(line))
			}
		}
	}
	complain("mounts", ours)
	var groups []string
	for cgroup := range testCgroups {
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			for _, folder := range []string{cgroup, slicePath(cgroup + ".slice")} {
				found, _ := filepath.Glob(pattern + folder)
				groups = append(groups, found...)
			}
		}
	}
	complain("cgroups", groups)
	return code
}
