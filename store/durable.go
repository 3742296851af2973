package store

import (
	"io"
	"os"

	"tarima/store/durable"
)

// writeDurably puts what fill writes in place of the file at path. check, if
// any, looks at the finished file before it gets its name.
func writeDurably(path string, fill func(io.Writer) error, check func(temp string) error) error {
	return classify(durable.File{Check: check}.Fill(path, fill))
}

// syncDir makes names in a folder durable.
func syncDir(dir string) error { return classify(durable.Sync(dir)) }

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
