package network

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// endConnections forgets the tracked connections of this thread's namespace
// that the policy does not allow: their next packet counts as new and is
// refused. Without it an edge that was removed would live on in every
// connection that used it.
func (n *Network) endConnections(p *policy) {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err == nil {
		defer h.Close()
		for _, fam := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			// A table that changed while it was read is gone through again.
			_, e := whole(func() ([]struct{}, error) {
				_, e := h.ConntrackDeleteFilters(netlink.ConntrackTable, fam, disallowed{p})
				return nil, e
			})
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		n.log.Warn("connections that are no longer allowed could not be ended", "site", p.site, "error", err)
	}
}

// disallowed matches tracked connections that a policy would refuse.
type disallowed struct{ *policy }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (d disallowed) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	from, okFrom := netip.AddrFromSlice(f.Forward.SrcIP)
	to, okTo := netip.AddrFromSlice(f.Forward.DstIP)
	return okFrom && okTo && !d.allows(from.Unmap(), to.Unmap(), f.Forward.Protocol, f.Forward.DstPort)
}
