package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// cgroupsPath places a container's cgroup in the form that OCI runtimes take.
func (h *host) cgroupsPath(root, site, id string) string {
	if h.systemd {
		// slice:prefix:name gives the scope prefix-name.scope in that slice.
		return siteSlice(root, site) + ":" + root + ":" + id
	}
	return path.Join("/", root, site, id)
}

// cgroupFolder is the same place in the file system, below a hierarchy's top.
func (h *host) cgroupFolder(root, site, id string) string {
	if h.systemd {
		return path.Join(slicePath(siteSlice(root, site)), root+"-"+id+".scope")
	}
	return path.Join(root, site, id)
}

func siteSlice(root, site string) string { return root + "-" + site + ".slice" }

// slicePath tells where systemd puts a slice: a dash in its name stands for a
// level (systemd.slice(5)), so a-b.slice lies in a.slice.
func slicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	var levels []string
	for i, letter := range name {
		if letter == '-' {
			levels = append(levels, name[:i]+".slice")
		}
	}
	return path.Join(append(levels, slice)...)
}

// removeCgroups removes one cgroup from every hierarchy and kills what is in
// it. Of a scope it thereby also removes the unit: systemd sees its end.
func removeCgroups(ctx context.Context, name string) error {
	dirs, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", name))
	if err != nil {
		return err
	}
	if unified := filepath.Join("/sys/fs/cgroup", name); exists(unified) {
		dirs = append(dirs, unified)
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeCgroup(ctx, dir))
	}
	return errors.Join(errs...)
}

func removeCgroup(ctx context.Context, dir string) error {
	for range 100 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // systemd was quicker
		}
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
		for pid := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				_ = unix.Kill(n, unix.SIGKILL) // the next round sees whether it worked
			}
		}
		if !wait(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("cgroup %s is busy and stays", dir)
}

// removeEmptyCgroups removes the folders of sites without containers, and the
// one above them. The kernel refuses where there is still something inside.
func (h *host) removeEmptyCgroups(name string) {
	if h.systemd {
		h.stopEmptySlices(name)
		return
	}
	for _, pattern := range []string{"*/" + name + "/*", name + "/*", "*/" + name, name} {
		dirs, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", pattern))
		if err != nil {
			continue
		}
		for _, dir := range dirs {
			_ = unix.Rmdir(dir) // files of cgroups among them, which are no folders
		}
	}
}

// slicePatience bounds the wait for systemd to stop a slice without processes.
const slicePatience = 5 * time.Second

// stopEmptySlices stops the slices of sites without containers, and the one
// above them, which systemd would keep until the machine ends. What cannot be
// stopped stays, and the next engine finds it in its place.
func (h *host) stopEmptySlices(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), slicePatience)
	defer cancel()
	top := slicePath(name + ".slice")
	var slices []string
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd"} { // v2, v1
		dirs, err := filepath.Glob(filepath.Join(hierarchy, top, name+"-*.slice"))
		if err != nil {
			continue
		}
		for _, dir := range append(dirs, filepath.Join(hierarchy, top)) {
			if emptyCgroup(dir) {
				slices = append(slices, filepath.Base(dir))
			}
		}
	}
	if len(slices) == 0 {
		return
	}
	bus, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return
	}
	defer bus.Close()
	for _, slice := range slices {
		done := make(chan string, 1)
		// Without "replace": a start that is under way wins.
		if _, err := bus.StopUnitContext(ctx, slice, "fail", done); err != nil {
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// emptyCgroup says whether there is such a cgroup and no process in it or
// below it.
func emptyCgroup(dir string) bool {
	empty := true
	found := false
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		found = true
		text, err := os.ReadFile(file)
		empty = empty && len(text) == 0
		return err
	})
	return err == nil && found && empty
}
