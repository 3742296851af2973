//go:build e2e

package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// recipe makes the guest's root file system: what a small server has, and what
// the tests look at it with.
var recipe = []string{
	"--variant=minbase", "--mode=root", "--format=tar",
	`--aptopt=Acquire::Languages "none"`,
	"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
	"--include=systemd-sysv,dbus,iproute2,nftables,ca-certificates,curl,procps,man-db",
	"--customize-hook=mkdir -p $1/var/log/journal && echo guest > $1/etc/hostname && rm -f $1/etc/machine-id",
	// The tests' own folder lies there, and the package's manual pages must be kept.
	"--customize-hook=rm -f $1/etc/dpkg/dpkg.cfg.d/99mmdebstrap && mkdir -p $1/test",
	"bookworm",
}

// rootFile gives the archive of the guest's root file system, which is made
// when it is not there yet.
func rootFile(ctx context.Context, dir string) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(recipe, "\n")))
	file := filepath.Join(dir, hex.EncodeToString(sum[:8])+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(dir, "making-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	before := time.Now()
	fmt.Println("making the guest's root file system with mmdebstrap: about a minute, once")
	made := filepath.Join(work, "root.tar")
	// In memory: dpkg waits for the disk at every file.
	memory := `mkdir "$1/memory" && mount -t tmpfs tmpfs "$1/memory" && TMPDIR="$1/memory" && export TMPDIR && shift && exec "$@"`
	args := []string{"--mount", "--propagation", "private", "sh", "-c", memory, "sh", work, "mmdebstrap"}
	args = append(append(args, recipe...), made)
	cmd := exec.CommandContext(ctx, "unshare", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mmdebstrap: %w\n%s", err, tail(string(out), 30))
	}
	fmt.Printf("the guest's root file system is made, after %s\n", time.Since(before).Round(time.Second))
	return file, os.Rename(made, file)
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
