package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tarima/store/record"
	"tarima/supervisor/control"
)

// asideMark stands between the name of the engine's root and the time at which
// it was found damaged and moved aside.
const (
	asideMark   = ".damaged-"
	asideLayout = "20060102T150405.000000Z"
)

// keepDamaged is how long the newest damaged root is kept: for whoever wants to
// know what happened. What lies there can be had again from a registry.
const keepDamaged = 7 * 24 * time.Hour

// aside is an engine root that was damaged and moved aside.
type aside struct {
	path string
	at   time.Time
}

func (p paths) engineRoot() string { return filepath.Join(p.State, "engine") }

// asideName is where a damaged root goes.
func asideName(root string, at time.Time) string {
	return root + asideMark + at.UTC().Format(asideLayout)
}

// listAside returns the damaged roots, newest first. Folders whose names say no
// time were not made by this program and are left alone.
func listAside(root string) []aside {
	found, _ := filepath.Glob(root + asideMark + "*") // the pattern is always well formed
	var out []aside
	for _, path := range found {
		if at, err := time.Parse(asideLayout, strings.TrimPrefix(path, root+asideMark)); err == nil {
			out = append(out, aside{path, at})
		}
	}
	slices.SortFunc(out, func(a, b aside) int { return b.at.Compare(a.at) })
	return out
}

// expendable says why the i-th newest may go; "": it may not.
func expendable(all []aside, i int, now time.Time) string {
	switch {
	case i > 0:
		return "a newer one is kept"
	case now.Sub(all[i].at) > keepDamaged:
		return "it was kept for a week"
	}
	return ""
}

// dropDamaged deletes damaged engine roots that are not kept any longer, now and
// once a day, until ctx ends.
func (a *appliance) dropDamaged(ctx context.Context) {
	tick := time.NewTicker(24 * time.Hour)
	defer tick.Stop()
	for {
		a.dropDamagedNow(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *appliance) dropDamagedNow(now time.Time) {
	all := listAside(a.paths.engineRoot())
	for i, one := range all {
		why := expendable(all, i, now)
		if why == "" {
			continue
		}
		size, err := sizeOf(one.path)
		if err == nil {
			err = removeTree(one.path)
		}
		if err != nil {
			a.log.Error("a damaged engine root cannot be deleted; delete it by hand", "path", one.path, "error", err)
			continue
		}
		a.log.Info("a damaged engine root was deleted", "path", one.path, "bytes", size, "why", why)
		a.tell(record.Cleaned, fmt.Sprintf("the damaged engine root %s (%s) was deleted: %s", one.path, bytesText(size), why))
	}
}

// removeTree deletes a folder into which nothing is mounted: what is mounted
// there is not ours to delete.
func removeTree(path string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		// The fifth field is the mount point, proc_pid_mountinfo(5).
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4]+"/", path+"/") {
			return fmt.Errorf("something is mounted at %s", f[4])
		}
	}
	return os.RemoveAll(path)
}

// sizeOf is the space on disk of all files below a folder, in bytes.
func sizeOf(path string) (int64, error) {
	var sum int64
	twice := map[uint64]bool{} // inodes with several names count once
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok || s.Nlink > 1 && !d.IsDir() && twice[s.Ino] {
			return nil
		}
		twice[s.Ino] = s.Nlink > 1
		sum += s.Blocks * 512 // the unit of st_blocks, stat(3type)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", path, err)
	}
	return sum, nil
}

// examineDamaged says which damaged engine roots lie on the disk.
func examineDamaged(root string) []control.Finding {
	var findings []control.Finding
	for _, one := range listAside(root) {
		size, err := sizeOf(one.path)
		space := bytesText(size)
		if err != nil {
			space = "of unknown size: " + err.Error()
		}
		findings = append(findings, finding("ENGINE-DAMAGED", levelInfo, fmt.Sprintf(
			"%s (%s) is an engine root that was damaged; the daemon deletes it after %s, and you may do so at any time",
			one.path, space, one.at.Add(keepDamaged).Format(time.DateOnly)), ""))
	}
	return findings
}
