package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"tarima/proxy/ratelimit"
)

const (
	limitedAddresses = 100_000
	limiterRounds    = 15
)

// limiter is what it costs to remember addresses and to decide about them. Each
// decision is about another address, so that none is in the processor's nearest
// cache; time is the processor's, which others on the machine do not spend.
func (d *door) limiter(context.Context) error {
	addresses := make([]netip.Addr, limitedAddresses)
	for i := range addresses {
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], 0x2001_0db8_0000_0000+uint64(i)*7919) //nolint:gosec // not negative
		addresses[i] = netip.AddrFrom16(a)
	}
	before := liveHeap()
	table := ratelimit.New()
	bucket, budget := ratelimit.BucketOf("bench"), ratelimit.Limit{Burst: 60, Every: 2 * time.Second}
	now := time.Now()
	for _, a := range addresses {
		table.Allow(now, bucket, a, budget)
	}
	memory := float64(liveHeap()-before) / 1e6
	var times samples
	for range limiterRounds {
		began, err := ownTime()
		if err != nil {
			return err
		}
		for _, a := range addresses {
			table.Allow(now, bucket, a, budget)
		}
		ended, err := ownTime()
		if err != nil {
			return err
		}
		times = append(times, float64(ended-began)/limitedAddresses)
	}
	if ok, _ := table.Allow(now, bucket, addresses[limitedAddresses/2], budget); !ok {
		return fmt.Errorf("an address is refused after %d of %d requests", limiterRounds+1, budget.Burst)
	}
	runtime.KeepAlive(table)
	d.add(figure{Name: fmt.Sprintf("door, rate limiter: memory of %d addresses", limitedAddresses), Value: memory, Unit: "MB"}.atMost(2))
	d.add(figure{Name: "door, rate limiter: a decision", Value: times.median(), Unit: "ns", Spread: times.spread()}.atMost(100))
	return nil
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// ownTime is the processor time of this process so far. Nothing else of it is
// at work meanwhile.
func ownTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
