package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// entries reads a packed layer.
func entries(t *testing.T, path string) map[string]*tar.Header {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*tar.Header{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h
	}
}

func TestLayerHoldsTheTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("must run as root: it makes files of other users and devices")
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "bin/tool"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(root, "etc/secret"), "x", 0o600)
	steps := []error{
		os.Lchown(filepath.Join(root, "etc/secret"), 999, 998),
		os.Link(filepath.Join(root, "bin/tool"), filepath.Join(root, "bin/twin")),
		os.Symlink("tool", filepath.Join(root, "bin/name")),
		os.Mkdir(filepath.Join(root, "hidden"), 0o755),
		unix.Mknod(filepath.Join(root, "etc/gone"), unix.S_IFCHR, 0),
		unix.Mkfifo(filepath.Join(root, "etc/pipe"), 0o600),
		os.Chmod(filepath.Join(root, "hidden"), os.ModeSticky|0o777),
		unix.Lsetxattr(filepath.Join(root, "hidden"), "trusted.overlay.opaque", []byte("y"), 0),
		os.Chtimes(filepath.Join(root, "bin/tool"), time.Now(), time.Now()),
		os.Chtimes(filepath.Join(root, "etc/secret"), epoch.Add(-time.Hour), epoch.Add(-time.Hour)),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer.tar.gz")
	info, err := packLayer(root, path)
	if err != nil {
		t.Fatal(err)
	}
	if stat, err := os.Stat(path); err != nil || stat.Size() != info.Size {
		t.Errorf("size %d, file %v %v", info.Size, stat, err)
	}
	found := entries(t, path)
	for name, check := range map[string]func(h *tar.Header) bool{
		"bin/tool": func(h *tar.Header) bool { return h.Mode&0o777 == 0o755 && h.ModTime.Equal(epoch) },
		"bin/twin": func(h *tar.Header) bool { return h.Typeflag == tar.TypeLink && h.Linkname == "bin/tool" },
		"bin/name": func(h *tar.Header) bool { return h.Typeflag == tar.TypeSymlink && h.Linkname == "tool" },
		"etc/secret": func(h *tar.Header) bool {
			return h.Uid == 999 && h.Gid == 998 && h.Mode&0o777 == 0o600 && h.ModTime.Before(epoch)
		},
		"etc/.wh.gone":        func(h *tar.Header) bool { return h.Typeflag == tar.TypeReg && h.Size == 0 },
		"hidden/":             func(h *tar.Header) bool { return h.Mode&0o1777 == 0o1777 },
		"hidden/.wh..wh..opq": func(h *tar.Header) bool { return h.Typeflag == tar.TypeReg },
	} {
		if h, ok := found[name]; !ok || !check(h) {
			t.Errorf("%s: %+v", name, h)
		}
	}
	for _, name := range []string{"etc/gone", "etc/pipe"} {
		if _, ok := found[name]; ok {
			t.Errorf("%s is in the layer", name)
		}
	}
}

func TestLayerDoesNotDependOnTheHour(t *testing.T) {
	var digests []string
	for _, at := range []time.Time{epoch.Add(time.Hour), epoch.Add(48 * time.Hour)} {
		root := t.TempDir()
		write(t, filepath.Join(root, "a/b"), "same", 0o644)
		for _, name := range []string{"a/b", "a"} {
			if err := os.Chtimes(filepath.Join(root, name), at, at); err != nil {
				t.Fatal(err)
			}
		}
		info, err := packLayer(root, filepath.Join(t.TempDir(), "layer.tar.gz"))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, info.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("the same tree packed twice: %v", digests)
	}
}
