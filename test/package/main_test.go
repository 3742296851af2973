//go:build e2e

// Package install does with the .deb what an administrator does: it is
// installed, managed with systemctl, upgraded and removed in a Debian guest
// with a systemd of its own.
package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What TestMain prepares.
var (
	top   string // of the project
	deb   string // the package under test
	newer string // the same with a higher version
	site  *guest
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if err := prepare(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(site.dir)
	defer site.kill()
	return m.Run()
}

func prepare(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the package is tried in a guest of systemd-nspawn: run this as root")
	}
	for _, tool := range []string{"mmdebstrap", "systemd-nspawn", "script", "nsenter", "unshare", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: ./test/setup e2e installs what is needed", err)
		}
	}
	if top, err = filepath.Abs("../.."); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(top, "dist", "*.deb"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("there are %d packages in dist, one is wanted: make package makes it", len(found))
	}
	deb = found[0]
	root, err := rootFile(ctx, filepath.Join(top, "dist", "guest"))
	if err != nil {
		return err
	}
	removeLeft()
	dir, err := os.MkdirTemp("", "tarima-guest-")
	if err != nil {
		return err
	}
	if site, err = boot(ctx, dir, root); err == nil {
		err = putPackages(dir)
		if err != nil {
			site.kill()
		}
	}
	if err != nil {
		_ = os.RemoveAll(dir) // the first error is told
	}
	return err
}

// putPackages puts the package where the guest sees it, and one of a higher
// version beside it.
func putPackages(dir string) error {
	tree := filepath.Join(dir, "newer")
	newer = filepath.Join(dir, "shared", "newer.deb")
	control := filepath.Join(tree, "DEBIAN", "control")
	if out, err := exec.Command("dpkg-deb", "--raw-extract", deb, tree).CombinedOutput(); err != nil {
		return fmt.Errorf("take the package apart: %w: %s", err, out)
	}
	data, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if version, ok := strings.CutPrefix(line, "Version: "); ok {
			line = "Version: " + strings.TrimSpace(version) + "+newer\n"
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(control, []byte(strings.Join(lines, "")), 0o644); err != nil {
		return err
	}
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, newer).CombinedOutput(); err != nil {
		return fmt.Errorf("make a package of a higher version: %w: %s", err, out)
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	data, err = os.ReadFile(deb)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "shared", "tarima.deb"), data, 0o644)
}
