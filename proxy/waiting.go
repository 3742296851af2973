package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
)

// waitingRoom holds the requests that wait for a service, bounded in number
// and in memory.
//
// It is fair between clients: when it is full, a newcomer takes the place of
// the latest request of the client that has the most waiting, if that is more
// than the newcomer has; and who waits is called one per client in turn.
type waitingRoom struct {
	hold Hold

	mu      sync.Mutex
	bytes   int64
	waiting map[*ticket]struct{}
	hosts   map[string]int
	next    uint64
	closed  bool
}

// ticket of one waiting request.
type ticket struct {
	host   string
	gate   *gate
	client netip.Addr
	bytes  int64
	number uint64

	called chan struct{} // holds one call: look again
	out    chan struct{} // closed: the place was given to another, or the room closes
	why    error         // of out
}

func newWaitingRoom(h Hold) *waitingRoom {
	return &waitingRoom{hold: h, waiting: map[*ticket]struct{}{}, hosts: map[string]int{}}
}

// join takes a place. The error is errFull or errClosing.
func (r *waitingRoom) join(host string, g *gate, client netip.Addr, bytes int64) (*ticket, error) {
	client = network(client)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosing
	}
	if bytes > r.hold.MaxBytes {
		return nil, errFull
	}
	for r.hosts[host] >= r.hold.MaxPerHost {
		if !r.evict(client, host) {
			return nil, errFull
		}
	}
	for len(r.waiting) >= r.hold.MaxTotal || r.bytes+bytes > r.hold.MaxBytes {
		if !r.evict(client, "") {
			return nil, errFull
		}
	}
	r.next++
	t := &ticket{
		host: host, gate: g, client: client, bytes: bytes, number: r.next,
		called: make(chan struct{}, 1), out: make(chan struct{}),
	}
	r.waiting[t] = struct{}{}
	r.hosts[host]++
	r.bytes += bytes
	return t, nil
}

// evict makes room for a request of client, among those of host or of all.
func (r *waitingRoom) evict(client netip.Addr, host string) bool {
	count := map[netip.Addr]int{}
	latest := map[netip.Addr]*ticket{}
	var most netip.Addr
	for t := range r.waiting {
		if host != "" && t.host != host {
			continue
		}
		count[t.client]++
		if l := latest[t.client]; l == nil || l.number < t.number {
			latest[t.client] = t
		}
		if count[t.client] > count[most] {
			most = t.client
		}
	}
	if count[most] <= count[client]+1 {
		return false
	}
	r.remove(latest[most], errFull)
	return true
}

func (r *waitingRoom) remove(t *ticket, why error) {
	if _, here := r.waiting[t]; !here {
		return
	}
	delete(r.waiting, t)
	if r.hosts[t.host]--; r.hosts[t.host] == 0 {
		delete(r.hosts, t.host)
	}
	r.bytes -= t.bytes
	if why != nil {
		t.why = why
		close(t.out)
	}
}

// leave gives the place back.
func (r *waitingRoom) leave(t *ticket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(t, nil)
}

// call wakes who waits for the gate (nil: everybody), oldest first, one per
// client in turn.
func (r *waitingRoom) call(g *gate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.inTurn(g) {
		select {
		case t.called <- struct{}{}:
		default: // called already and not yet looked
		}
	}
}

func (r *waitingRoom) inTurn(g *gate) []*ticket {
	var all []*ticket
	for t := range r.waiting {
		if g == nil || t.gate == g {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b *ticket) int { return cmp.Compare(a.number, b.number) })
	// The n-th request of a client goes into the n-th round.
	nth := map[netip.Addr]int{}
	var rounds [][]*ticket
	for _, t := range all {
		n := nth[t.client]
		nth[t.client]++
		if n == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[n] = append(rounds[n], t)
	}
	turn := all[:0]
	for _, round := range rounds {
		turn = append(turn, round...)
	}
	return turn
}

// close sends everybody out and lets nobody in.
func (r *waitingRoom) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for t := range r.waiting {
		r.remove(t, errClosing)
	}
}

// total of those who wait.
func (r *waitingRoom) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}

func (r *waitingRoom) count(g *gate) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for t := range r.waiting {
		if t.gate == g {
			n++
		}
	}
	return n
}

// network is what counts as one client: an IPv4 address, or the /64 that a
// single IPv6 subscriber has all addresses of.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
