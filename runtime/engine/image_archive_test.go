package engine_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"tarima/test/registry"
)

const goarch = runtime.GOARCH

// archive is an OCI layout as a tar file with the image under the name.
func archive(t *testing.T, name string, image v1.Image) *bytes.Buffer {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	if err := registry.Add(dir, name, image); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: relative, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &out
}

// spoil returns a copy of the archive with one byte in the middle of the blob
// inverted.
func spoil(t *testing.T, whole []byte, blob string) []byte {
	t.Helper()
	spoiled := bytes.Clone(whole)
	r := bytes.NewReader(spoiled)
	tr := tar.NewReader(r)
	for {
		header, err := tr.Next()
		if err != nil {
			t.Fatalf("blob %s is not in the archive: %v", blob, err)
		}
		if filepath.Base(header.Name) == blob {
			at := len(spoiled) - r.Len() + int(header.Size/2)
			spoiled[at] = ^spoiled[at]
			return spoiled
		}
	}
}
