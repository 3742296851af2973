// Package durable replaces files so that a crash or a power cut leaves the old
// file or the new one, whole: a temporary file beside it, synced, renamed, its
// folder synced. It is plain and may be imported by anyone.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File says how a file is put in its place. The zero value is a file that its
// writer alone may read, which belongs to whoever runs the program.
type File struct {
	Mode  fs.FileMode // permission bits, whatever the umask is; 0: 0600
	Owner *Owner      // nil: the process's own user and group
	// Check looks at the finished temporary file before it gets its name; its
	// error leaves the old file in place.
	Check func(temp string) error
}

// Owner of a file, as on disk.
type Owner struct{ UID, GID int }

// Write replaces the file at path by data.
func Write(path string, data []byte, mode fs.FileMode) error {
	return File{Mode: mode}.Fill(path, whole(data))
}

// Fill replaces the file at path by what fill writes. On any error the old file
// is as it was and the temporary one is gone; after a crash that one may remain,
// as ".NAME-" and some random letters, with mode 0600.
func (f File) Fill(path string, fill func(io.Writer) error) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return errors.Join(f.fill(root, filepath.Base(path), fill), root.Close())
}

// WriteIn replaces the file name below root by data. Neither name nor a symbolic
// link on the way leads out of root.
func (f File) WriteIn(root *os.Root, name string, data []byte) error {
	return f.fill(root, name, whole(data))
}

func whole(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func (f File) fill(root *os.Root, name string, fill func(io.Writer) error) (err error) {
	dir, base := filepath.Split(filepath.Clean(name))
	temp := dir + "." + base + "-" + rand.Text()
	// Nobody else reads it before it has its owner and mode.
	file, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return failed(root, name, err)
	}
	err = f.finish(file, fill)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil && f.Check != nil {
		err = f.Check(filepath.Join(root.Name(), temp))
	}
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		return failed(root, name, errors.Join(err, root.Remove(temp)))
	}
	return SyncIn(root, filepath.Dir(filepath.Clean(name)))
}

func (f File) finish(file *os.File, fill func(io.Writer) error) error {
	if err := fill(file); err != nil {
		return err
	}
	if f.Owner != nil {
		if err := file.Chown(f.Owner.UID, f.Owner.GID); err != nil {
			return err
		}
	}
	if f.Mode != 0 { // after the owner: a change of owner takes set-id bits away
		if err := file.Chmod(f.Mode); err != nil {
			return err
		}
	}
	return file.Sync()
}

func failed(root *os.Root, name string, err error) error {
	return fmt.Errorf("write %s: %w", filepath.Join(root.Name(), name), err)
}

// Sync makes the names in a folder durable: files made, renamed or removed.
func Sync(dir string) error {
	d, err := os.Open(dir)
	return sync(d, err, dir)
}

// SyncIn does that for a folder below root.
func SyncIn(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	return sync(d, err, filepath.Join(root.Name(), dir))
}

func sync(d *os.File, err error, dir string) error {
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
