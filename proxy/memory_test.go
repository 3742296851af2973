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
	// Asking for the percentage is setting it.
	is := func() int { p := debug.SetGCPercent(-1); debug.SetGCPercent(p); return p }
	TuneMemory(t.Context())
	if got := debug.SetMemoryLimit(-1); got < leastMemoryLimit || got == math.MaxInt64 {
		t.Errorf("memory limit %d", got)
	}
	if is() != mostGCPercent {
		t.Errorf("in the beginning %d %%", is())
	}
	held := make([]byte, 64<<20)
	runtime.GC()
	if now := followHeap(mostGCPercent); now != leastGCPercent || is() != now {
		t.Errorf("with a large heap %d %%, set %d %%", now, is())
	}
	runtime.KeepAlive(held)
	if now := followHeap(mostGCPercent + 100); now != leastGCPercent {
		t.Errorf("down to %d %%", now)
	}
	runtime.GC() // without it
	if want := gcPercent(liveHeap()); want > leastGCPercent*11/10 {
		if now := followHeap(leastGCPercent); now != want || is() != now {
			t.Errorf("with a small heap %d %%, set %d %%, want %d %%", now, is(), want)
		}
	}
	t.Setenv("GOGC", "50")
	debug.SetGCPercent(50)
	TuneMemory(t.Context())
	if is() != 50 {
		t.Errorf("the environment's GOGC was overruled with %d %%", is())
	}
}
