package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"tarima/runtime/container"
)

func TestDebugSocket(t *testing.T) {
	cfg := testConfig(t)
	cfg.DebugSocket = filepath.Join(filepath.Dir(cfg.Root), "debug.sock")
	e := openEngine(t, cfg)
	mustStart(t, e, shell("seen", "sleep 3600"))
	client, err := containerd.New(cfg.DebugSocket, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	containers, err := client.Containers(t.Context())
	if err != nil || len(containers) != 1 || containers[0].ID() != "test.seen" {
		t.Errorf("over the socket: %v, %v", containers, err)
	}
	version, err := client.Version(t.Context())
	if err != nil || acceptVersion(version.Version) != nil {
		t.Errorf("version %+v, %v", version, err)
	}
	if info, err := os.Stat(cfg.DebugSocket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", info, err)
	}
}

// The engine works over the API socket of another containerd as it does
// without one. That other one is a second engine here; its version is ours.
func TestExternalContainerd(t *testing.T) {
	inner := testConfig(t)
	inner.DebugSocket = filepath.Join(filepath.Dir(inner.Root), "debug.sock")
	host, err := Open(t.Context(), inner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := testConfig(t)
	cfg.Socket = inner.DebugSocket
	e := openEngine(t, cfg)
	events := e.Events(t.Context())
	spec := shell("outside", "echo hello; while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 11")
	spec.IDBase = idBase
	status := mustStart(t, e, spec)
	logOf(t, e, spec.ID(), "hello")
	code, output, err := e.Exec(t.Context(), spec.ID(), []string{"sh", "-c", "touch /tmp/go; echo made"})
	if err != nil || code != 0 || string(output) != "made\n" {
		t.Errorf("exec: %d, %q, %v", code, output, err)
	}
	event := nextEvent(t, events)
	if event.ID != spec.ID() || event.Exit == nil || event.Exit.Code != 11 {
		t.Errorf("event %+v", event)
	}
	if now := waitState(t, e, spec.ID(), container.Exited); now.Exit.Code != 11 || now.Image != status.Image {
		t.Errorf("%+v", now)
	}
	if err := e.Remove(t.Context(), spec.ID()); err != nil {
		t.Error(err)
	}
	assertNothingOf(t, e, spec.ID())
}

func TestOldContainerdIsRefused(t *testing.T) {
	for version, accepted := range map[string]bool{
		"v2.1.0": true, "2.1.5": true, "v2.3.7": true, "2.10.0": true, "v3.0.0": true, "2.3.7+unknown": true,
		"v2.0.5": false, "1.7.28": false, "v1.6.20": false, "1.6.20~ds1": false, "": false, "unknown": false,
	} {
		err := acceptVersion(version)
		if (err == nil) != accepted {
			t.Errorf("version %q: %v", version, err)
		}
		if err != nil && (!errors.Is(err, ErrOldContainerd) || !strings.Contains(err.Error(), strings.TrimPrefix(version, "v"))) {
			t.Errorf("version %q: the error %v does not name it", version, err)
		}
	}
	cfg := testConfig(t)
	cfg.Socket = filepath.Join(cfg.State, "no.sock")
	ctx, cancel := context.WithTimeout(t.Context(), deadline/30)
	defer cancel()
	if _, err := Open(ctx, cfg); err == nil || !strings.Contains(err.Error(), cfg.Socket) {
		t.Errorf("without anybody at the socket: %v", err)
	}
}

func TestWrongConfig(t *testing.T) {
	good := testConfig(t)
	for name, change := range map[string]func(*Config){
		"relative root":         func(c *Config) { c.Root = "engine" },
		"one folder for both":   func(c *Config) { c.State = c.Root },
		"a state path too long": func(c *Config) { c.State = "/tmp/" + strings.Repeat("x", 60) },
		"no such runtime":       func(c *Config) { c.Runtime = "/no/such/runc" },
		"no such shim":          func(c *Config) { c.ShimBinary = "/no/such/tarima" },
		"a wrong cgroup name":   func(c *Config) { c.Cgroup = "../x" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			change(&cfg)
			e, err := Open(t.Context(), cfg)
			if err == nil {
				e.Close()
				t.Fatal("no error")
			}
		})
	}
	// Whatever failed, the root is free again.
	openEngine(t, good)
}

func TestShimBinarySurvivesAnUpgrade(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	program := filepath.Join(dir, "tarima")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(program+".new", []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	install := func() string {
		t.Helper()
		path, err := installShim(root, program)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("version 1")
	first := install()
	if again := install(); again != first {
		t.Errorf("the same program is at %s and at %s", first, again)
	}
	write("version 2")
	second := install()
	if text, err := os.ReadFile(first); err != nil || string(text) != "version 1" || first == second {
		t.Errorf("after the upgrade %s holds %q, %v; the new one is %s", first, text, err, second)
	}
	// A bundle keeps its shim; without it the old one goes.
	state := t.TempDir()
	bundle := filepath.Join(state, "io.containerd.runtime.v2.task", namespace, "test.x")
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "shim-binary-path"), []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeOldShims(root, state, second); err != nil {
		t.Fatal(err)
	}
	if !exists(first) || !exists(second) {
		t.Error("a shim that is in use was removed")
	}
	if err := os.RemoveAll(bundle); err != nil {
		t.Fatal(err)
	}
	if err := removeOldShims(root, state, second); err != nil {
		t.Fatal(err)
	}
	if exists(first) || !exists(second) {
		t.Error("the wrong shim was removed")
	}
}

func TestArchives(t *testing.T) {
	e := newEngine(t)
	good := testArchive(t)
	images, err := e.LoadArchive(t.Context(), bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	digest := images[0].Digest
	if images[0].Size < 100_000 || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("%+v", images[0])
	}
	for name, c := range map[string]struct {
		ref, digest string
		want        bool
	}{
		"by name":          {testImage, "", true},
		"by digest":        {testImage, digest, true},
		"with both in one": {testImage + "@" + digest, "", true},
		"another name":     {"tarima.test/other:1", "", false},
		"another digest":   {testImage, "sha256:" + strings.Repeat("0", 64), false},
	} {
		if got, err := e.HasImage(t.Context(), c.ref, c.digest); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// Nothing of a broken archive stays.
func TestBrokenArchivesLeaveNothing(t *testing.T) {
	e, err := Open(t.Context(), testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	good := testArchive(t)
	for name, archive := range map[string][]byte{
		"empty": nil, "rubbish": []byte("this is no archive"), "cut off": good[:len(good)/2], "cut off early": good[:1000],
		"a flipped byte": flipped(good),
	} {
		t.Run(name, func(t *testing.T) {
			_, err = e.LoadArchive(t.Context(), bytes.NewReader(archive))
			if !errors.Is(err, ErrArchive) {
				t.Errorf("error %v, want ErrArchive", err)
			}
			ctx := e.contextFor(t.Context())
			if names, err := e.imageTargets(ctx); err != nil || len(names) != 0 {
				t.Errorf("images are left: %v, %v", names, err)
			}
			if err := e.collect(ctx); err != nil {
				t.Fatal(err)
			}
			var blobs []string
			err = e.client.ContentStore().Walk(ctx, func(info content.Info) error {
				blobs = append(blobs, info.Digest.String())
				return nil
			})
			if err != nil || len(blobs) > 0 {
				t.Errorf("blobs are left: %v, %v", blobs, err)
			}
		})
	}
	loadTestImage(t, e)
}

// flipped changes one byte of the largest part of an archive: the layer.
func flipped(archive []byte) []byte {
	changed := slices.Clone(archive)
	changed[len(changed)/2] ^= 0xff
	return changed
}

// Nobody but root may use the shim's executable role by accident: under any
// other name this program is not one.
func TestShimRoleIsToldByName(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), shimName)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command(link, "-v").Output()
	if err != nil || !strings.Contains(string(output), "Version") {
		t.Errorf("as the shim it says %q, %v", output, err)
	}
}

// A daemon that is killed between the start of a shim and what it has to say
// to it leaves no shim.
func TestShimOfADeadDaemonDoesNotStart(t *testing.T) {
	cfg := testConfig(t)
	e := openEngine(t, cfg)
	command := exec.Command(e.shim, "-namespace", namespace, "-address", cfg.State+"/api", "-publish-binary", "/x", "-id", "never.told", "start")
	command.Dir = filepath.Join(filepath.Dir(cfg.Root), "bundle")
	if err := os.Mkdir(command.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(command.Dir, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := command.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "the daemon ended") {
		t.Errorf("the shim was started: %v: %s", err, output)
	}
	assertNoShims(t, e)
}

// A containerd before 2.3 starts the shim in another way.
func TestShimUnderAnOlderContainerd(t *testing.T) {
	cfg := testConfig(t)
	e := openEngine(t, cfg)
	bundle := filepath.Join(filepath.Dir(cfg.Root), "bundle")
	if err := os.Mkdir(bundle, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := anypb.New(&options.Options{BinaryName: cfg.Runtime})
	if err != nil {
		t.Fatal(err)
	}
	options.TypeUrl = runcOptions // as containerd writes it, without a host
	input, err := proto.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(e.shim, "-namespace", namespace, "-address", cfg.State+"/api", "-publish-binary", "/x", "-id", "old.protocol", "start")
	command.Dir, command.Stdin = bundle, bytes.NewReader(input)
	command.Env = append(os.Environ(), "TTRPC_ADDRESS="+cfg.State+"/events.ttrpc")
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	var answer struct {
		Version           int
		Address, Protocol string
	}
	if err := json.Unmarshal(output, &answer); err != nil {
		t.Fatalf("answer %q: %v", output, err)
	}
	if answer.Version != 3 || answer.Protocol != "ttrpc" || !strings.HasPrefix(answer.Address, "unix://") {
		t.Errorf("answer %+v", answer)
	}
	connection, err := net.Dial("unix", strings.TrimPrefix(answer.Address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(connection)
	defer client.Close()
	ctx := e.contextFor(t.Context())
	if _, err := taskapi.NewTTRPCTaskClient(client).Shutdown(ctx, &taskapi.ShutdownRequest{ID: "old.protocol"}); err != nil && !isGone(err) {
		t.Errorf("ending the shim: %v", err)
	}
	assertNoShims(t, e)
}
