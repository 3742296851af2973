package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tarima/runtime/container"
)

func TestTwoSites(t *testing.T) {
	l := newLab(t)
	l.outside()
	boxes := map[string]*box{}
	for i, site := range []string{"first", "second"} {
		top := topology(site, fmt.Sprintf("10.90.%d.0/24", i+1), fmt.Sprintf("fd7a:%d::/64", i+1), "lms", "mysql")
		top.Edges = []container.Edge{{From: "lms", To: "mysql", Port: 80}}
		top.Doors = []container.Door{{To: "mysql", Port: 80}, {To: "lms", Port: 80}}
		top.Egress = []string{"lms"} // the host forwards for both
		l.apply(top)
		for name, b := range l.start(top, false) {
			l.serve(b.ns, 80)
			boxes[site+" "+name] = b
		}
	}
	for from, a := range boxes {
		for to, b := range boxes {
			if strings.Fields(from)[0] == strings.Fields(to)[0] {
				continue
			}
			for _, target := range targets(b.Addresses, 80) {
				l.mustBeRefused(from+" to "+to, a.ns, "tcp", target)
				l.mustBeRefused(from+" to "+to, a.ns, "udp", target)
			}
		}
	}
	for _, site := range []string{"first", "second"} {
		for _, target := range targets(boxes[site+" mysql"].Addresses, 80) {
			l.mustReach("edge within "+site, boxes[site+" lms"].ns, "tcp", target)
			l.mustReach("door of "+site, l.host, "tcp", target)
		}
	}
	// The end of one site is nothing to the other.
	if err := l.net.Remove(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	l.mustReach("edge within second", boxes["second lms"].ns, "tcp", targets(boxes["second mysql"].Addresses, 80)[0])
	l.mustReach("egress of second", boxes["second lms"].ns, "tcp", netip.AddrPortFrom(web, 80))
}

// TestApplyAgain: a hundred times by the same and by other processes, nothing
// grows and no connection ends.
func TestApplyAgain(t *testing.T) {
	l := newLab(t)
	l.outside()
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, false)
	l.serve(boxes["mysql"].ns, 80)
	before, filesBefore := l.state(top.Site), openFiles(t)
	// Next hops of both families: the uplink's two ends, and two members.
	if known := strings.Count(before, " neighbour "); known != 8 {
		t.Errorf("%d hardware addresses are known for ever, want 8:\n%s", known, before)
	}
	for i := range 100 {
		if i%10 == 0 {
			l.net = l.open()
		}
		l.apply(top)
		if err := l.net.Attach(t.Context(), top.Site, "lms", boxes["lms"].pid); err != nil {
			t.Fatal(err)
		}
	}
	if after := l.state(top.Site); after != before {
		t.Errorf("state has changed from\n%s\nto\n%s", before, after)
	}
	// One namespace handle for each Network that open made.
	if after := openFiles(t); after > filesBefore+10 {
		t.Errorf("%d open files, %d before", after, filesBefore)
	}
	l.mustReach("edge", boxes["lms"].ns, "tcp", targets(boxes["mysql"].Addresses, 80)[0])
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestRepair: what others delete on the host, the next Apply puts back.
func TestRepair(t *testing.T) {
	top := egressTopology()
	for name, harm := range map[string]func(l *lab, h *netlink.Handle) error{
		"rules flushed": func(*lab, *netlink.Handle) error {
			conn := must(nftables.New())
			conn.FlushRuleset()
			return conn.Flush()
		},
		"uplink deleted": func(_ *lab, h *netlink.Handle) error { return deleteLink(h, UplinkName(top.Site)) },
		"uplink down":    func(_ *lab, h *netlink.Handle) error { return h.LinkSetDown(must(h.LinkByName(UplinkName(top.Site)))) },
		"uplink renamed": func(_ *lab, h *netlink.Handle) error { return renameDown(h, UplinkName(top.Site), "gone0") },
		"forwarding off": func(*lab, *netlink.Handle) error { return writeSysctl(sysctl{forward4, "0"}) },
		"address replaced": func(_ *lab, h *netlink.Handle) error {
			link := must(h.LinkByName(UplinkName(top.Site)))
			if err := h.AddrDel(link, &netlink.Addr{IPNet: ipNet(single(HostAddress(top.Prefix4)))}); err != nil {
				return err
			}
			return addAddress(h, link, netip.MustParsePrefix("10.77.0.1/24"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.outside()
			l.apply(top)
			boxes := l.start(top, false)
			l.serve(boxes["mysql"].ns, 80)
			before := l.state(top.Site)
			l.inside(l.host, func(h *netlink.Handle) error { return harm(l, h) })
			if l.state(top.Site) == before {
				t.Fatal("the harm done does not show")
			}
			l.apply(top)
			if after := l.state(top.Site); sorted(after) != sorted(before) { // the order of interfaces may differ
				t.Errorf("state is\n%s\nwant\n%s", after, before)
			}
			l.mustReach("edge", boxes["lms"].ns, "tcp", targets(boxes["mysql"].Addresses, 80)[0])
			for _, target := range targets(boxes["mysql"].Addresses, 80) {
				l.mustReach("door", l.host, "tcp", target)
			}
			l.mustReach("egress", boxes["lms"].ns, "tcp", netip.AddrPortFrom(web, 80))
		})
	}
}

func renameDown(h *netlink.Handle, from, to string) error {
	link := must(h.LinkByName(from))
	if err := h.LinkSetDown(link); err != nil {
		return err
	}
	return h.LinkSetName(link, to)
}

func sorted(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestEdgeTakenBack: connections over an edge end with it, and others go on.
func TestEdgeTakenBack(t *testing.T) {
	l := newLab(t)
	top := topology("default", "10.90.1.0/24", "fd7a:1::/64", "lms", "mysql", "redis")
	top.Edges = []container.Edge{{From: "lms", To: "mysql", Port: 80}, {From: "lms", To: "redis", Port: 80}}
	l.apply(top)
	boxes := l.start(top, false)
	open := map[string]net.Conn{}
	for _, name := range []string{"mysql", "redis"} {
		l.echo(boxes[name].ns, 80)
		for _, target := range targets(boxes[name].Addresses, 80) {
			c, err := dial(boxes["lms"].ns, "tcp", target)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if err := roundTrip(c); err != nil {
				t.Fatal(err)
			}
			open[name+" "+target.String()] = c
		}
	}
	top.Edges = top.Edges[1:]
	l.apply(top)
	for name, c := range open {
		err := roundTrip(c)
		if strings.HasPrefix(name, "redis") && err != nil {
			t.Errorf("connection to %s: %v, want it to go on", name, err)
		}
		if strings.HasPrefix(name, "mysql") && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connection to %s, whose edge was taken back: %v, want a reset", name, err)
		}
	}
}

// echo answers on TCP until the test's end.
func (l *lab) echo(ns *namespace, port uint16) {
	l.Helper()
	var ln net.Listener
	l.inside(ns, func(*netlink.Handle) (err error) {
		ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.Conn
		for {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
			go func() { _, _ = io.Copy(c, c) }()
		}
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	l.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
}

func roundTrip(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// TestManyEdges: a site far larger than any Open edX is, whose sets need more
// than one message each.
func TestManyEdges(t *testing.T) {
	l := newLab(t)
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("service-%d", i))
	}
	top := topology("default", "10.90.0.0/16", "fd7a:1::/64", names...)
	for i := range names {
		for j := range 40 {
			top.Edges = append(top.Edges, container.Edge{From: names[i], To: names[(i+j+1)%100], Port: 8000})
		}
	}
	l.apply(top)
	s := l.state(top.Site)
	for _, want := range []string{"set edges4 with 4000", "set edges6 with 4000", "set sources4 with 100"} {
		if !strings.Contains(s, want) {
			t.Errorf("state lacks %q:\n%s", want, s)
		}
	}
}

// TestMemberThatIsDown: an edge or a door to a member that is not attached is
// refused at once; nothing waits for a time-out.
func TestMemberThatIsDown(t *testing.T) {
	l := newLab(t)
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, false)
	if err := l.net.Detach(t.Context(), top.Site, "mysql"); err != nil {
		t.Fatal(err)
	}
	for range 20 { // the kernel's own answers would be limited to a few a second
		for _, target := range targets(boxes["mysql"].Addresses, 80) {
			l.mustBeRefused("edge", boxes["lms"].ns, "tcp", target)
			l.mustBeRefused("door", l.host, "tcp", target)
		}
	}
	if err := l.net.Detach(t.Context(), top.Site, "mysql"); err != nil {
		t.Errorf("detach again: %v", err)
	}
	if err := l.net.Detach(t.Context(), "nowhere", "mysql"); err != nil {
		t.Errorf("detach in a site that is not there: %v", err)
	}
}

// TestForgedSource: not one packet of a member that takes another's address, as
// root of a container could that was broken into, gets through to a third.
func TestForgedSource(t *testing.T) {
	l := newLab(t)
	top := topology("default", "10.90.1.0/24", "fd7a:1::/64", "lms", "mysql", "evil")
	top.Edges = []container.Edge{{From: "lms", To: "mysql", Port: 80}, {From: "evil", To: "mysql", Port: 81}}
	l.apply(top)
	boxes := l.start(top, false)
	l.serve(boxes["mysql"].ns, 80)
	l.serve(boxes["mysql"].ns, 81)
	as := func(a netip.Addr, target netip.AddrPort, patience time.Duration) error {
		return boxes["evil"].ns.do(func(*netlink.Handle) error {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)), Timeout: patience}
			c, err := d.Dial("tcp", target.String())
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	}
	for i, forged := range addrs(boxes["lms"].Addresses) {
		own := addrs(boxes["evil"].Addresses)[i]
		l.inside(boxes["evil"].ns, func(h *netlink.Handle) error {
			return addAddress(h, must(h.LinkByName(memberInterface)), single(forged))
		})
		// A raw socket sees every TCP segment that comes in.
		var raw *net.IPConn
		l.inside(boxes["mysql"].ns, func(*netlink.Handle) (err error) {
			raw, err = net.ListenIP([]string{"ip4:tcp", "ip6:tcp"}[i], &net.IPAddr{IP: addrs(boxes["mysql"].Addresses)[i].AsSlice()})
			return err
		})
		defer func() { _ = raw.Close() }()
		if err := as(forged, targets(boxes["mysql"].Addresses, 80)[i], 300*time.Millisecond); err == nil {
			t.Errorf("evil reached mysql as %s", forged)
		}
		if err := as(own, targets(boxes["mysql"].Addresses, 81)[i], dialTimeout); err != nil {
			t.Errorf("evil as itself, over its edge: %v", err)
		}
		if err := raw.SetReadDeadline(time.Now().Add(dialTimeout)); err != nil {
			t.Fatal(err)
		}
		// What came first is read first: a forged segment would be ahead of
		// evil's own.
		buf := make([]byte, 2048)
		_, from, err := raw.ReadFromIP(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := netip.AddrFromSlice(from.IP); got.Unmap() != own {
			t.Errorf("the first segment that mysql got is from %s, want %s", got.Unmap(), own)
		}
	}
}

func TestRangeInUse(t *testing.T) {
	l := newLab(t)
	l.inside(l.host, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "lan0"
		link := &netlink.Ifb{LinkAttrs: attrs}
		if err := h.LinkAdd(link); err != nil {
			return err
		}
		if err := l.configure(h, "lan0", []netip.Prefix{netip.MustParsePrefix("10.80.0.1/16"), netip.MustParsePrefix("fd80::1/48")}); err != nil {
			return err
		}
		// A VPN's way to everywhere, and a range held free, are no use of it.
		for _, r := range []netlink.Route{
			{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/1")), LinkIndex: link.Index},
			{Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8")), Type: unix.RTN_BLACKHOLE},
		} {
			if err := h.RouteAdd(&r); err != nil {
				return err
			}
		}
		return nil
	})
	before := l.state()
	for _, in := range []struct{ prefix4, prefix6, names string }{
		{"10.80.3.0/24", "", "10.80.0.0/16 (route by lan0)"},
		{"10.80.0.0/24", "", "10.80.0.1/32 (address of lan0)"},
		{"10.64.0.0/10", "", "10.80.0.0/16 (route by lan0)"},
		{"10.90.0.0/24", "fd80:0:0:1::/64", "fd80::/48 (route by lan0)"},
	} {
		err := l.net.Apply(t.Context(), topology("default", in.prefix4, in.prefix6, "lms"))
		if !errors.Is(err, ErrRangeInUse) || !strings.Contains(err.Error(), in.names) {
			t.Errorf("%s %s: error %v, want ErrRangeInUse that names %s", in.prefix4, in.prefix6, err, in.names)
		}
		found := l.net.Inspect(t.Context(), Wanted{Site: "default", Prefixes: []netip.Prefix{netip.MustParsePrefix(in.prefix4)}})
		if in.prefix6 == "" && !slices.ContainsFunc(found, func(f Finding) bool { return f.Code == CodeRangeInUse && strings.Contains(f.Text, in.names) }) {
			t.Errorf("findings %+v do not name %s", found, in.names)
		}
	}
	if after := l.state(); after != before {
		t.Errorf("a refused site has changed the host from\n%s\nto\n%s", before, after)
	}
	top := topology("default", "10.90.1.0/24", "fd90::/64", "lms")
	l.apply(top)
	if err := l.net.Apply(t.Context(), topology("second", "10.90.0.0/16", "", "lms")); !errors.Is(err, ErrRangeInUse) {
		t.Errorf("a second site in the range of the first: %v, want ErrRangeInUse", err)
	}
	// What comes later does not stop a site that runs.
	l.inside(l.host, func(h *netlink.Handle) error {
		return addAddress(h, must(h.LinkByName("lan0")), netip.MustParsePrefix("10.90.1.200/16"))
	})
	l.apply(top)
}

// TestRangeChanged: a site moves to another range with all that belongs to it.
func TestRangeChanged(t *testing.T) {
	l := newLab(t)
	l.apply(topology("default", "10.90.1.0/24", "fd7a:1::/64", "lms"))
	moved := topology("default", "10.91.0.0/16", "", "lms")
	moved.Doors = []container.Door{{To: "lms", Port: 80}}
	l.apply(moved)
	boxes := l.start(moved, false)
	l.serve(boxes["lms"].ns, 80)
	l.mustReach("door", l.host, "tcp", targets(boxes["lms"].Addresses, 80)[0])
	if s := l.state("default"); strings.Contains(s, "10.90.1.") || strings.Contains(s, "fd7a:1:") {
		t.Errorf("something of the former range is left:\n%s", s)
	}
}

func TestNameTaken(t *testing.T) {
	l := newLab(t)
	l.inside(l.host, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = UplinkName("default")
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	if err := l.net.Apply(t.Context(), egressTopology()); !errors.Is(err, ErrNameTaken) {
		t.Errorf("apply: %v, want ErrNameTaken", err)
	}
	l.inside(l.host, func(h *netlink.Handle) error { return h.LinkDel(must(h.LinkByName(UplinkName("default")))) })
}

func TestAttachRefuses(t *testing.T) {
	l := newLab(t)
	top := egressTopology()
	pid, ns := l.hold(false)
	if err := l.net.Attach(t.Context(), "default", "lms", pid); !errors.Is(err, ErrUnknownMember) {
		t.Errorf("attach before apply: %v, want ErrUnknownMember", err)
	}
	l.apply(top)
	for _, in := range []struct {
		what, member string
		pid          int
		want         error
	}{
		{"unknown member", "nobody", pid, ErrUnknownMember},
		{"no process", "lms", 0, ErrProcess},
		{"process that has ended", "lms", 1 << 30, ErrProcess},
	} {
		if err := l.net.Attach(t.Context(), "default", in.member, in.pid); !errors.Is(err, in.want) {
			t.Errorf("attach %s: %v, want %v", in.what, err, in.want)
		}
	}
	own := must(Open(Config{Dir: l.dir})) // here the test's own namespace is the host
	defer func() { _ = own.Close() }()
	own.sites["default"] = must2(compile(top))
	if err := own.Attach(t.Context(), "default", "lms", os.Getpid()); !errors.Is(err, ErrProcess) {
		t.Errorf("attach a process of the host: %v, want ErrProcess", err)
	}
	l.inside(ns, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = memberInterface
		return h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs})
	})
	before := l.state("default")
	if err := l.net.Attach(t.Context(), "default", "lms", pid); !errors.Is(err, ErrNameTaken) {
		t.Errorf("attach over another eth0: %v, want ErrNameTaken", err)
	}
	if after := l.state("default"); after != before {
		t.Errorf("a refused attach has changed\n%s\nto\n%s", before, after)
	}
	// One that fails half-way takes back what it has done.
	second, secondNS := l.hold(false)
	l.net.step = func(name string) {
		if name == "outer end configured" {
			l.inside(secondNS, func(h *netlink.Handle) error { return renameDown(h, memberInterface, "stolen0") })
		}
	}
	if err := l.net.Attach(t.Context(), "default", "lms", second); err == nil {
		t.Error("attach without an eth0 to configure: no error")
	}
	l.net.step = func(string) {}
	if after := l.state("default"); after != before {
		t.Errorf("a failed attach has changed\n%s\nto\n%s", before, after)
	}
}

func must2(p policy, err error) *policy {
	p = must(p, err)
	return &p
}

// TestReplaced: a member's new container takes its place, also when the old
// one was never detached, and Sweep leaves exactly the live ones.
func TestReplaced(t *testing.T) {
	l := newLab(t)
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, false)
	pid, ns := l.hold(true)
	if err := l.net.Attach(t.Context(), top.Site, "mysql", pid); err != nil {
		t.Fatal(err)
	}
	l.serve(ns, 80)
	l.mustReach("edge", boxes["lms"].ns, "tcp", targets(boxes["mysql"].Addresses, 80)[0])
	removed, err := l.net.Sweep(t.Context(), top.Site, []string{"lms", "mysql"})
	if err != nil || len(removed) != 0 {
		t.Errorf("sweep with all alive removed %v, %v", removed, err)
	}
	removed, err = l.net.Sweep(t.Context(), top.Site, []string{"mysql"})
	if err != nil || !slices.Equal(removed, []string{outerName("lms")}) {
		t.Errorf("sweep removed %v, %v, want the interface of lms", removed, err)
	}
	l.mustReach("door", l.host, "tcp", targets(boxes["mysql"].Addresses, 80)[0])
}

// TestNamespaceLost: a pin that is gone, as after a start with private mounts,
// costs the running containers their network only until they are attached anew.
func TestNamespaceLost(t *testing.T) {
	l := newLab(t)
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, true)
	l.serve(boxes["mysql"].ns, 80)
	applied := l.state(top.Site)
	lost := must(openNamespace(l.net.pinPath(top.Site), "lost")) // keeps the old one alive, and its interfaces with it
	if err := unpin(l.net.pinPath(top.Site)); err != nil {
		t.Fatal(err)
	}
	if err := l.net.Attach(t.Context(), top.Site, "lms", boxes["lms"].pid); !errors.Is(err, ErrUnknownMember) {
		t.Errorf("attach without a namespace: %v, want ErrUnknownMember", err)
	}
	l.apply(top)
	for _, name := range []string{"lms", "mysql"} {
		if name == "mysql" {
			lost.close() // from here on the old one may go at any moment
		}
		if err := l.net.Attach(t.Context(), top.Site, name, boxes[name].pid); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.state(top.Site); sorted(s) != sorted(applied) {
		t.Errorf("state is\n%s\nwant\n%s", s, applied)
	}
	for _, target := range targets(boxes["mysql"].Addresses, 80) {
		l.mustReach("edge", boxes["lms"].ns, "tcp", target)
		l.mustReach("door", l.host, "tcp", target)
	}
}

// TestRemove: nothing is left of a site, with its containers still running.
func TestRemove(t *testing.T) {
	l := newLab(t)
	before := l.state()
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, false)
	for range 2 {
		if err := l.net.Remove(t.Context(), top.Site); err != nil {
			t.Fatal(err)
		}
	}
	if after := l.state(); after != before {
		t.Errorf("removing a site left\n%s\nwant\n%s", after, before)
	}
	if entries := must(os.ReadDir(l.dir)); len(entries) > 0 {
		t.Errorf("%d files are left: %v", len(entries), entries)
	}
	l.inside(boxes["lms"].ns, func(h *netlink.Handle) error {
		if link := must(findLink(h, memberInterface)); link != nil {
			t.Error("the container still has its interface")
		}
		return nil
	})
}
