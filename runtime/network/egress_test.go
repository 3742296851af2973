package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"tarima/runtime/container"
)

// Addresses of the namespace that stands for everything outside of the host.
var (
	wanHost     = netip.MustParsePrefix("198.51.100.2/24")
	wanHost6    = netip.MustParsePrefix("2001:db8:1::2/64")
	wanOutside  = netip.MustParsePrefix("198.51.100.1/24")
	wanOutside6 = netip.MustParsePrefix("2001:db8:1::1/64")
	web         = netip.MustParseAddr("203.0.113.80")
	web6        = netip.MustParseAddr("2001:db8:f::80")
)

// metadata are addresses at which the outside of these tests answers, as
// clouds do, and which no member may reach.
var metadata = []string{
	"169.254.169.254", "169.254.170.2", "169.254.42.42", "100.100.100.200", "168.63.129.16", "192.0.0.192",
	"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42",
}

const wanMTU = 1400

// outside joins a second namespace to the host, which has its default routes
// there, and lets it answer at all the addresses above.
func (l *lab) outside() *namespace {
	l.Helper()
	out := l.namespace("outside")
	l.inside(l.host, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "wan0", wanMTU
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(out.fd)}); err != nil {
			return err
		}
		return l.configure(h, "wan0", []netip.Prefix{wanHost, wanHost6}, wanOutside.Addr(), wanOutside6.Addr())
	})
	l.inside(out, func(h *netlink.Handle) error {
		if err := l.configure(h, "eth0", []netip.Prefix{wanOutside, wanOutside6}); err != nil {
			return err
		}
		answering := []netip.Prefix{single(web), single(web6)}
		for _, m := range metadata {
			answering = append(answering, single(netip.MustParseAddr(m)))
		}
		return l.configure(h, "lo", answering)
	})
	l.inside(out, func(h *netlink.Handle) error { return awaitOperable(h, "eth0") })
	l.inside(l.host, func(h *netlink.Handle) error { return awaitOperable(h, "wan0") })
	l.serve(out, 80)
	l.serve(out, 53)
	return out
}

func (l *lab) configure(h *netlink.Handle, name string, addresses []netip.Prefix, gateways ...netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if err := writeSysctls([]sysctl{{"net/ipv6/conf/" + name + "/addr_gen_mode", "1"}}); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range addresses {
		if err := addAddress(h, link, a); err != nil {
			return err
		}
	}
	for _, g := range gateways {
		if err := h.RouteAdd(&netlink.Route{Dst: everything(g.Is6()), Gw: g.AsSlice(), LinkIndex: link.Attrs().Index}); err != nil {
			return err
		}
	}
	return nil
}

func egressTopology() container.Topology {
	t := topology("default", "10.90.1.0/24", "fd7a:1::/64", "lms", "mysql")
	t.Edges = []container.Edge{{From: "lms", To: "mysql", Port: 80}}
	t.Doors = []container.Door{{To: "mysql", Port: 80}}
	t.Egress = []string{"lms"}
	return t
}

func TestEgress(t *testing.T) {
	l := newLab(t)
	out := l.outside()
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, true)
	for _, b := range boxes {
		l.serve(b.ns, 80)
	}
	l.serve(l.host, 8080)

	for _, to := range []netip.Addr{web, web6} {
		for _, network := range []string{"tcp", "udp"} {
			target := netip.AddrPortFrom(to, 80)
			seen := l.mustReach("lms to the outside", boxes["lms"].ns, network, target)
			if from, err := netip.ParseAddrPort(seen); err != nil || from.Addr().Unmap() != wanHost.Addr() && from.Addr() != wanHost6.Addr() {
				t.Errorf("the outside saw lms as %q, want the host's address", seen)
			}
			l.mustBeRefused("mysql has no egress", boxes["mysql"].ns, network, target)
		}
	}
	for _, m := range metadata {
		target := netip.AddrPortFrom(netip.MustParseAddr(m), 80)
		l.mustReach("the host itself to metadata", l.host, "tcp", target)
		for name, b := range boxes {
			l.mustBeRefused(name+" to metadata", b.ns, "tcp", target)
			l.mustBeRefused(name+" to metadata", b.ns, "udp", target)
			l.mustBeRefused(name+" to metadata as a resolver that is not declared", b.ns, "udp", netip.AddrPortFrom(target.Addr(), 53))
		}
	}
	for _, own := range []netip.Addr{wanHost.Addr(), wanHost6.Addr(), HostAddress(top.Prefix4), HostAddress(top.Prefix6)} {
		l.mustReach("the host to itself", l.host, "tcp", netip.AddrPortFrom(own, 8080))
		l.mustBeRefused("lms to the host's own address", boxes["lms"].ns, "tcp", netip.AddrPortFrom(own, 8080))
		l.mustBeRefused("lms to the host's own address", boxes["lms"].ns, "udp", netip.AddrPortFrom(own, 8080))
	}

	// The outside knows where the site is, and the host forwards: still no door.
	l.inside(out, func(h *netlink.Handle) error {
		link := must(h.LinkByName("eth0"))
		if err := h.RouteAdd(&netlink.Route{Dst: ipNet(top.Prefix4), Gw: wanHost.Addr().AsSlice(), LinkIndex: link.Attrs().Index}); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{Dst: ipNet(top.Prefix6), Gw: wanHost6.Addr().AsSlice(), LinkIndex: link.Attrs().Index})
	})
	for _, m := range top.Members {
		for _, target := range targets(m.Addresses, 80) {
			l.mustBeRefused("the outside to "+m.Name, out, "tcp", target)
			l.mustBeRefused("the outside to "+m.Name, out, "udp", target)
		}
	}
	// Containers send nothing that the way out would have to cut.
	l.inside(boxes["lms"].ns, func(h *netlink.Handle) error {
		if mtu := must(h.LinkByName(memberInterface)).Attrs().MTU; mtu != wanMTU {
			t.Errorf("MTU of a member is %d, want the way out's %d", mtu, wanMTU)
		}
		return nil
	})
}

// TestResolverAtMetadataAddress: on some clouds the name server has the
// metadata address; then port 53 of it is open to egress, and nothing else.
func TestResolverAtMetadataAddress(t *testing.T) {
	l := newLab(t)
	l.outside()
	top := egressTopology()
	top.Resolvers = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd20:ce::254")}
	l.apply(top)
	boxes := l.start(top, false)
	for _, r := range top.Resolvers {
		for _, network := range []string{"tcp", "udp"} {
			l.mustReach("lms to its resolver", boxes["lms"].ns, network, netip.AddrPortFrom(r, 53))
			l.mustBeRefused("lms to metadata", boxes["lms"].ns, network, netip.AddrPortFrom(r, 80))
			l.mustBeRefused("mysql has no egress", boxes["mysql"].ns, network, netip.AddrPortFrom(r, 53))
		}
	}
}

// foreignDrop is what Docker, and ufw by default, do to a host.
func (l *lab) foreignDrop(chains ...string) {
	l.Helper()
	l.inside(l.host, func(*netlink.Handle) error {
		conn := must(nftables.New())
		drop := nftables.ChainPolicyDrop
		for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			table := conn.AddTable(&nftables.Table{Name: "filter", Family: f})
			conn.AddChain(&nftables.Chain{
				Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop,
			})
			for _, c := range chains {
				conn.AddChain(&nftables.Chain{Name: c, Table: table})
			}
		}
		return conn.Flush()
	})
}

func TestForeignForwardPolicyDrop(t *testing.T) {
	l := newLab(t)
	l.outside()
	l.foreignDrop("DOCKER-USER")
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, false)
	l.serve(boxes["mysql"].ns, 80)
	for _, target := range targets(boxes["mysql"].Addresses, 80) {
		l.mustReach("edge", boxes["lms"].ns, "tcp", target)
		l.mustReach("door", l.host, "tcp", target)
	}
	if seen, err := ask(boxes["lms"].ns, "tcp", netip.AddrPortFrom(web, 80)); err == nil {
		t.Errorf("the outside answered %q: the administrator's drop was overridden", seen)
	}
	found := l.net.Inspect(t.Context(), Wanted{Site: top.Site, Prefixes: []netip.Prefix{top.Prefix4, top.Prefix6}, Egress: true})
	i := slices.IndexFunc(found, func(f Finding) bool { return f.Code == CodeForwardDocker })
	if i < 0 {
		t.Fatalf("findings %+v lack %s", found, CodeForwardDocker)
	}
	// What the finding proposes must be the interface that is there.
	if !strings.Contains(found[i].Fix, UplinkName(top.Site)) {
		t.Errorf("fix %q does not name the interface %s", found[i].Fix, UplinkName(top.Site))
	}
}

// TestForwarding: the host becomes a router only when a member has egress,
// keeps its own IPv6 default route then, and is set back afterwards.
func TestForwarding(t *testing.T) {
	l := newLab(t)
	l.inside(l.host, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "uplink0"
		if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
			return err
		}
		return writeSysctls([]sysctl{{"net/ipv6/conf/uplink0/accept_ra", "1"}, {forward4, "0"}, {forward6, "0"}})
	})
	settings := func() string {
		var s string
		l.inside(l.host, func(*netlink.Handle) error {
			s = must(readSysctl(forward4)) + must(readSysctl(forward6)) + must(readSysctl("net/ipv6/conf/uplink0/accept_ra"))
			return nil
		})
		return s
	}
	check := func(when, want string) {
		t.Helper()
		if have := settings(); have != want {
			t.Errorf("%s: ip_forward, IPv6 forwarding and accept_ra are %s, want %s", when, have, want)
		}
	}
	top := egressTopology()
	without := top
	without.Egress = nil
	l.apply(without)
	check("without egress", "001")
	l.apply(top)
	check("with egress", "112")
	l.apply(without)
	check("egress taken back", "112")
	other := topology("other", "10.90.2.0/24", "", "lms")
	l.apply(other)
	l.net = l.open() // another process must know it as well
	if err := l.net.Remove(t.Context(), top.Site); err != nil {
		t.Fatal(err)
	}
	check("one site left", "112")
	if err := l.net.Remove(t.Context(), other.Site); err != nil {
		t.Fatal(err)
	}
	check("no site left", "001")
}

func TestForwardingStaysForOthers(t *testing.T) {
	l := newLab(t)
	l.apply(egressTopology())
	l.inside(l.host, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "docker0"
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := h.LinkAdd(bridge); err != nil {
			return err
		}
		return h.LinkSetUp(bridge)
	})
	if err := l.net.Remove(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	l.inside(l.host, func(*netlink.Handle) error {
		if v := must(readSysctl(forward4)); v != "1" {
			t.Errorf("ip_forward is %s while a bridge is up, want 1", v)
		}
		return nil
	})
}
