package proxy

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 200, 1: 200, 8 << 20: 200, 10 << 20: 160, 16 << 20: 100, 1 << 30: 100, math.MaxUint64: 100} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes: %d %%, want %d", live, got, want)
		}
	}
}

// What is kept without need goes back in a quiet moment alone, and when it is
// worth it.
func TestWasted(t *testing.T) {
	const mega = 1 << 20
	before := heap{allocated: 100 * mega}
	for _, c := range []struct {
		what string
		now  heap
		want bool
	}{
		{"nothing to be had", heap{live: 20 * mega, objects: 21 * mega, free: 2 * mega, allocated: 100 * mega}, false},
		{"garbage", heap{live: 20 * mega, objects: 25 * mega, allocated: 100 * mega}, true},
		{"freed, not given back", heap{live: 20 * mega, objects: 20 * mega, free: 5 * mega, allocated: 100 * mega}, true},
		{"garbage under load", heap{live: 20 * mega, objects: 40 * mega, allocated: 101 * mega}, false},
		{"the first seconds", heap{objects: 3 * mega, allocated: 100 * mega}, false},
	} {
		if got := c.now.wasted(before); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// Garbage that no collection would come for is collected once it is quiet.
func TestMemoryGoesBack(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) }()
	held := make([]byte, 64<<20) // the next collection by itself is as far away
	runtime.GC()
	TuneMemory(t.Context())
	for i := range 32 {
		held[i] = make([]byte, 1<<20)[0]
	}
	if h := readHeap(); h.objects < h.live+24<<20 {
		t.Fatalf("no garbage: %d bytes, %d live", h.objects, h.live)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if h := readHeap(); h.objects+h.free <= h.live+worthCollecting {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the garbage of a quiet process stays")
		}
		<-time.After(10 * time.Millisecond)
	}
	runtime.KeepAlive(held)
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
	if now := followHeap(mostGCPercent, readHeap().live); now != leastGCPercent || is() != now {
		t.Errorf("with a large heap %d %%, set %d %%", now, is())
	}
	runtime.KeepAlive(held)
	if now := followHeap(mostGCPercent+100, readHeap().live); now != leastGCPercent {
		t.Errorf("down to %d %%", now)
	}
	runtime.GC() // without it
	if want := gcPercent(readHeap().live); want > leastGCPercent*11/10 {
		if now := followHeap(leastGCPercent, readHeap().live); now != want || is() != now {
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
