package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// writeDurably puts what fill writes in place of the file at path: all of it or
// nothing, also over a power cut. check, if any, looks at the finished file
// before it gets its name.
func writeDurably(path string, fill func(io.Writer) error, check func(temp string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return classify(err)
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil && check != nil {
		err = check(f.Name())
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return classify(errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(dir)
}

// syncDir makes names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return classify(fmt.Errorf("sync %s: %w", dir, err))
	}
	return nil
}

// copyFile copies a file durably.
func copyFile(from, to string, check func(temp string) error) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return writeDurably(to, func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err
	}, check)
}
