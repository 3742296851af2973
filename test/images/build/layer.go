package main

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// epoch is the newest time of change that a layer may show, so that two builds
// of the same recipe do not differ by the hour at which they were made.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// layerInfo describes a packed layer.
type layerInfo struct {
	Digest string `json:"digest"` // of the compressed bytes, sha256:…
	DiffID string `json:"diffID"` // of the tar, sha256:…
	Size   int64  `json:"size"`   // bytes, compressed
}

// packLayer writes the tree below root as a gzip-compressed layer to path. An
// overlay's whiteouts become the whiteouts of the image format.
func packLayer(root, path string) (layerInfo, error) {
	out, err := os.Create(path)
	if err != nil {
		return layerInfo{}, err
	}
	defer out.Close()

	compressed := &digester{w: out, h: sha256.New()}
	zip, err := gzip.NewWriterLevel(compressed, gzip.BestSpeed)
	if err != nil {
		return layerInfo{}, err
	}
	plain := &digester{w: zip, h: sha256.New()}
	buffered := bufio.NewWriterSize(plain, 1<<20)
	if err := writeTree(buffered, root); err != nil {
		return layerInfo{}, fmt.Errorf("pack %s: %w", root, err)
	}
	if err := errors.Join(buffered.Flush(), zip.Close(), out.Sync(), out.Close()); err != nil {
		return layerInfo{}, fmt.Errorf("pack %s: %w", root, err)
	}
	return layerInfo{Digest: compressed.digest(), DiffID: plain.digest(), Size: compressed.n}, nil
}

// digester counts and hashes what passes through it.
type digester struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (d *digester) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.h.Write(p[:n])
	d.n += int64(n)
	return n, err
}

func (d *digester) digest() string { return "sha256:" + hex.EncodeToString(d.h.Sum(nil)) }

// inode names a file that may have several names.
type inode struct{ dev, ino uint64 }

// writeTree writes the tree as a tar whose bytes depend on nothing but names,
// kinds, owners, permissions, contents and times up to epoch.
func writeTree(w io.Writer, root string) error {
	t := tar.NewWriter(w)
	seen := map[inode]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == root {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return writeEntry(t, path, rel, info, seen)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func writeEntry(t *tar.Writer, path, rel string, info fs.FileInfo, seen map[inode]string) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner known", rel)
	}
	if info.Mode()&fs.ModeCharDevice != 0 && stat.Rdev == 0 {
		return t.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: whiteout(rel), ModTime: epoch, Format: tar.FormatPAX,
		})
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
		return nil // left by a program that ran during the build
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		link = target
	}
	head, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	head.Name = rel
	head.Uname, head.Gname = "", ""
	head.AccessTime, head.ChangeTime = time.Time{}, time.Time{}
	head.ModTime = head.ModTime.UTC().Truncate(time.Second)
	if head.ModTime.After(epoch) {
		head.ModTime = epoch
	}
	head.Format = tar.FormatPAX

	switch {
	case info.IsDir():
		head.Name += "/"
		if err := t.WriteHeader(head); err != nil {
			return err
		}
		if !opaque(path) {
			return nil
		}
		return t.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: filepath.Join(rel, ".wh..wh..opq"), ModTime: epoch, Format: tar.FormatPAX,
		})
	case info.Mode().IsRegular():
		if stat.Nlink > 1 {
			id := inode{stat.Dev, stat.Ino}
			if first, ok := seen[id]; ok {
				head.Typeflag, head.Linkname, head.Size = tar.TypeLink, first, 0
				return t.WriteHeader(head)
			}
			seen[id] = rel
		}
		if err := t.WriteHeader(head); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	default:
		return t.WriteHeader(head)
	}
}

// whiteout names the marker that hides rel in the layers below.
func whiteout(rel string) string {
	dir, name := filepath.Split(rel)
	return strings.TrimPrefix(filepath.Join(dir, ".wh."+name), "/")
}

// opaque says whether an overlay hid what lay below a folder.
func opaque(path string) bool {
	value := make([]byte, 4)
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}
