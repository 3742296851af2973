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
	// Fewer bytes than this in heapEvery are a quiet moment, some hundred
	// requests: a collection is in nobody's way.
	quietAllocation = 1 << 20
	// So much is worth a collection in a quiet moment.
	worthCollecting = 4 << 20
)

// TuneMemory sets the garbage collector of this process for a proxy, until ctx
// ends: it collects less often than by default while there is little, and
// harder once a quarter of the machine's memory (at least 256 MiB) is used. In
// quiet moments what handshakes and requests left goes back to the machine.
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
		before := readHeap()
		for now := mostGCPercent; ; {
			select {
			case <-tick.C:
				h := readHeap()
				now = followHeap(now, h.live)
				if h.wasted(before) {
					debug.FreeOSMemory()
					h = readHeap()
				}
				before = h
			case <-ctx.Done():
				return
			}
		}
	}()
}

// followHeap sets the percentage for the live heap as it is, when it differs
// clearly from the one now: setting it stops the world for a moment.
func followHeap(now int, live uint64) int {
	next := gcPercent(live)
	if next >= now*9/10 && next <= now*11/10 {
		return now
	}
	debug.SetGCPercent(next)
	return next
}

// heap of this process, in bytes.
type heap struct {
	live      uint64 // what the last collection left
	objects   uint64 // live or not yet collected
	free      uint64 // kept for objects to come
	allocated uint64 // since the start
}

func readHeap() heap {
	all := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(all)
	value := func(i int) uint64 {
		if all[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return all[i].Value.Uint64()
	}
	return heap{live: value(0), objects: value(1), free: value(2), allocated: value(3)}
}

// wasted says whether this is a quiet moment and memory is kept that the
// machine could have: a thousand connections that wait for their next request
// keep half as much again of their handshakes.
func (h heap) wasted(before heap) bool {
	return h.allocated-before.allocated < quietAllocation && h.objects+h.free > h.live+worthCollecting
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
