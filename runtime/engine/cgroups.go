package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// removeCgroups removes one cgroup from every hierarchy and kills what is in
// it.
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
func removeEmptyCgroups(name string) {
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
