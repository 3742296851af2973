package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routes shorter than this are ways to everywhere (VPNs split the default route
// into two or more), not ranges in use.
const (
	shortestRange4 = 8
	shortestRange6 = 7
)

// overlap is a range of the host that a site's range collides with.
type overlap struct {
	Prefix netip.Prefix
	Where  string // for people: "route by eth0", "address of eth0"
}

func (o overlap) String() string { return o.Prefix.String() + " (" + o.Where + ")" }

// hostOverlaps finds the routes and addresses of this thread's namespace that
// overlap p, save those by an interface for which own is true.
func hostOverlaps(h *netlink.Handle, p netip.Prefix, own func(netlink.Link) bool) ([]overlap, error) {
	fam, shortest := netlink.FAMILY_V4, shortestRange4
	if p.Addr().Is6() {
		fam, shortest = netlink.FAMILY_V6, shortestRange6
	}
	// Table 0 means all of them: policy routing and the local addresses too.
	routes, err := whole(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	links, err := listLinks(h)
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	byIndex := make(map[int]netlink.Link, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	var found []overlap
	for _, r := range routes {
		dst, ok := prefixOf(r.Dst)
		if !ok || dst.Bits() < shortest || !dst.Overlaps(p) {
			continue
		}
		var kind string
		switch r.Type {
		case unix.RTN_UNICAST:
			kind = "route by "
		case unix.RTN_LOCAL:
			kind = "address of "
		default:
			continue // blackholes hold a range free; broadcast belongs to an address
		}
		// Routes with several next hops have none of their own.
		name := "several interfaces"
		if l := byIndex[r.LinkIndex]; l != nil {
			if own(l) {
				continue
			}
			name = l.Attrs().Name
		}
		o := overlap{dst, kind + name}
		if !slices.Contains(found, o) {
			found = append(found, o)
		}
	}
	return found, nil
}

// privateRanges are where a free range is looked for: private networks first
// (RFC 1918), then the one for carriers (RFC 6598), which a host that routes
// all private ones to a company's network seldom has. An IPv6 range is to be
// drawn by lot (RFC 4193, section 3.2), which is not done here.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
}

// proposal names a range of the size of wanted that the host has no route to:
// ", such as …", or nothing.
func proposal(h *netlink.Handle, wanted netip.Prefix) string {
	for _, private := range privateRanges {
		if private.Addr().Is4() != wanted.Addr().Is4() {
			continue
		}
		a := private.Addr().AsSlice()
		for third := range 256 {
			a[2] = byte(third)
			addr, _ := netip.AddrFromSlice(a)
			candidate := netip.PrefixFrom(addr, wanted.Bits()).Masked()
			// The first of a private network is everybody's first choice.
			if third == 0 || candidate.Bits() <= private.Bits() || candidate.Addr() == private.Addr() {
				continue
			}
			found, err := hostOverlaps(h, candidate, func(netlink.Link) bool { return false })
			if err != nil {
				return ""
			}
			if len(found) == 0 {
				return ", such as " + candidate.String() + ", which is free here"
			}
		}
	}
	return ""
}

// isUplink says whether a host's interface is the site's, also when somebody
// has renamed it or the process that made it died before it was marked.
func isUplink(l netlink.Link, site string) bool {
	a := l.Attrs()
	return l.Type() == "veth" && (a.Alias == aliasPrefix+site || a.Alias == "" && a.Name == UplinkName(site))
}

// checkRanges refuses a site whose range the host uses for something else. A
// site that has its routes already is not refused: it runs, and what came
// later has only the less specific route.
func (n *Network) checkRanges(h *netlink.Handle, p *policy) error {
	uplink, err := ownUplink(h, p.site)
	if err != nil {
		return err
	}
	own := func(l netlink.Link) bool { return isUplink(l, p.site) }
	for _, prefix := range []netip.Prefix{p.prefix4, p.prefix6} {
		if !prefix.IsValid() {
			continue
		}
		found, err := hostOverlaps(h, prefix, own)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			continue
		}
		names := make([]string, len(found))
		for i, o := range found {
			names[i] = o.String()
		}
		routed, err := hasRoute(h, uplink, prefix)
		if err != nil {
			return err
		}
		if routed {
			n.warnOverlap(p.site, prefix, strings.Join(names, ", "))
			continue
		}
		return fmt.Errorf("%w: %s overlaps %s; choose another range%s", ErrRangeInUse, prefix, strings.Join(names, ", "), proposal(h, prefix))
	}
	return nil
}

// warnOverlap logs what overlaps a site that runs: once, until it changes.
func (n *Network) warnOverlap(site string, prefix netip.Prefix, overlaps string) {
	key := site + " " + prefix.String()
	if n.warned[key] == overlaps {
		return
	}
	n.warned[key] = overlaps
	n.log.Warn("the site's address range overlaps others of this host", "site", site, "range", prefix, "overlaps", overlaps)
}

// hasRoute says whether the host reaches the range by the uplink already.
func hasRoute(h *netlink.Handle, uplink netlink.Link, p netip.Prefix) (bool, error) {
	if uplink == nil {
		return false, nil
	}
	routes, err := listRoutes(h, uplink, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("list routes of interface %s: %w", uplink.Attrs().Name, err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return sameTarget(r.Dst, ipNet(p)) }), nil
}
