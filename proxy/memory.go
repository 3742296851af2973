package proxy

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"golang.org/x/sys/unix"
)

const (
	// While the heap is small, twice the default: 4 to 5 % less processor
	// time for a few MB.
	mostGCPercent = 200
	// Thousands of connections would make these few MB hundreds.
	leastGCPercent = 100
	// So much garbage is worth its processor time.
	garbage = 16 << 20
	// The heap of a proxy with a thousand connections is far below.
	leastMemoryLimit = 256 << 20
)

// TuneMemory sets the garbage collector of this process for a proxy: it
// collects less often than by default while there is little, and harder once a
// quarter of the machine's memory (at least 256 MiB) is used. GOGC and
// GOMEMLIMIT, when the environment has them, are left as they are.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(mostGCPercent)
		afterNextGC(mostGCPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(max(leastMemoryLimit, machineMemory()/4))
	}
}

// afterNextGC follows the size of the heap: an object that nobody holds is
// finalized after each collection.
func afterNextGC(now int) {
	type mark struct{ _ [64]byte } // one of its own, not a part of a block of tiny ones
	runtime.SetFinalizer(new(mark), func(*mark) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		next := now
		if live[0].Value.Kind() == metrics.KindUint64 {
			next = gcPercent(live[0].Value.Uint64())
		}
		// Setting it stops the world for a moment.
		if next < now*9/10 || next > now*11/10 {
			debug.SetGCPercent(next)
			now = next
		}
		afterNextGC(now)
	})
}

// gcPercent for a heap of so many live bytes.
func gcPercent(live uint64) int {
	if live == 0 {
		return mostGCPercent
	}
	return int(min(max(garbage*100/live, leastGCPercent), mostGCPercent)) //nolint:gosec // between 100 and 200
}

// machineMemory in bytes; 0 when the kernel does not say.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit) //nolint:gosec // no machine has 2^63 bytes
}
