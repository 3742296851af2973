//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// destroy ends everything of the world, in order where that is possible, and
// removes its folder. It touches nothing that is not below the world's root.
func (w *world) destroy() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if w.daemon != nil && w.daemon.alive() {
		if err := w.client.StopSite(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "stop the site:", err)
		}
		w.daemon.kill(syscall.SIGTERM)
	}
	if w.proxy != nil && w.proxy.alive() {
		w.proxy.kill(syscall.SIGTERM)
	}
	w.wreck()
	if err := os.RemoveAll(w.root); err != nil {
		fmt.Fprintln(os.Stderr, "remove the world:", err)
	}
}

// wreck kills every process that belongs to the world (by its executable or
// command line below the root, and what those started) and takes its mounts
// away, as a reboot would.
func (w *world) wreck() {
	for range 50 {
		ours := w.processes()
		if len(ours) == 0 {
			break
		}
		for _, pid := range ours {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		time.Sleep(100 * time.Millisecond)
	}
	mounts := w.mounts()
	slices.Reverse(mounts)
	for _, m := range mounts {
		_ = syscall.Unmount(m, syscall.MNT_DETACH) // an inner one may have taken it along
	}
	// The namespaces went with their mounts, and the host's side of the network
	// goes with the tests' own namespace. The cgroups are left by a kill.
	all := w.cgroups()
	slices.Reverse(all)
	for _, dir := range all {
		_ = os.Remove(dir) // one with a process in it stays
	}
}

// processes of the world: the shims, by their executable below the root, and
// everything below them.
func (w *world) processes() []int {
	parents := map[int]int{}
	var roots []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		parents[pid], _ = strconv.Atoi(fields[1])
		if fields[0] == "Z" {
			continue
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), w.root+"/") || strings.Contains(string(line), w.root+"\x00") {
			roots = append(roots, pid)
		}
	}
	all := map[int]bool{}
	for _, pid := range roots {
		all[pid] = true
	}
	for grew := true; grew; {
		grew = false
		for pid, parent := range parents {
			if all[parent] && !all[pid] {
				all[pid], grew = true, true
			}
		}
	}
	var list []int
	for pid := range all {
		if pid != os.Getpid() {
			list = append(list, pid)
		}
	}
	return list
}

// mounts below the root, in the order of mounting.
func (w *world) mounts() []string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer file.Close()
	var found []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 4 && strings.HasPrefix(f[4], w.root+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

// cgroups of the world's containers: an engine whose root is not the usual one
// names them after its root.
func (w *world) cgroups() []string {
	sum := sha256.Sum256([]byte(filepath.Join(w.root, "state", "engine")))
	name := "tarima-" + hex.EncodeToString(sum[:4])
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		roots, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					found = append(found, path)
				}
				return nil
			})
		}
	}
	return found
}
