package engine

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
)

// A shim that is slow to take a connection lives, and nobody else takes its
// socket; one that is dead does not.
func TestGroupShimIsAskedWithPatience(t *testing.T) {
	t.Chdir(t.TempDir())
	text := `{"ociVersion":"1.2.0","annotations":{"` + annotationGroup + `":"group"}}`
	if err := os.WriteFile("config.json", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "grp") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	ctx := namespaces.WithNamespace(t.Context(), "test")
	want, err := shim.CreateSocketAddress(ctx, sockets, "containerd", "group", false)
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(want, "unix://")
	if got := groupShim(ctx, sockets, "containerd"); got != "" {
		t.Errorf("no shim, but %s", got)
	}
	// A queue for one connection, which is taken: the next one waits.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	// So that no accept lasts for ever.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		<-time.After(300 * time.Millisecond) // three times the patience of containerd
		for range 2 {
			if c, _, err := unix.Accept(fd); err == nil {
				_ = unix.Close(c)
			}
		}
	}()
	if got := groupShim(ctx, sockets, "containerd"); got != want {
		t.Errorf("a slow shim: %q, want %q", got, want)
	}
	<-accepted
	_ = first.Close()
	_ = unix.Close(fd)
	if got := groupShim(ctx, sockets, "containerd"); got != "" {
		t.Errorf("a dead shim: %s", got)
	}
}
