package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// certificates is the host's bundle of authorities. It is shown to the commands
// of a build, so that a machine behind a proxy with an authority of its own can
// build too; it does not get into an image.
const certificates = "/etc/ssl/certs/ca-certificates.crt"

// shown is a host folder that a root's commands see at a path.
type shown struct {
	host, target string
	readOnly     bool
}

// root is a mounted file system in which a stage's commands run.
type root struct {
	dir    string // where it is mounted
	upper  string // what the stage adds to its parents
	log    io.Writer
	mounts []string // in the order in which they were made
	made   []string // empty mount points that do not belong to the image
}

// openRoot mounts the stages' trees (lowest first) below a fresh one.
func openRoot(lower []string, upper, work, dir string, log io.Writer) (*root, error) {
	for _, d := range []string{upper, work, dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	var reversed []string
	for _, l := range lower {
		reversed = append([]string{l}, reversed...)
	}
	// What the layer format cannot express must not be in the upper folder.
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=off,metacopy=off,index=off",
		strings.Join(reversed, ":"), upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return nil, fmt.Errorf("mount an overlay at %s: %w (the output folder must not lie on an overlay itself)", dir, err)
	}
	return &root{dir: dir, upper: upper, log: log, mounts: []string{dir}}, nil
}

// prepare mounts what commands need: /proc, /dev, a scratch folder, names and
// authorities of the host, and the folders shown.
func (r *root) prepare(folders []shown) error {
	if err := r.mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := r.mount("tmpfs", "/dev", "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := r.bind("/dev/"+name, "/dev/"+name, false); err != nil {
			return err
		}
	}
	if err := os.Symlink("/proc/self/fd", filepath.Join(r.dir, "dev/fd")); err != nil {
		return err
	}
	if err := r.mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
		return err
	}
	if err := r.bind("/etc/resolv.conf", "/etc/resolv.conf", true); err != nil {
		return err
	}
	if _, err := os.Stat(certificates); err == nil {
		if err := r.bind(certificates, certificates, true); err != nil {
			return err
		}
	}
	for _, s := range folders {
		if err := r.bind(s.host, s.target, s.readOnly); err != nil {
			return err
		}
	}
	return nil
}

func (r *root) mount(source, target, kind string, flags uintptr, data string) error {
	path := filepath.Join(r.dir, target)
	if err := r.point(path, true); err != nil {
		return err
	}
	if err := unix.Mount(source, path, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", kind, target, err)
	}
	r.mounts = append(r.mounts, path)
	return nil
}

func (r *root) bind(host, target string, readOnly bool) error {
	resolved, err := filepath.EvalSymlinks(host)
	if err != nil {
		return err
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, target)
	if err := r.point(path, info.IsDir()); err != nil {
		return err
	}
	if err := unix.Mount(resolved, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show %s at %s: %w", host, target, err)
	}
	r.mounts = append(r.mounts, path)
	if readOnly {
		if err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("show %s at %s: %w", host, target, err)
		}
	}
	return nil
}

// point makes a mount point where there is none and remembers it, because it is
// no part of the image.
func (r *root) point(path string, dir bool) error {
	_, err := os.Lstat(path)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if dir {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	} else {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
	}
	r.made = append(r.made, path)
	return nil
}

// run runs shell lines in the root.
func (r *root) run(script string, env []string) error {
	cmd := exec.Command("/bin/sh", "-euc", script)
	cmd.Dir = "/"
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/tmp", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
		"PIP_CERT=" + certificates, "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_NO_INPUT=1", "PIP_ROOT_USER_ACTION=ignore",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch.Unix()),
	}, env...)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.dir}
	if _, err := fmt.Fprintf(r.log, "+ %s\n", script); err != nil {
		return err
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("command in the root: %w", err)
	}
	return nil
}

// close unmounts everything and removes the mount points that were made.
func (r *root) close() error {
	var errs []error
	for i := len(r.mounts) - 1; i > 0; i-- {
		errs = append(errs, unmount(r.mounts[i]))
	}
	for i := len(r.made) - 1; i >= 0; i-- {
		if err := os.Remove(r.made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, unmount(r.mounts[0]))
	return errors.Join(errs...)
}

func unmount(path string) error {
	err := unix.Unmount(path, 0)
	if errors.Is(err, unix.EBUSY) {
		// A process that a package's script left behind must not keep the
		// build; the mount goes when that process does.
		err = unix.Unmount(path, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// layOver copies a source folder over the root. Everything belongs to root and
// is readable by all; of a file's permissions only "may be run" counts, as in
// the source control.
func layOver(source, target string) error {
	return filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !isImageFile(path) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		to := filepath.Join(target, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			return os.MkdirAll(to, 0o755)
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, to)
		case info.Mode().IsRegular():
			mode := fs.FileMode(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			return copyFile(path, to, mode)
		}
		return fmt.Errorf("%s: neither file, folder nor link", path)
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	// The process's umask may have taken permissions away.
	return errors.Join(err, out.Chmod(mode), out.Close())
}
