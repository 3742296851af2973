package proxy

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"tarima/proxy/routes"
)

// trust is who is believed when it tells of a client: those of the
// configuration, which need a new process, and those of the routes.
type trust struct {
	fixed   []netip.Prefix
	current atomic.Pointer[trusted]
}

type trusted struct {
	networks []netip.Prefix
	// behind: a web server in front ends TLS, see routes.TLS.Mode "none".
	behind bool
}

func newTrust(fixed []netip.Prefix) *trust {
	t := &trust{fixed: fixed}
	t.set(routes.Snapshot{})
	return t
}

func (t *trust) set(s routes.Snapshot) {
	t.current.Store(&trusted{networks: slices.Concat(t.fixed, s.Trusted), behind: s.TLS.Mode == "none"})
}

func (t *trusted) contains(a netip.Addr) bool {
	for _, p := range t.networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// peer says whether who connected to a door is believed. File permissions have
// already decided who may connect to a unix socket. A loopback door that a web
// server in front is the only user of believes this machine.
func (t *trusted) peer(d door, a netip.Addr) bool {
	return d.unix || t.behind && d.loopback && a.IsLoopback() || t.contains(a)
}
