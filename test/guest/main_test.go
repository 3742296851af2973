//go:build guest

// Package guest runs the tests of the rooms on what the users' machines have
// and a build machine may lack: a Debian 12 with systemd, cgroup v2 alone, all
// capabilities and a kernel whose modules can be loaded. The guest is a virtual
// machine; without hardware virtualization it is slow.
package guest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// guest is the machine of all tests.
var guest *machine

func TestMain(m *testing.M) {
	runtime.LockOSThread() // see boot
	flag.Parse()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tarima-guest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := prepare(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer guest.kill()
	code := m.Run()
	err = guest.powerOff(context.Background())
	if err == nil {
		err = checkWitness()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func prepare(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the guest's disk is made by mmdebstrap as root: run this as root")
	}
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "mmdebstrap", "mke2fs", "ssh", "ssh-keygen", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: ./test/setup guest installs what is needed", err)
		}
	}
	top, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	files := filepath.Join(dir, "payload")
	for _, room := range rooms {
		if err := compile(ctx, top, room, files); err != nil {
			return err
		}
	}
	runc, err := os.ReadFile(filepath.Join(top, "bin", "runc"))
	if err != nil {
		return fmt.Errorf("%w: run make build", err)
	}
	if err := os.WriteFile(filepath.Join(files, "runc"), runc, 0o755); err != nil {
		return err
	}
	if !testing.Short() {
		if err := addPackage(ctx, top, files); err != nil {
			return err
		}
	}
	root, err := makeRoot(ctx, filepath.Join(top, "dist", "guest-root"))
	if err != nil {
		return err
	}
	payload := filepath.Join(dir, "payload.img")
	if err := makePayload(ctx, files, payload); err != nil {
		return err
	}
	guest, err = boot(ctx, root, payload, dir)
	return err
}

// compile puts the test binary of a room, and the files beside its tests, where
// they become part of the payload: payload/ROOM.
func compile(ctx context.Context, top, room, files string) error {
	dir := filepath.Join(files, room)
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", filepath.Join(dir, "room.test"), "./"+room)
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling the tests of %s: %w\n%s", room, err, out)
	}
	data := filepath.Join(top, room, "testdata")
	if _, err := os.Stat(data); err != nil {
		return nil // a room without such files
	}
	return os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS(data))
}
