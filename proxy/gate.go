package proxy

import (
	"maps"
	"net"
	"slices"
	"sync"

	"tarima/proxy/routes"
)

// serviceKey names a service of a site.
type serviceKey struct{ site, service string }

// gate is the door to one service: it lets requests pass while the service is
// ready and counts those that are inside. It outlives snapshots.
type gate struct {
	key serviceKey

	mu         sync.Mutex
	state      routes.State
	generation uint64 // of the snapshot that set state
	inside     int
	owed       bool                  // a drain that was not told yet, for an elder's sake
	upgraded   map[net.Conn]struct{} // websockets, a part of inside
}

func newGate(key serviceKey) *gate {
	return &gate{key: key, state: routes.Hold, upgraded: map[net.Conn]struct{}{}}
}

// enter lets a request pass when the service is ready and has an upstream.
// Whoever entered leaves.
func (g *gate) enter(upstream bool) (ok bool, state routes.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state != routes.Ready || !upstream {
		return false, g.state
	}
	g.inside++
	return true, g.state
}

// leave returns whether the service became empty while it drains, and for
// which generation.
func (g *gate) leave() (drained bool, generation uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	return g.inside == 0 && g.state == routes.Draining, g.generation
}

// set takes over a snapshot's state. It returns whether the service is empty
// and draining, and the websockets to close: a browser opens them again, and
// waits then as any other request.
func (g *gate) set(state routes.State, generation uint64) (drained bool, sockets []net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state, g.generation = state, generation
	if state != routes.Draining {
		return false, nil
	}
	for c := range g.upgraded {
		sockets = append(sockets, c)
	}
	return g.inside == 0, sockets
}

// upgrade and forget keep the list of connections that are no HTTP any more.
// A drain that began in between closes the connection at once.
func (g *gate) upgrade(c net.Conn) (draining bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.upgraded[c] = struct{}{}
	return g.state == routes.Draining
}

func (g *gate) forget(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.upgraded, c)
}

func (g *gate) closeUpgraded() {
	g.mu.Lock()
	sockets := slices.Collect(maps.Keys(g.upgraded))
	g.mu.Unlock()
	// Closing TLS may have to write, and must not hold up the gate.
	for _, c := range sockets {
		_ = c.Close() // it is over either way
	}
}

func (g *gate) status() (state routes.State, inside int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.inside
}
