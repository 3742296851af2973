package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarima/test/host"
)

// ticksPerSecond is the unit of times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that Linux runs on today (proc_pid_stat(5)).
const ticksPerSecond = 100

// processInfo is a line of the process table.
type processInfo struct {
	pid, parent int
	zombie      bool
	line        string // command line, parts separated by NUL
	// CPU seconds of its own, and of the children that it has waited for.
	cpu, childrenCPU float64
}

// processTable reads all processes. Those that end meanwhile are left out.
func processTable() (map[int]processInfo, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	table := map[int]processInfo{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			table[pid] = p
		}
	}
	return table, nil
}

func readProcess(pid int) (processInfo, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processInfo{}, err
	}
	// The name in brackets may hold anything: the fields begin behind the last one.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 15 {
		return processInfo{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var times [4]float64
	for i := range times {
		ticks, err := strconv.ParseFloat(fields[11+i], 64)
		if err != nil {
			return processInfo{}, err
		}
		times[i] = ticks / ticksPerSecond
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return processInfo{}, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return processInfo{}, err
	}
	return processInfo{pid: pid, parent: parent, zombie: fields[0] == "Z", line: string(line), cpu: times[0] + times[1], childrenCPU: times[2] + times[3]}, nil
}

// of says whether the command line names the folder or what lies in it.
func (p processInfo) of(root string) bool {
	return strings.Contains(p.line, root+"/") || strings.Contains(p.line, root+"\x00")
}

// having returns the processes that name a folder of ours, as those do that we
// start and the shims.
func having(root string) ([]processInfo, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	var found []processInfo
	for _, p := range table {
		if p.of(root) && !p.zombie && p.pid != os.Getpid() {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b processInfo) int { return a.pid - b.pid })
	return found, nil
}

// pss returns the proportional set size of a process in bytes: its private
// pages, and its share of those that others use too (proc_pid_smaps(5)).
func pss(pid int) (float64, error) {
	n, err := host.PSS(pid)
	return float64(n), err
}

// total adds up the PSS of processes.
func total(list []processInfo) (float64, error) {
	var sum float64
	for _, p := range list {
		one, err := pss(p.pid)
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", strings.ReplaceAll(p.line, "\x00", " "), err)
		}
		sum += one
	}
	return sum, nil
}

// openFiles counts the file descriptors of a process.
func openFiles(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries), err
}

// loadAverage is how many processes wanted to run in the last minute.
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(data))[0]
}

// inMemory mounts a tmpfs, once, where a host has /run: what does not outlive
// a reboot is never waited for there.
func inMemory(path string) error {
	mounts, err := mountsBelow(filepath.Dir(path))
	if err != nil || slices.Contains(mounts, path) {
		return err
	}
	if err := os.MkdirAll(path, 0o711); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0711,size=256m"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", path, err)
	}
	return nil
}

// wreck ends every process that names a folder of ours in its command line and
// what those started, unmounts what is mounted below, and removes the folder.
func wreck(root string) error {
	for range 50 {
		ours, err := below(root)
		if err != nil {
			return err
		}
		if len(ours) == 0 {
			break
		}
		for _, pid := range ours {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		time.Sleep(100 * time.Millisecond)
	}
	mounts, err := mountsBelow(root)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		_ = syscall.Unmount(m, syscall.MNT_DETACH) // an inner one may have taken it along
	}
	sum := sha256.Sum256([]byte(filepath.Join(root, "state", "engine")))
	removeCgroups("tarima-" + hex.EncodeToString(sum[:4])) // as the engine names them
	return os.RemoveAll(root)
}

// below returns the processes of a folder and their descendants.
func below(root string) ([]int, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	ours := map[int]bool{}
	for pid, p := range table {
		if !p.zombie && p.of(root) && pid != os.Getppid() { // who started us was given the folder too
			ours[pid] = true
		}
	}
	for grew := true; grew; {
		grew = false
		for pid, p := range table {
			if ours[p.parent] && !ours[pid] && !p.zombie {
				ours[pid], grew = true, true
			}
		}
	}
	delete(ours, os.Getpid())
	delete(ours, os.Getppid())
	var list []int
	for pid := range ours {
		list = append(list, pid)
	}
	return list, nil
}

func mountsBelow(root string) ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 4 && strings.HasPrefix(f[4], root+"/") {
			found = append(found, f[4])
		}
	}
	return found, lines.Err()
}

// removeCgroups removes the empty groups of that name in every hierarchy.
func removeCgroups(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		roots, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, root := range roots {
			var all []string
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(all) {
				_ = os.Remove(dir) // one with a process in it stays
			}
		}
	}
}

// poll waits until a condition holds.
func poll(patience time.Duration, what string, check func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s: not within %s", what, patience), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
