package proxy

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 200, 1: 200, 8 << 20: 200, 10 << 20: 160, 16 << 20: 100, 1 << 30: 100, math.MaxUint64: 100} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes: %d %%, want %d", live, got, want)
		}
	}
}

// The collector follows the heap of the real process, up and down.
func TestTuneMemory(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) }()
	TuneMemory()
	if got := debug.SetMemoryLimit(-1); got < leastMemoryLimit || got == math.MaxInt64 {
		t.Errorf("memory limit %d", got)
	}
	// Asking for the percentage is setting it.
	is := func() int { p := debug.SetGCPercent(-1); debug.SetGCPercent(p); return p }
	held := make([][]byte, 0, 64)
	for range 64 {
		held = append(held, make([]byte, 1<<20))
	}
	until(t, "a large heap is collected as usual", func() bool { runtime.GC(); return is() == leastGCPercent })
	runtime.KeepAlive(held)
	held = nil
	until(t, "a small one less often", func() bool { runtime.GC(); return is() > leastGCPercent })
}
