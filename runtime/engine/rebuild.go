package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The root is a cache: when a power cut, a full disk or a careless hand has
// broken its databases it is put aside and begun anew. The images are then
// pulled or loaded again, and the containers made again from their specs.

// databases of the root, below it.
var databases = []string{
	"io.containerd.metadata.v1.bolt/meta.db",
	"io.containerd.snapshotter.v1.overlayfs/metadata.db",
}

// asidePrefix begins the names of roots that were put aside.
const asidePrefix = "broken-"

// kept are entries of the root that do not depend on the databases.
var kept = []string{"lock", "bin", "logs"}

// errBroken means that a database cannot be used.
var errBroken = errors.New("database is broken")

// checkRoot finds databases that would end this process: one that was cut off
// is mapped into memory as if it were whole, and reading beyond its end is a
// fault that no program survives.
func checkRoot(root string) error {
	missing, present := "", false
	for _, name := range databases {
		path := filepath.Join(root, name)
		err := checkDatabase(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = path
		case err != nil:
			return err
		default:
			present = true
		}
	}
	// Each of them means nothing without the other.
	if missing != "" && present && !unused(missing) {
		return fmt.Errorf("%w: %s is missing", errBroken, missing)
	}
	return nil
}

// unused says whether a missing database was never made: that of the
// snapshotter is made with the first snapshot, while its folder for them is
// there from the start. A process that ended during its first download has
// nothing broken.
func unused(database string) bool {
	entries, err := os.ReadDir(filepath.Join(filepath.Dir(database), "snapshots"))
	return err == nil && len(entries) == 0
}

// guarded runs something that reads databases; a panic, as they make one of
// inner damage, becomes errBroken.
func guarded(do func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%w: %v", errBroken, cause)
		}
	}()
	return do()
}

// setAside moves what depends on the databases out of the way.
func setAside(root string) error {
	aside := filepath.Join(root, asidePrefix+time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return fmt.Errorf("putting the broken engine root aside: %w", err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("putting the broken engine root aside: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if keeps(entry.Name()) {
			continue
		}
		errs = append(errs, os.Rename(filepath.Join(root, entry.Name()), filepath.Join(aside, entry.Name())))
	}
	return errors.Join(errs...)
}

func keeps(name string) bool {
	for _, entry := range kept {
		if name == entry {
			return true
		}
	}
	return strings.HasPrefix(name, asidePrefix)
}

// removeAside removes roots that were put aside, when nothing runs from them
// any more.
func removeAside(root string) error {
	found, err := filepath.Glob(filepath.Join(root, asidePrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range found {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// Rebuilt says why the engine's root was begun anew at Open, or "": images
// must then be pulled or loaded again, and containers started again.
func (e *Engine) Rebuilt() string { return e.rebuilt }
