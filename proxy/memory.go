package proxy

import (
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

const (
	// Twice the default: 4 to 5 % less processor time for a few MB.
	gcPercent = 200
	// The heap of a proxy with a thousand connections is far below.
	leastMemoryLimit = 256 << 20
)

// TuneMemory sets the garbage collector of this process for a proxy: it
// collects less often than by default, and harder once a quarter of the
// machine's memory (at least 256 MiB) is used. GOGC and GOMEMLIMIT, when the
// environment has them, are left as they are.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(max(leastMemoryLimit, machineMemory()/4))
	}
}

// machineMemory in bytes; 0 when the kernel does not say.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit) //nolint:gosec // no machine has 2^63 bytes
}
