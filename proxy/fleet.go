package proxy

import (
	"math/rand/v2"
	"sync"
	"time"

	"tarima/proxy/routes"
)

const (
	// An address that refuses connections is left alone for so long, twice
	// as long each time, and is then tried by one request at a time.
	firstAside = time.Second
	lastAside  = 30 * time.Second
	// A new address, or one that is back, gets its full share only after so
	// long: its caches are cold.
	slowStart = 10 * time.Second
	// Share of one that has just begun.
	leastShare = 0.1
)

// fleet chooses among the addresses of services that run on several machines:
// the one with the fewest requests, for its share. A service with one address
// has nothing to choose and never comes here.
type fleet struct {
	mu      sync.Mutex
	members map[string]*member
}

// member is one address.
type member struct {
	busy     int // requests
	failures int // refused connections in a row
	aside    time.Time
	since    time.Time // it serves; zero: for ever
}

func newFleet() *fleet { return &fleet{members: map[string]*member{}} }

// keep forgets the addresses that a snapshot does not have. Those that are new
// beside others that serve already start slowly.
func (f *fleet) keep(s routes.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	wanted := map[string]bool{}
	for _, h := range s.Hosts {
		all := addressesOf(h)
		if len(all) < 2 {
			continue
		}
		known := false
		for _, a := range all {
			known = known || f.members[a] != nil
		}
		for _, a := range all {
			wanted[a] = true
			if f.members[a] != nil {
				continue
			}
			m := &member{}
			if known {
				m.since = now
			}
			f.members[a] = m
		}
	}
	for a, m := range f.members {
		// One with requests is forgotten by a later snapshot.
		if !wanted[a] && m.busy == 0 {
			delete(f.members, a)
		}
	}
}

// addressesOf a host's service: Upstream and Upstreams, without doubles.
func addressesOf(h routes.Host) []string {
	var all []string
	seen := map[string]bool{"": true}
	for _, a := range append([]string{h.Upstream}, h.Upstreams...) {
		if !seen[a] {
			seen[a] = true
			all = append(all, a)
		}
	}
	return all
}

// pick takes a place at one of the addresses; done gives it back. The one to
// avoid failed just now and is taken only when there is no other.
func (f *fleet) pick(addresses []string, avoid string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	best, bestLoad := "", 0.0
	soonest := addresses[0]
	first := rand.IntN(len(addresses)) //nolint:gosec // only so that equals take turns
	for i := range addresses {
		a := addresses[(first+i)%len(addresses)]
		m := f.member(a)
		if m.aside.Before(f.member(soonest).aside) {
			soonest = a
		}
		if a == avoid || now.Before(m.aside) || m.failures > 0 && m.busy > 0 {
			continue
		}
		if load := float64(m.busy+1) / m.share(now); best == "" || load < bestLoad {
			best, bestLoad = a, load
		}
	}
	if best == "" {
		best = soonest
	}
	f.member(best).busy++
	return best
}

// member makes one for an address that came with no snapshot; it is called
// with the lock held.
func (f *fleet) member(a string) *member {
	m := f.members[a]
	if m == nil {
		m = &member{}
		f.members[a] = m
	}
	return m
}

// share is how much of the load a member takes, at most 1.
func (m *member) share(now time.Time) float64 {
	if m.failures > 0 {
		return leastShare
	}
	if age := now.Sub(m.since); !m.since.IsZero() && age < slowStart {
		return max(leastShare, float64(age)/float64(slowStart))
	}
	return 1
}

// done gives a place back.
func (f *fleet) done(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.member(address).busy--
}

// worked says that an address has answered.
func (f *fleet) worked(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.member(address); m.failures > 0 {
		*m = member{busy: m.busy, since: time.Now()}
	}
}

// refused says that an address did not accept a connection.
func (f *fleet) refused(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, now := f.member(address), time.Now()
	// Of many that fail together one counts.
	if now.Before(m.aside) {
		return
	}
	m.aside = now.Add(min(firstAside<<min(m.failures, 10), lastAside))
	m.failures++
}
