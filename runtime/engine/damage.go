package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// checkDatabases looks at containerd's own databases before they are opened:
// on damaged pages they panic in goroutines of their own, which would end the
// daemon again and again.
func checkDatabases(root string, check func(path string) error) error {
	if check == nil {
		return nil
	}
	// Each plugin keeps its database right below its folder.
	databases, err := filepath.Glob(filepath.Join(root, "io.containerd.*", "*.db"))
	if err != nil {
		return err
	}
	for _, path := range databases {
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
	return nil
}
