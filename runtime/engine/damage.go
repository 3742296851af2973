package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// databases that belong together: each means nothing without the other.
var databases = []string{
	"io.containerd.metadata.v1.bolt/meta.db",
	"io.containerd.snapshotter.v1.overlayfs/metadata.db",
}

// checkDatabases looks at containerd's own databases before they are opened:
// on damaged pages they panic in goroutines of their own, which would end the
// daemon again and again.
func checkDatabases(root string, check func(path string) error) error {
	if check == nil {
		return nil
	}
	// Each plugin keeps its database right below its folder.
	found, err := filepath.Glob(filepath.Join(root, "io.containerd.*", "*.db"))
	if err != nil {
		return err
	}
	for _, path := range found {
		err := check(path)
		var unreadable *fs.PathError
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case errors.As(err, &unreadable):
			return fmt.Errorf("look at containerd's database: %w", err)
		default:
			return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
		}
	}
	return checkPair(root)
}

// checkPair finds that one of the databases is missing or was emptied, which a
// check of each alone takes for a beginning.
func checkPair(root string) error {
	var present, absent []string
	for _, name := range databases {
		path := filepath.Join(root, name)
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			present = append(present, path)
		} else if !unused(path) {
			absent = append(absent, path)
		}
	}
	if len(present) > 0 && len(absent) > 0 {
		return fmt.Errorf("%w: %s is missing or empty", ErrDamaged, absent[0])
	}
	return nil
}

// unused says whether a missing database was never made: that of the
// snapshotter is made with the first snapshot, while its folder for them is
// there from the start. A process that ended during its first download has
// damaged nothing.
func unused(database string) bool {
	if _, err := os.Stat(database); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	entries, err := os.ReadDir(filepath.Join(filepath.Dir(database), "snapshots"))
	return err == nil && len(entries) == 0
}

// guarded runs something that reads databases; a panic, as they make one of
// inner damage, becomes ErrDamaged.
func guarded(do func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, cause)
		}
	}()
	return do()
}
