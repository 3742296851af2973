package network

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownUplink finds the site's interface on the host: nil when there is none,
// ErrNameTaken when another program's interface has its name.
func ownUplink(h *netlink.Handle, site string) (netlink.Link, error) {
	name := UplinkName(site)
	link, err := findLink(h, name)
	if err != nil || link == nil {
		return nil, err
	}
	// An empty alias is what a process leaves that died between making the
	// interface and naming it.
	if alias := link.Attrs().Alias; link.Type() != "veth" || alias != "" && alias != aliasPrefix+site {
		return nil, fmt.Errorf("%w: interface %s (type %s, alias %q) is not the uplink of site %q; rename or remove it", ErrNameTaken, name, link.Type(), alias, site)
	}
	return link, nil
}

// applyUplink makes the pair that joins the site's namespace to the host, with
// its addresses and routes, or repairs it.
func (n *Network) applyUplink(p *policy, site *namespace, mtu int) error {
	var inner netlink.Link
	err := site.do(func(h *netlink.Handle) (err error) {
		inner, err = findLink(h, siteUplink)
		return err
	})
	if err != nil {
		return err
	}
	err = n.host.do(func(h *netlink.Handle) error {
		outer, err := ownUplink(h, p.site)
		if err != nil {
			return err
		}
		paired := outer != nil && inner != nil &&
			outer.Attrs().ParentIndex == inner.Attrs().Index && inner.Attrs().ParentIndex == outer.Attrs().Index
		if outer != nil && !paired {
			n.log.Warn("uplink does not lead into the site's namespace; making it anew", "site", p.site, "interface", outer.Attrs().Name)
			if err := h.LinkDel(outer); err != nil {
				return fmt.Errorf("remove interface %s: %w", outer.Attrs().Name, err)
			}
			n.step("stale uplink removed")
		}
		if paired {
			return nil
		}
		return n.makeUplink(h, p, site, mtu)
	})
	if err != nil {
		return err
	}
	n.step("uplink made")
	if err := site.do(func(h *netlink.Handle) error { return n.configureInnerUplink(h, p, mtu) }); err != nil {
		return err
	}
	err = n.host.do(func(h *netlink.Handle) error {
		if err := n.configureHostUplink(h, p, mtu); err != nil {
			return err
		}
		return awaitOperable(h, UplinkName(p.site), valid(HostAddress(p.prefix6))...)
	})
	if err != nil {
		return err
	}
	return site.do(func(h *netlink.Handle) error { return awaitOperable(h, siteUplink) })
}

func (n *Network) makeUplink(h *netlink.Handle, p *policy, site *namespace, mtu int) error {
	// A pair whose host end was renamed or moved away blocks the name inside.
	if err := site.do(func(h *netlink.Handle) error { return deleteLink(h, siteUplink) }); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = UplinkName(p.site), mtu
	attrs.HardwareAddr = hardwareAddr(p.site, hostEnd)
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: siteUplink, PeerNamespace: netlink.NsFd(site.fd),
		PeerMTU: uint32(mtu), PeerHardwareAddr: hardwareAddr(p.site, siteEnd),
	}
	if err := h.LinkAdd(pair); err != nil {
		return fmt.Errorf("make interface %s: %w", attrs.Name, err)
	}
	return nil
}

func (n *Network) configureInnerUplink(h *netlink.Handle, p *policy, mtu int) error {
	v6 := p.prefix6.IsValid()
	host := hardwareAddr(p.site, hostEnd)
	end := linkEnd{
		name: siteUplink, mtu: mtu, v6: v6, mac: hardwareAddr(p.site, siteEnd),
		addrs:      []netip.Prefix{single(RouterAddress(p.prefix4))},
		neighbours: map[netip.Addr]net.HardwareAddr{HostAddress(p.prefix4): host},
	}
	end.routes = append(end.routes, netlink.Route{Dst: everything(false), Gw: HostAddress(p.prefix4).AsSlice(), Flags: unix.RTNH_F_ONLINK})
	if v6 {
		end.addrs = append(end.addrs, netip.PrefixFrom(uplinkSite6, 64))
		end.routes = append(end.routes, netlink.Route{Dst: everything(true), Gw: uplinkHost6.AsSlice()})
		end.neighbours[uplinkHost6] = host
	}
	return n.configureEnd(h, end)
}

func (n *Network) configureHostUplink(h *netlink.Handle, p *policy, mtu int) error {
	v6 := p.prefix6.IsValid()
	host4, host6 := HostAddress(p.prefix4), HostAddress(p.prefix6)
	site := hardwareAddr(p.site, siteEnd)
	end := linkEnd{
		name: UplinkName(p.site), alias: aliasPrefix + p.site, mtu: mtu, v6: v6, mac: hardwareAddr(p.site, hostEnd),
		addrs:      []netip.Prefix{single(host4)},
		neighbours: map[netip.Addr]net.HardwareAddr{RouterAddress(p.prefix4): site},
	}
	end.routes = append(end.routes, netlink.Route{Dst: ipNet(p.prefix4), Gw: RouterAddress(p.prefix4).AsSlice(), Src: host4.AsSlice(), Flags: unix.RTNH_F_ONLINK})
	if v6 {
		end.addrs = append(end.addrs, single(host6), netip.PrefixFrom(uplinkHost6, 64))
		end.routes = append(end.routes, netlink.Route{Dst: ipNet(p.prefix6), Gw: uplinkSite6.AsSlice(), Src: host6.AsSlice()})
		end.neighbours[uplinkSite6] = site
	}
	return n.configureEnd(h, end)
}

// linkEnd is what one end of a pair should be.
type linkEnd struct {
	name   string
	alias  string
	mtu    int
	v6     bool
	mac    net.HardwareAddr
	addrs  []netip.Prefix
	routes []netlink.Route
	// neighbours are the next hops' hardware addresses, which are known: no
	// first packet waits for ARP or neighbour discovery, and nobody forges them.
	neighbours map[netip.Addr]net.HardwareAddr
}

// configureEnd brings an interface of this thread's namespace to what it
// should be: what is missing is added, what is too much is removed.
func (n *Network) configureEnd(h *netlink.Handle, end linkEnd) error {
	link, err := h.LinkByName(end.name)
	if err != nil {
		return fmt.Errorf("look up interface %s: %w", end.name, err)
	}
	if end.alias != "" && link.Attrs().Alias != end.alias {
		if err := h.LinkSetAlias(link, end.alias); err != nil {
			return fmt.Errorf("mark interface %s: %w", end.name, err)
		}
	}
	if link.Attrs().MTU != end.mtu {
		if err := h.LinkSetMTU(link, end.mtu); err != nil {
			return fmt.Errorf("set MTU of interface %s to %d: %w", end.name, end.mtu, err)
		}
	}
	if !bytes.Equal(link.Attrs().HardwareAddr, end.mac) {
		if err := h.LinkSetHardwareAddr(link, end.mac); err != nil {
			return fmt.Errorf("set hardware address of interface %s to %s: %w", end.name, end.mac, err)
		}
	}
	if err := writeSysctls(interfaceSettings(end.name, end.v6)); err != nil {
		return err
	}
	if err := n.reconcileAddresses(h, link, end.addrs); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set interface %s up: %w", end.name, err)
	}
	n.step("interface up")
	for addr, mac := range end.neighbours {
		err := h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
		if err != nil {
			return fmt.Errorf("set hardware address of %s on interface %s: %w", addr, end.name, err)
		}
		n.step("neighbour set")
	}
	return n.reconcileRoutes(h, link, end.routes)
}

func (n *Network) reconcileAddresses(h *netlink.Handle, link netlink.Link, want []netip.Prefix) error {
	name := link.Attrs().Name
	have, err := listAddresses(h, link)
	if err != nil {
		return fmt.Errorf("list addresses of interface %s: %w", name, err)
	}
	there := map[netip.Prefix]bool{}
	for _, a := range have {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		if slices.Contains(want, p) {
			there[p] = true
			continue
		}
		if err := h.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s of interface %s: %w", p, name, err)
		}
		n.step("address removed")
	}
	for _, p := range want {
		if there[p] {
			continue
		}
		if err := addAddress(h, link, p); err != nil {
			return err
		}
		n.step("address added")
	}
	return nil
}

func addAddress(h *netlink.Handle, link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if p.Addr().Is4() && p.Addr().IsLinkLocalUnicast() {
		a.Scope = unix.RT_SCOPE_LINK
	}
	if err := h.AddrReplace(link, a); err != nil {
		return fmt.Errorf("give address %s to interface %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

// reconcileRoutes leaves the routes by link as wanted. Those that the kernel
// itself made for the addresses stay.
func (n *Network) reconcileRoutes(h *netlink.Handle, link netlink.Link, want []netlink.Route) error {
	name := link.Attrs().Name
	have, err := listRoutes(h, link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes of interface %s: %w", name, err)
	}
	for _, r := range have {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		if slices.ContainsFunc(want, func(w netlink.Route) bool { return sameTarget(w.Dst, r.Dst) }) {
			continue
		}
		if err := h.RouteDel(&r); err != nil {
			return fmt.Errorf("remove route %s of interface %s: %w", r.Dst, name, err)
		}
		n.step("route removed")
	}
	for _, r := range want {
		r.LinkIndex, r.Protocol = link.Attrs().Index, unix.RTPROT_STATIC
		if err := h.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route to %s by interface %s: %w", r.Dst, name, err)
		}
		n.step("route added")
	}
	return nil
}

// Bounds of the wait for a new pair.
const (
	operableTimeout = 5 * time.Second
	operablePoll    = 200 * time.Microsecond
)

// awaitOperable waits until an interface really sends, and receives for its
// addresses. The end of a pair that came up first is switched on by the
// kernel's link watch a moment after the second has followed, and an IPv6
// address becomes local in a work queue; until then packets are dropped, and
// the first connection would wait a second for its repetition.
func awaitOperable(h *netlink.Handle, name string, addresses ...netip.Addr) error {
	deadline := time.Now().Add(operableTimeout)
	poll := time.NewTicker(operablePoll)
	defer poll.Stop()
	for ; ; <-poll.C {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("look up interface %s: %w", name, err)
		}
		waitsFor := ""
		if link.Attrs().OperState != netlink.OperUp {
			waitsFor = "its other end"
		}
		for _, a := range addresses {
			routes, err := h.RouteGet(a.AsSlice())
			if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL {
				waitsFor = "address " + a.String()
			}
		}
		if waitsFor == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("interface %s has waited %s for %s", name, operableTimeout, waitsFor)
		}
	}
}

func sameTarget(a, b *net.IPNet) bool {
	pa, okA := prefixOf(a)
	pb, okB := prefixOf(b)
	return okA && okB && pa == pb
}

// defaultMTU is that of the interface to the outside, so that containers never
// send what would have to be fragmented there: 1,500 without one.
func defaultMTU(h *netlink.Handle) (int, error) {
	ways, err := waysOut(h)
	if err != nil {
		return 0, err
	}
	mtu := 0
	for _, link := range ways {
		if m := link.Attrs().MTU; mtu == 0 || m < mtu {
			mtu = m
		}
	}
	if mtu == 0 {
		return 1500, nil
	}
	// IPv6 needs at least 1,280 (RFC 8200, section 5).
	return min(max(mtu, 1280), 65535), nil
}

// waysOut are the interfaces of this thread's namespace that have a default
// route.
func waysOut(h *netlink.Handle) ([]netlink.Link, error) {
	var ways []netlink.Link
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := listRoutes(h, nil, fam)
		if err != nil {
			return nil, fmt.Errorf("list the host's routes: %w", err)
		}
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 || r.LinkIndex == 0 {
				continue
			}
			link, err := h.LinkByIndex(r.LinkIndex)
			if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
				continue // it went away in this moment
			}
			ways = append(ways, link)
		}
	}
	return ways, nil
}

// valid is a, or nothing when it is the zero address.
func valid(a netip.Addr) []netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return []netip.Addr{a}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func everything(v6 bool) *net.IPNet {
	if v6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the opposite of ipNet; it keeps host bits. A nil network, which
// is how netlink may say "default", is not ok.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}
