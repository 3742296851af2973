//go:build guest

package guest

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

// diskSize is the size of the guest's disk, in the words of truncate(1).
const diskSize = "6G"

// recipe makes the guest's root file system: a small Debian 12 server with what
// the tests of the rooms need. /tmp stays on the disk: Linux 6.1 makes no
// idmapped mounts of a tmpfs.
var recipe = []string{
	"--variant=minbase", "--mode=root",
	`--aptopt=Acquire::Languages "none"`,
	"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*",
	"--include=systemd-sysv,udev,dbus,kmod,iproute2,openssh-server,busybox-static,crun,libpam-systemd,procps,ca-certificates," +
		"linux-image-cloud-amd64,initramfs-tools,zstd",
	`--customize-hook=printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n' > "$1/etc/systemd/network/80-dhcp.network"`,
	`--customize-hook=chroot "$1" systemctl enable systemd-networkd`,
	`--customize-hook=chroot "$1" systemctl mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer`,
	`--customize-hook=printf '/dev/vda / ext4 rw,noatime 0 0\n/dev/vdb /payload ext4 ro 0 0\n' > "$1/etc/fstab"; mkdir "$1/payload"`,
	`--customize-hook=echo guest > "$1/etc/hostname"; rm -f "$1/etc/machine-id"`,
	"bookworm",
}

// rootImage is a guest that can be booted. Its files are never written to.
type rootImage struct{ dir string }

func (r rootImage) disk() string   { return filepath.Join(r.dir, "disk.qcow2") }
func (r rootImage) kernel() string { return filepath.Join(r.dir, "vmlinuz") }
func (r rootImage) initrd() string { return filepath.Join(r.dir, "initrd") }
func (r rootImage) key() string    { return filepath.Join(r.dir, "id") }

// makeScript is run with the folder for the result, the size of the disk and
// the recipe. The tree is made in memory: dpkg waits for the disk at every file.
const makeScript = `set -eu
result=$1 size=$2; shift 2
mkdir "$result/memory"
mount -t tmpfs tmpfs "$result/memory"
export TMPDIR="$result/memory"
ssh-keygen -q -t ed25519 -N '' -C guest -f "$result/id"
mmdebstrap "$@" "$result/memory/root"
install -d -m 700 "$result/memory/root/root/.ssh"
install -m 600 "$result/id.pub" "$result/memory/root/root/.ssh/authorized_keys"
cp "$result"/memory/root/boot/vmlinuz-* "$result/vmlinuz"
cp "$result"/memory/root/boot/initrd.img-* "$result/initrd"
truncate -s "$size" "$result/disk.raw"
mke2fs -q -t ext4 -d "$result/memory/root" -L root "$result/disk.raw"
qemu-img convert -q -O qcow2 "$result/disk.raw" "$result/disk.qcow2"
rm "$result/disk.raw"
umount "$result/memory"
rmdir "$result/memory"
`

// makeRoot gives the image of the recipe, which is made when it is not in the
// folder yet.
func makeRoot(ctx context.Context, dir string) (rootImage, error) {
	sum := sha256.Sum256([]byte(makeScript + diskSize + strings.Join(recipe, "\n")))
	image := rootImage{filepath.Join(dir, hex.EncodeToString(sum[:8]))}
	if _, err := os.Stat(image.dir); err == nil {
		return image, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return image, err
	}
	work, err := os.MkdirTemp(dir, "making-")
	if err != nil {
		return image, err
	}
	defer os.RemoveAll(work)
	before := time.Now()
	fmt.Println("making the guest's disk with mmdebstrap: about two minutes, once")
	args := append([]string{"--mount", "--propagation", "private", "sh", "-c", makeScript, "sh", work, diskSize}, recipe...)
	if out, err := exec.CommandContext(ctx, "unshare", args...).CombinedOutput(); err != nil {
		return image, fmt.Errorf("making the guest's disk: %w\n%s", err, tail(string(out), 30))
	}
	fmt.Printf("the guest's disk is made, after %s\n", time.Since(before).Round(time.Second))
	return image, os.Rename(work, image.dir)
}

// makePayload makes a disk of the files in a folder, which the guest sees
// as /payload.
func makePayload(ctx context.Context, files, image string) error {
	for _, args := range [][]string{{"truncate", "-s", "1G", image}, {"mke2fs", "-q", "-t", "ext4", "-d", files, image}} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	return nil
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
