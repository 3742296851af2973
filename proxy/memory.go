package proxy

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

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
	// How often the size of the heap is looked at.
	heapEvery = time.Second
)

// TuneMemory sets the garbage collector of this process for a proxy, until ctx
// ends: it collects less often than by default while there is little, and
// harder once a quarter of the machine's memory (at least 256 MiB) is used.
// GOGC and GOMEMLIMIT, when the environment has them, are left as they are.
func TuneMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(max(leastMemoryLimit, machineMemory()/4))
	}
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(mostGCPercent)
	go func() {
		tick := time.NewTicker(heapEvery)
		defer tick.Stop()
		for now := mostGCPercent; ; {
			select {
			case <-tick.C:
				now = followHeap(now)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// followHeap sets the percentage for the heap as it is, when it differs
// clearly from the one now: setting it stops the world for a moment.
func followHeap(now int) int {
	next := gcPercent(liveHeap())
	if next >= now*9/10 && next <= now*11/10 {
		return now
	}
	debug.SetGCPercent(next)
	return next
}

// liveHeap is what the last collection left, in bytes.
func liveHeap() uint64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if live[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return live[0].Value.Uint64()
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
