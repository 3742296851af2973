package proxy

import (
	"maps"
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
	owed       bool                 // a drain that was not told yet, for an elder's sake
	endless    map[endless]struct{} // a part of inside
}

func newGate(key serviceKey) *gate {
	return &gate{key: key, state: routes.Hold, endless: map[endless]struct{}{}}
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
// and draining, and what has to be ended: a browser opens it again, and waits
// then as any other request.
func (g *gate) set(state routes.State, generation uint64) (drained bool, leaving []endless) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state, g.generation = state, generation
	if state != routes.Draining {
		return false, nil
	}
	return g.inside == 0, slices.Collect(maps.Keys(g.endless))
}

// begin and forget keep the list of answers without end. A drain that began in
// between ends it at once.
func (g *gate) begin(e endless) (draining bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endless[e] = struct{}{}
	return g.state == routes.Draining
}

func (g *gate) forget(e endless) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.endless, e)
}

// dismiss ends what would not end by itself.
func (g *gate) dismiss() {
	g.mu.Lock()
	all := slices.Collect(maps.Keys(g.endless))
	g.mu.Unlock()
	leaveAll(all)
}

func (g *gate) status() (state routes.State, inside int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.inside
}
