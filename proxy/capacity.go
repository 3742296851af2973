package proxy

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A connection that reads slowly holds 125 KB here and as much in the kernel;
// the proxy may have an eighth of the machine at worst when all of them do.
const (
	memoryOfConnection = 512 << 10
	leastConnections   = 500
	mostConnections    = 20_000
	// Descriptors that a connection may need: its own, the upstream's, a
	// file's; and those that are needed besides.
	filesOfConnection = 3
	filesBeside       = 200
)

// connectionCapacity is how many connections fit the machine: 4000 on 2 GB.
// Zero is an unknown amount.
func connectionCapacity(memory, files uint64) int {
	n := uint64(4000)
	if memory > 0 {
		n = min(max(memory/memoryOfConnection, leastConnections), mostConnections)
	}
	if files > 0 {
		n = min(n, (max(files, filesBeside+100*filesOfConnection)-filesBeside)/filesOfConnection)
	}
	return int(n) //nolint:gosec // at most mostConnections
}

// machineCapacity is connectionCapacity here and now.
func machineCapacity() int {
	memory := uint64(0)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = info.Totalram * uint64(info.Unit)
	}
	if limit := controlGroupMemory("/proc/self/cgroup", "/sys/fs/cgroup"); limit > 0 && (memory == 0 || limit < memory) {
		memory = limit
	}
	files := uint64(0)
	var nofile unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &nofile) == nil {
		files = nofile.Cur
	}
	return connectionCapacity(memory, files)
}

// controlGroupMemory is the memory limit of this process's control group
// (version 2) or of one above it, whichever is least; 0: none.
func controlGroupMemory(self, root string) uint64 {
	text, err := os.ReadFile(self) //nolint:gosec // the kernel's own path
	if err != nil {
		return 0
	}
	least := uint64(0)
	for line := range strings.Lines(string(text)) {
		path, found := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !found {
			continue
		}
		for dir := filepath.Clean("/" + path); ; dir = filepath.Dir(dir) {
			data, err := os.ReadFile(filepath.Join(root, dir, "memory.max")) //nolint:gosec // the kernel's own path
			if err == nil {
				// "max" is no number and no limit.
				if n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil && (least == 0 || n < least) {
					least = n
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}
