// Package ratelimit bounds how often one address may ask. It remembers 131,072
// addresses in one megabyte that never grows.
package ratelimit

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	slots   = 1 << 17
	ways    = 4
	sets    = slots / ways
	stripes = 256

	// MaxSpan bounds Burst times Every of a limit: a slot keeps its time in 32
	// bits of milliseconds, half of which are the past.
	MaxSpan = 7 * 24 * time.Hour

	// sweepEvery is well before a time of the past could be read as one to
	// come, which is after 2^31 ms (24 days).
	sweepEvery = 3 * 24 * time.Hour
)

// Limit is a budget: Burst requests at once, after that one in each Every.
// Burst is at least 1, Every at least a millisecond, and both together at most
// [MaxSpan].
type Limit struct {
	Burst int
	Every time.Duration
}

// seed of this process: nobody outside can foresee which addresses share a set.
var seed = maphash.MakeSeed()

// Bucket tells budgets of one address apart. See [BucketOf].
type Bucket uint64

// BucketOf names a budget, such as by host and limit. It holds for the life of
// the process. Names do not collide in practice: a bucket is 64 bits of a keyed
// hash.
func BucketOf(names ...string) Bucket {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, n := range names {
		_, _ = h.WriteString(n) // it cannot fail
		_ = h.WriteByte(0)
	}
	return Bucket(h.Sum64())
}

// Table counts by the generic cell rate algorithm (ITU-T I.371): a slot holds
// the time at which its budget would be full again. A slot is 32 bits of the
// key's hash and 32 bits of that time; four slots make a set, in which the one
// that is full soonest makes place for a new address. It is safe for several
// goroutines, and exact among them.
type Table struct {
	start time.Time
	swept atomic.Int64 // when, in ms since start

	locks [stripes]stripe
	slots [sets][ways]slot
}

// stripe is a lock in a cache line of its own.
type stripe struct {
	sync.Mutex
	_ [56]byte
}

// slot is empty when tag is 0.
type slot struct {
	tag  uint32
	full uint32 // ms since start, modulo 2^32
}

// New makes an empty table.
func New() *Table { return &Table{start: time.Now()} }

// Allow takes one request, which came now, of an address from a budget. When that is spent it
// takes nothing, and returns after which time the next one is allowed. IPv6
// addresses count by their /64, which is the least that a visitor has; an
// invalid address, as of a unix socket, is one address too.
func (t *Table) Allow(now time.Time, b Bucket, addr netip.Addr, l Limit) (ok bool, wait time.Duration) {
	return t.take(t.since(now), b, addr, l, true)
}

// Peek is Allow without taking anything.
func (t *Table) Peek(now time.Time, b Bucket, addr netip.Addr, l Limit) (ok bool, wait time.Duration) {
	return t.take(t.since(now), b, addr, l, false)
}

// since is ms of the table's life: the clock of the wall does not matter.
func (t *Table) since(now time.Time) int64 { return now.Sub(t.start).Milliseconds() }

func (t *Table) take(now int64, b Bucket, addr netip.Addr, l Limit, spend bool) (bool, time.Duration) {
	if now-t.swept.Load() > sweepEvery.Milliseconds() {
		t.sweep(now)
	}
	every := max(1, l.Every.Milliseconds())
	span := min(int64(max(1, l.Burst)), MaxSpan.Milliseconds()/every) * every

	set, tag := place(b, addr)
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	victim, oldest := 0, int64(math.MaxInt64)
	s := &t.slots[set]
	left := int64(0) // until the budget is full again
	for i := range s {
		until := int64(int32(s[i].full - uint32(now))) //nolint:gosec // modulo 2^32 on purpose
		if s[i].tag == tag {
			victim, left = i, max(0, until)
			break
		}
		if s[i].tag == 0 {
			until = math.MinInt32 - 1 // an empty slot is older than any
		}
		if until < oldest {
			victim, oldest = i, until
		}
	}
	if over := left + every - span; over > 0 {
		return false, time.Duration(over) * time.Millisecond
	}
	if spend {
		s[victim] = slot{tag, uint32(now + left + every)} //nolint:gosec // modulo 2^32 on purpose
	}
	return true, 0
}

// place returns the set and the tag of a budget of an address.
func place(b Bucket, addr netip.Addr) (set uint64, tag uint32) {
	var key [17]byte
	binary.LittleEndian.PutUint64(key[:], uint64(b))
	switch addr = addr.Unmap(); {
	case addr.Is4():
		a := addr.As4()
		copy(key[8:], a[:])
		key[16] = 4
	case addr.Is6():
		a := addr.As16()
		copy(key[8:16], a[:8])
		key[16] = 6
	}
	h := maphash.Bytes(seed, key[:])
	tag = uint32(h) //nolint:gosec // the lower half
	if tag == 0 {
		tag = 1
	}
	return (h >> 32) % sets, tag
}

// sweep empties the slots whose budget is full, before their times wrap.
func (t *Table) sweep(now int64) {
	last := t.swept.Load()
	if now-last <= sweepEvery.Milliseconds() || !t.swept.CompareAndSwap(last, now) {
		return // another goroutine does it
	}
	// Nobody came for so long that the times cannot be read any more: all of
	// them are past.
	stale := now-last >= math.MaxInt32-MaxSpan.Milliseconds()
	for set := range t.slots {
		lock := &t.locks[set%stripes]
		lock.Lock()
		for i := range t.slots[set] {
			s := &t.slots[set][i]
			if stale || int32(s.full-uint32(now)) <= 0 { //nolint:gosec // modulo 2^32 on purpose
				*s = slot{}
			}
		}
		lock.Unlock()
	}
}
