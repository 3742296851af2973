package ratelimit

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

func addr4(i uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], i)
	return netip.AddrFrom4(a)
}

// exact keeps one budget as the definition says: tokens that come back.
type exact struct {
	limit Limit
	full  time.Time
}

func (e *exact) allow(now time.Time) (bool, time.Duration) {
	full := e.full
	if full.Before(now) {
		full = now
	}
	full = full.Add(e.limit.Every)
	if over := full.Sub(now) - time.Duration(e.limit.Burst)*e.limit.Every; over > 0 {
		return false, over
	}
	e.full = full
	return true, 0
}

// TestExact compares the table with the definition over random limits,
// addresses and pauses, months among them.
func TestExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := New()
		now := table.start
		limits := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) Limit {
			every := time.Duration(rapid.Int64Range(1, 24*3600*1000).Draw(rt, "every")) * time.Millisecond
			if rapid.Bool().Draw(rt, "short") {
				every = min(every, 2*time.Second)
			}
			return Limit{Burst: rapid.IntRange(1, int(min(100, MaxSpan/every))).Draw(rt, "burst"), Every: every}
		}), 1, 3).Draw(rt, "limits")
		type key struct {
			limit int
			addr  uint32
		}
		model := map[key]*exact{}
		for range rapid.IntRange(1, 150).Draw(rt, "requests") {
			switch rapid.IntRange(0, 9).Draw(rt, "pause") {
			case 0:
				now = now.Add(time.Duration(rapid.Int64Range(1, 90*24*3600*1000).Draw(rt, "days")) * time.Millisecond)
			case 1, 2, 3:
				now = now.Add(time.Duration(rapid.Int64Range(1, 3000).Draw(rt, "ms")) * time.Millisecond)
			}
			k := key{rapid.IntRange(0, len(limits)-1).Draw(rt, "limit"), rapid.Uint32Range(1, 5).Draw(rt, "address")}
			e := model[k]
			if e == nil {
				e = &exact{limit: limits[k.limit]}
				model[k] = e
			}
			bucket := BucketOf("host", fmt.Sprint(k.limit))
			peeked, _ := table.Peek(now, bucket, addr4(k.addr), e.limit)
			ok, wait := table.Allow(now, bucket, addr4(k.addr), e.limit)
			wantOK, wantWait := e.allow(now)
			if ok != wantOK || wait != wantWait || peeked != ok {
				rt.Fatalf("%+v of %+v: got %v (wait %s, peeked %v), want %v (wait %s)", k, e.limit, ok, wait, peeked, wantOK, wantWait)
			}
		}
	})
}

// TestWaitIsEnough: after the time that was told, and not a moment sooner, one
// more request is allowed.
func TestWaitIsEnough(t *testing.T) {
	table, login := New(), Limit{Burst: 60, Every: 2 * time.Second}
	now := table.start
	b, a := BucketOf("lms", "login"), addr4(1)
	for i := range 60 {
		if ok, _ := table.Allow(now, b, a, login); !ok {
			t.Fatalf("request %d of 60 was refused", i+1)
		}
	}
	for range 3 {
		ok, wait := table.Allow(now, b, a, login)
		if ok || wait != 2*time.Second {
			t.Fatalf("61st request: %v, wait %s", ok, wait)
		}
		now = now.Add(wait - time.Millisecond)
		if ok, _ := table.Allow(now, b, a, login); ok {
			t.Fatal("allowed too soon")
		}
		now = now.Add(time.Millisecond)
		if ok, _ := table.Allow(now, b, a, login); !ok {
			t.Fatal("refused after the time that was told")
		}
	}
}

// TestTimeWraps uses one budget up shortly before the 32 bits of its time are
// over, and in the moment when an old time could be read as one to come.
func TestTimeWraps(t *testing.T) {
	const wrap = (1 << 32) * time.Millisecond
	for _, before := range []time.Duration{wrap - time.Second, wrap/2 - time.Second, wrap/2 + time.Second, wrap + wrap/2, 3*wrap - 500*time.Millisecond} {
		table, limit := New(), Limit{Burst: 3, Every: time.Second}
		now := table.start
		b := BucketOf("x")
		table.Allow(now, b, addr4(9), Limit{Burst: 1, Every: 24 * time.Hour}) // one that grows old
		now = now.Add(before)
		for i := range 5 {
			if ok, _ := table.Allow(now, b, addr4(1), limit); ok != (i < 3) {
				t.Errorf("%s, request %d: %v", before, i+1, ok)
			}
		}
		now = now.Add(2 * time.Second)
		for i := range 3 {
			if ok, _ := table.Allow(now, b, addr4(1), limit); ok != (i < 2) {
				t.Errorf("%s and two seconds, request %d: %v", before, i+1, ok)
			}
		}
		if ok, _ := table.Allow(now, b, addr4(9), Limit{Burst: 1, Every: 24 * time.Hour}); !ok {
			t.Errorf("%s: an address is refused for what it did then", before)
		}
	}
}

// TestAddresses: IPv4 addresses one by one, IPv6 by their /64, an IPv4 address
// in IPv6 clothes as itself.
func TestAddresses(t *testing.T) {
	same := func(a, b string) bool {
		table, once := New(), Limit{Burst: 1, Every: time.Hour}
		parse := func(s string) netip.Addr {
			if s == "" {
				return netip.Addr{}
			}
			return netip.MustParseAddr(s)
		}
		table.Allow(time.Now(), BucketOf("x"), parse(a), once)
		ok, _ := table.Allow(time.Now(), BucketOf("x"), parse(b), once)
		return !ok
	}
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
		{"192.0.2.1", "c000:201::", false},
		{"", "", true},
		{"", "::", false},
	} {
		if got := same(c.a, c.b); got != c.same {
			t.Errorf("%q and %q share a budget: %v", c.a, c.b, got)
		}
	}
	table, once := New(), Limit{Burst: 1, Every: time.Hour}
	table.Allow(time.Now(), BucketOf("a", "b"), addr4(1), once)
	if ok, _ := table.Allow(time.Now(), BucketOf("ab"), addr4(1), once); !ok {
		t.Error("two names share a budget")
	}
}

// TestConcurrent: many goroutines together get what the budget has, no more.
func TestConcurrent(t *testing.T) {
	table, limit := New(), Limit{Burst: 100, Every: time.Hour}
	b := BucketOf("x")
	var allowed atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 400 {
				if ok, _ := table.Allow(time.Now(), b, addr4(uint32(i%2)), limit); ok {
					allowed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := allowed.Load(); n != 200 {
		t.Errorf("%d requests were allowed, want 200", n)
	}
}

// TestCrowd: 100,000 addresses in less than 2 MB, nearly all of whom are
// remembered; when a million come, it is the oldest that are forgotten.
func TestCrowd(t *testing.T) {
	if size := unsafe.Sizeof(Table{}); size > 2<<20 {
		t.Errorf("the table has %d bytes", size)
	}
	table, once := New(), Limit{Burst: 1, Every: time.Hour}
	b := BucketOf("x")
	for i := range uint32(100_000) {
		table.Allow(time.Now(), b, addr4(i), once)
	}
	refused := 0
	for i := range uint32(100_000) {
		if ok, _ := table.Peek(time.Now(), b, addr4(i), once); !ok {
			refused++
		}
	}
	// At three quarters full, a set of four overflows now and then.
	if refused < 85_000 {
		t.Errorf("only %d of 100,000 addresses are remembered", refused)
	}
	for i := range uint32(1_000_000) {
		table.Allow(time.Now(), b, addr4(1<<24+i), once)
	}
	if ok, _ := table.Peek(time.Now(), b, addr4(1<<24+999_999), once); ok {
		t.Error("the newest address is forgotten")
	}
}

// TestOldestGoes fills one set beyond its places: the budget that is full
// soonest is the one that is forgotten.
func TestOldestGoes(t *testing.T) {
	table := New()
	b := BucketOf("x")
	set, _ := place(b, addr4(0))
	var together []netip.Addr
	for i := uint32(0); len(together) < ways+1; i++ {
		if s, _ := place(b, addr4(i)); s == set {
			together = append(together, addr4(i))
		}
	}
	for i, a := range together {
		every := time.Hour
		if i == 2 {
			every = time.Minute
		}
		table.Allow(time.Now(), b, a, Limit{Burst: 1, Every: every})
	}
	for i, a := range together {
		if ok, _ := table.Peek(time.Now(), b, a, Limit{Burst: 1, Every: time.Hour}); ok != (i == 2) {
			t.Errorf("address %d is forgotten: %v", i, ok)
		}
	}
}

// BenchmarkAllow takes from the budgets of 100,000 addresses by turns.
func BenchmarkAllow(b *testing.B) {
	table, login := New(), Limit{Burst: 60, Every: 2 * time.Second}
	bucket := BucketOf("lms", "login")
	b.ReportAllocs()
	now := time.Now() // the proxy has read it already, for its log
	i := uint32(0)
	for b.Loop() {
		i = (i*1_664_525 + 1_013_904_223) // a walk that no cache foresees
		table.Allow(now, bucket, addr4(i%100_000), login)
	}
}
