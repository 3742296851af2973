package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
)

// containerdVariable names a containerd binary. With it the tests that are not
// about the embedded containerd run against a daemon of that binary, one for
// each engine; test/containerd builds one.
const containerdVariable = "TARIMA_TEST_CONTAINERD"

// UseExternal points the configuration at a new containerd daemon when the
// tests are asked to run against one. Its root is the engine's root, so that
// tests find content where they look for it.
func UseExternal(t testing.TB, cfg *Config) {
	t.Helper()
	binary := os.Getenv(containerdVariable)
	if binary == "" {
		return
	}
	dir := filepath.Join(filepath.Dir(cfg.State), "containerd")
	// Processes in user namespaces reach their root through the state folder.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "api.sock")
	file := filepath.Join(dir, "config.toml")
	settings := fmt.Sprintf(`version = 3
root = %q
state = %q
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = %q
`, cfg.Root, filepath.Join(dir, "state"), socket, socket+".ttrpc", filepath.Join(dir, "s"))
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(binary, "--config", file)
	var output strings.Builder
	daemon.Stdout, daemon.Stderr = &output, &output
	if err := daemon.Start(); err != nil {
		t.Fatalf("containerd of %s: %v", containerdVariable, err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait() // ended by a signal
		if t.Failed() {
			t.Logf("containerd:\n%s", output.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for {
		err := answers(ctx, socket)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("containerd does not answer: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	cfg.Socket = socket
}

func answers(ctx context.Context, socket string) error {
	client, err := containerd.New(socket, containerd.WithTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Version(ctx)
	return err
}
