package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tarima/proxy/routes"
)

// A service is called for at most this often while requests wait for it.
const wantedEvery = time.Second

// switchboard holds the routes that are served and the gates of the services
// behind them.
type switchboard struct {
	logger *slog.Logger
	events *eventLog
	room   *waitingRoom
	// changed is told of each table that was applied.
	changed func(routes.Snapshot)

	elders *elders

	current atomic.Pointer[table]

	mu     sync.Mutex // one snapshot at a time
	gates  map[serviceKey]*gate
	wanted map[serviceKey]time.Time // last call
}

func newSwitchboard(logger *slog.Logger, events *eventLog, room *waitingRoom, changed func(routes.Snapshot)) *switchboard {
	b := &switchboard{
		logger: logger, events: events, room: room, changed: changed,
		elders: &elders{}, gates: map[serviceKey]*gate{}, wanted: map[serviceKey]time.Time{},
	}
	b.current.Store(newTable(routes.Snapshot{}, nil))
	return b
}

// apply makes a checked snapshot the one that is served, as a whole. An older
// one is refused with routes.ErrStale; the same one again is welcome.
func (b *switchboard) apply(s routes.Snapshot) (applied bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.current.Load().snapshot
	if before.Schema != 0 {
		if s.Generation < before.Generation {
			return false, fmt.Errorf("generation %d: %w (%d)", s.Generation, routes.ErrStale, before.Generation)
		}
		if s.Generation == before.Generation {
			if !same(s, before) {
				return false, fmt.Errorf("another snapshot of generation %d: %w", s.Generation, routes.ErrStale)
			}
			b.tellDrained()
			return false, nil
		}
	}
	states := map[serviceKey]routes.State{}
	for _, h := range s.Hosts {
		if h.Redirect == "" {
			states[serviceKey{h.Site, h.Service}] = h.State
		}
		for _, r := range h.Rules {
			if r.Service != "" {
				states[serviceKey{h.Site, r.Service}] = r.State
			}
		}
	}
	t := newTable(s, func(key serviceKey) *gate {
		g := b.gates[key]
		if g == nil {
			g = newGate(key)
			b.gates[key] = g
		}
		return g
	})
	b.changed(s)

	// Doors close before the new table is seen and open after it: a request
	// that looked at the old table is still stopped at the gate.
	var leaving []endless
	for key, g := range b.gates {
		state, wanted := states[key]
		if !wanted {
			state = routes.Down
		}
		if state != routes.Ready {
			_, open := g.set(state, s.Generation)
			leaving = append(leaving, open...)
		}
	}
	b.current.Store(t)
	for key, g := range b.gates {
		if states[key] == routes.Ready {
			g.set(routes.Ready, s.Generation)
		}
	}
	b.room.call(nil)
	b.tellDrained()
	// A service that is gone keeps its gate until the last request has left.
	for key, g := range b.gates {
		if _, inside := g.status(); inside == 0 && states[key] == "" {
			delete(b.gates, key)
			delete(b.wanted, key)
		}
	}
	leaveAll(leaving)
	return true, nil
}

// tellDrained tells again what may have been told to a supervisor that is no
// more.
func (b *switchboard) tellDrained() {
	for _, g := range b.gates {
		g.mu.Lock()
		drained, generation := g.state == routes.Draining && g.inside == 0, g.generation
		g.mu.Unlock()
		if drained {
			b.drained(g, generation)
		}
	}
}

func (b *switchboard) drained(g *gate, generation uint64) {
	busy := b.elders.busy(g.key, generation)
	g.mu.Lock()
	g.owed = busy
	g.mu.Unlock()
	if busy {
		return
	}
	b.events.add(routes.Event{Kind: routes.Drained, Site: g.key.site, Service: g.key.service, Generation: generation})
}

// leave ends a request's stay behind a gate.
func (b *switchboard) leave(g *gate) {
	if g == nil {
		return
	}
	if drained, generation := g.leave(); drained {
		b.drained(g, generation)
	}
}

// want calls for a service that a request waits for.
func (b *switchboard) want(g *gate, name string) {
	now := time.Now()
	b.mu.Lock()
	last, known := b.wanted[g.key]
	call := !known || now.Sub(last) >= wantedEvery
	if call && b.gates[g.key] == g {
		b.wanted[g.key] = now
	}
	generation := b.current.Load().snapshot.Generation
	b.mu.Unlock()
	if call {
		b.events.add(routes.Event{Kind: routes.Wanted, Site: g.key.site, Service: g.key.service, Name: name, Generation: generation})
	}
}

// serviceState is one service in the answer to "how is it".
type serviceState struct {
	Site    string       `json:"site"`
	Service string       `json:"service"`
	State   routes.State `json:"state"`
	Inside  int          `json:"inside"`  // requests in flight, websockets with them
	Waiting int          `json:"waiting"` // requests held
}

func (b *switchboard) states() []serviceState {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]serviceState, 0, len(b.gates))
	for key, g := range b.gates {
		s := serviceState{Site: key.site, Service: key.service, Waiting: b.room.count(g)}
		s.State, s.Inside = g.status()
		all = append(all, s)
	}
	return all
}

// dismiss ends what would not end by itself, of all services.
func (b *switchboard) dismiss() {
	b.mu.Lock()
	gates := make([]*gate, 0, len(b.gates))
	for _, g := range b.gates {
		gates = append(gates, g)
	}
	b.mu.Unlock()
	for _, g := range gates {
		g.dismiss()
	}
}

func same(a, b routes.Snapshot) bool {
	// Both are plain data that came from JSON: it cannot fail, and it sees
	// an empty list and none as one.
	x, xerr := json.Marshal(a)
	y, yerr := json.Marshal(b)
	return xerr == nil && yerr == nil && bytes.Equal(x, y)
}
