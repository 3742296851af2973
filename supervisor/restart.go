package supervisor

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"time"
)

// Policy is the set of rules by which ended and unhealthy services come back.
// The zero value of a field means its default.
type Policy struct {
	// Base is the wait before the second restart of a series; the first comes
	// at once. Every further one doubles it, up to Cap. Default 1 s.
	Base time.Duration
	// Cap bounds the wait, and is the pace at which a failing service is
	// tried for ever. Default 5 min.
	Cap time.Duration
	// Jitter spreads a wait by this share to both sides. Default 0.2.
	Jitter float64
	// Quiet is how long a service must run for its series of failures to be
	// forgotten. Default 5 min: not shorter than Cap, or a service that runs a
	// little longer than the reset would restart quickly for ever.
	Quiet time.Duration
	// FailingAfter failures in a series make a service failing. Default 5.
	FailingAfter int
	// DatabaseGrace is the least time for which a database's liveness may fail
	// before it is restarted. Default 5 min.
	DatabaseGrace time.Duration
	// DrainTimeout bounds the wait for running requests before a planned stop.
	// Default 30 s.
	DrainTimeout time.Duration
	// HealthBudget restarts for failed probes are allowed in the whole site
	// within HealthWindow. Default 6 in 10 min.
	HealthBudget int
	HealthWindow time.Duration
	// RecoveryTime is how long a service that was restarted for its probes
	// keeps its failure domain from another such restart while it is not ready.
	// Default 5 min.
	RecoveryTime time.Duration
}

// withDefaults returns p with every zero field set.
func (p Policy) withDefaults() Policy {
	p.Base = orDefault(p.Base, time.Second)
	p.Cap = max(orDefault(p.Cap, 5*time.Minute), p.Base)
	if p.Jitter == 0 {
		p.Jitter = 0.2
	}
	p.Jitter = min(max(p.Jitter, 0), 0.9)
	p.Quiet = orDefault(p.Quiet, 5*time.Minute)
	if p.FailingAfter <= 0 {
		p.FailingAfter = 5
	}
	p.DatabaseGrace = orDefault(p.DatabaseGrace, 5*time.Minute)
	p.DrainTimeout = orDefault(p.DrainTimeout, 30*time.Second)
	if p.HealthBudget <= 0 {
		p.HealthBudget = 6
	}
	p.HealthWindow = orDefault(p.HealthWindow, 10*time.Minute)
	p.RecoveryTime = orDefault(p.RecoveryTime, 5*time.Minute)
	return p
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// History is what the supervisor remembers of one service's or job's ends. It
// is rebuilt from the store's events when the daemon starts.
type History struct {
	Failures  int       // ends in a row that nobody asked for
	Restarts  int       // starts after such an end, since the store began
	StartedAt time.Time // of the last start
	EndedAt   time.Time // of the last end
	ExitCode  *int
	OOM       bool
	// NextStart is when it may be started again.
	NextStart time.Time
	// Crashed means that the last end was nobody's wish: the next start is a
	// restart.
	Crashed bool
	Why     Reason   // of the last failure
	LogTail []string // of the last failure
	// HealthAt is when it was last restarted for its probes.
	HealthAt time.Time
}

// Delay is the wait before the next start after that many failures in a row:
// none, then Base, doubled each time up to Cap, all spread by Jitter. The
// spread is drawn from name and number, so that the same question has the
// same answer.
func (p Policy) Delay(name string, failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	d := p.Cap
	// 40 doublings of the smallest base reach any cap; more would overflow.
	if shift := failures - 2; shift < 40 && p.Base<<shift > 0 && p.Base<<shift < p.Cap {
		d = p.Base << shift
	}
	share := hashShare(name, strconv.Itoa(failures)) // 0 … 1
	return d + time.Duration(float64(d)*p.Jitter*(2*share-1))
}

// Failed counts an end, or a start that did not succeed, that nobody asked for.
func (p Policy) Failed(name string, h History, at time.Time, why Reason) History {
	if !h.StartedAt.IsZero() && at.Sub(h.StartedAt) >= p.Quiet {
		h.Failures = 0
	}
	h.Failures++
	h.EndedAt = at
	h.Crashed = true
	h.Why = why
	h.NextStart = at.Add(p.Delay(name, h.Failures))
	return h
}

// rebase ties the next start to now's monotonic clock: an end that was told
// with the wall clock alone must not keep a service down when that clock is
// set.
func (h History) rebase(at, now time.Time) History {
	h.NextStart = now.Add(h.NextStart.Sub(at) - max(now.Sub(at), 0))
	return h
}

// Failing says whether the series of failures is a crash loop.
func (p Policy) Failing(h History) bool { return h.Failures >= p.FailingAfter }

// forgive forgets a series of failures, as a new wish of the administrator
// does.
func (h History) forgive() History {
	h.Failures, h.NextStart, h.Crashed = 0, time.Time{}, false
	return h
}

// bytesText writes a size as people do.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}

// hashShare maps words to a number from 0 to below 1 that is always the same.
func hashShare(words ...string) float64 {
	h := fnv.New64a()
	for _, w := range words {
		_, _ = h.Write([]byte(w)) // a hash never fails to write
		_, _ = h.Write([]byte{0})
	}
	// FNV mixes its low bits best; fold the high ones in before the division.
	v := h.Sum64()
	v ^= v >> 29
	v *= 0xbf58476d1ce4e5b9
	return float64(v>>11) / float64(1<<53)
}
