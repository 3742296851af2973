package openedx

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"tarima/store/durable"
)

// Materialise puts a plan's files and folders on disk. Files are replaced one
// by one, each in one step (a temporary file, synced, renamed, its folder
// synced); one that holds the right bytes already is not touched. Folders of
// data are made when they are missing and never emptied; of one that is there
// only owner and mode are set, never those of what is in it. Files below the
// configuration folder that the plan does not name are removed.
//
// The configuration folder holds secrets under owners of containers, so it is
// kept behind a folder that root alone may enter: both base folders must exist
// or are made with mode 0700, and their own mode is left alone.
func Materialise(p Plan) error {
	for _, base := range []string{p.Dirs.Config, p.Dirs.Data} {
		if !filepath.IsAbs(base) {
			return fmt.Errorf("%w: folder %q is not absolute", ErrConfig, base)
		}
		if err := os.MkdirAll(base, 0o700); err != nil {
			return fmt.Errorf("make the site's folder: %w", err)
		}
	}
	config, err := os.OpenRoot(p.Dirs.Config)
	if err != nil {
		return fmt.Errorf("open the folder of settings: %w", err)
	}
	defer config.Close()
	for _, d := range p.ConfigDirs {
		if err := makeDir(config, d); err != nil {
			return err
		}
	}
	for _, f := range p.Files {
		if err := writeFile(config, f); err != nil {
			return err
		}
	}
	if err := removeOthers(config, p); err != nil {
		return err
	}

	data, err := os.OpenRoot(p.Dirs.Data)
	if err != nil {
		return fmt.Errorf("open the folder of data: %w", err)
	}
	defer data.Close()
	for _, d := range p.DataDirs {
		if err := makeDir(data, d); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a folder and its parents, or sets owner and mode of one that
// is there.
func makeDir(root *os.Root, d Dir) error {
	where := filepath.Join(root.Name(), d.Path)
	if parent := filepath.Dir(d.Path); parent != "." {
		// Parents that the plan does not name only lead the way.
		if err := root.MkdirAll(parent, 0o711); err != nil {
			return fmt.Errorf("make folder %s: %w", where, err)
		}
	}
	err := root.Mkdir(d.Path, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder %s: %w", where, err)
	}
	made := err == nil
	info, err := root.Lstat(d.Path)
	switch {
	case err != nil:
		return fmt.Errorf("make folder %s: %w", where, err)
	case !info.IsDir():
		return fmt.Errorf("make folder %s: something else has that name; move it away", where)
	}
	if made || !owned(info, d.UID, d.GID) {
		if err := root.Lchown(d.Path, d.UID, d.GID); err != nil {
			return fmt.Errorf("give folder %s to its user %d: %w", where, d.UID, err)
		}
	}
	if info.Mode().Perm() != fs.FileMode(d.Mode) {
		if err := root.Chmod(d.Path, fs.FileMode(d.Mode)); err != nil {
			return fmt.Errorf("set the mode of folder %s: %w", where, err)
		}
	}
	if made {
		return durable.SyncIn(root, filepath.Dir(d.Path))
	}
	return nil
}

func owned(info fs.FileInfo, uid, gid int) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == uid && int(s.Gid) == gid
}

// writeFile replaces one file, unless it is there as it should be. What a crash
// leaves beside it has a name that no plan has, and is removed by the next run.
func writeFile(root *os.Root, f File) error {
	if same(root, f) {
		return nil
	}
	return durable.File{Mode: fs.FileMode(f.Mode), Owner: &durable.Owner{UID: f.UID, GID: f.GID}}.WriteIn(root, f.Path, f.Content)
}

// same says whether the file is there as it should be.
func same(root *os.Root, f File) bool {
	info, err := root.Lstat(f.Path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != fs.FileMode(f.Mode) ||
		info.Size() != int64(len(f.Content)) || !owned(info, f.UID, f.GID) {
		return false
	}
	have, err := root.ReadFile(f.Path)
	return err == nil && bytes.Equal(have, f.Content)
}

// removeOthers removes what an earlier plan left below the configuration
// folder: settings of services that are gone, and their secrets.
func removeOthers(root *os.Root, p Plan) error {
	keep := map[string]bool{".": true}
	for _, f := range p.Files {
		keep[f.Path] = true
	}
	for _, d := range p.ConfigDirs {
		for path := d.Path; path != "."; path = filepath.Dir(path) {
			keep[path] = true
		}
	}
	var stale []string
	err := fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !keep[path] {
			stale = append(stale, path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for settings that are no longer used: %w", err)
	}
	slices.Reverse(stale) // contents before their folders
	for _, path := range stale {
		if err := root.RemoveAll(path); err != nil {
			return fmt.Errorf("remove %s, which is no longer used: %w", filepath.Join(root.Name(), path), err)
		}
	}
	return nil
}
