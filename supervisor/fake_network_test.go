package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"tarima/runtime/container"
)

var prefix4 = netip.MustParsePrefix("10.213.0.0/24")

type fakeNetwork struct {
	mu       sync.Mutex
	applied  container.Topology
	applies  int
	err      error
	attached map[string]int
}

func (n *fakeNetwork) Apply(_ context.Context, t container.Topology) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applies++
	if n.err != nil {
		return n.err
	}
	n.applied = t
	return nil
}

func (n *fakeNetwork) Attach(_ context.Context, _, member string, pid int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.ContainsFunc(n.applied.Members, func(m container.Member) bool { return m.Name == member }) {
		return fmt.Errorf("fake network: %s is no member", member)
	}
	n.attached[member] = pid
	return nil
}

func (n *fakeNetwork) Detach(_ context.Context, _, member string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, member)
	return nil
}
