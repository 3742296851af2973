package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tarima/runtime/container"
)

// Attach gives the process's network namespace the member's interface: eth0
// with the member's fixed addresses, a default route, and the loopback up. It
// is meant for the moment between create and start; for a process that has its
// interface already it changes nothing, and one that lost it gets it anew.
//
// The site must have been applied by this process (ErrUnknownMember). A
// process that has ended, or that shares the host's or the site's namespace,
// is refused (ErrProcess).
func (n *Network) Attach(ctx context.Context, site, member string, pid int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.sites[site]
	if p == nil {
		return fmt.Errorf("attach member %q: %w: site %q has not been applied", member, ErrUnknownMember, site)
	}
	addresses, ok := p.members[member]
	if !ok {
		return fmt.Errorf("attach member %q: %w in site %q", member, ErrUnknownMember, site)
	}
	if err := n.attach(p, member, addresses, pid); err != nil {
		return fmt.Errorf("attach member %q of site %q to process %d: %w", member, site, pid, err)
	}
	return nil
}

func (n *Network) attach(p *policy, member string, addresses container.Addresses, pid int) error {
	if pid <= 0 {
		return fmt.Errorf("%w: %d is no process id", ErrProcess, pid)
	}
	target, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid), "member "+member)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: it has ended", ErrProcess)
	}
	if err != nil {
		return err
	}
	defer target.close()
	if !pinned(n.pinPath(p.site)) {
		return fmt.Errorf("%w: the site's namespace is gone; apply it again", ErrUnknownMember)
	}
	siteNS, err := openNamespace(n.pinPath(p.site), "site "+p.site)
	if err != nil {
		return err
	}
	defer siteNS.close()
	if target.same(n.host) || target.same(siteNS) {
		return fmt.Errorf("%w: it has no network namespace of its own", ErrProcess)
	}

	var outer netlink.Link
	fresh := false
	err = siteNS.do(func(h *netlink.Handle) error {
		var err error
		outer, fresh, err = n.ensurePair(h, member, target)
		if err != nil {
			return err
		}
		return n.configureOuter(h, outer, member, addresses)
	})
	if err == nil {
		n.step("outer end configured")
		err = target.do(func(h *netlink.Handle) error {
			if err := n.configureInner(h, outer, member, addresses); err != nil {
				return err
			}
			return awaitOperable(h, memberInterface, valid(addresses.V6)...)
		})
	}
	if err == nil {
		err = siteNS.do(func(h *netlink.Handle) error { return awaitOperable(h, outerName(member)) })
	}
	if err != nil && fresh {
		// Half an interface would look like a member that is attached.
		err = errors.Join(err, siteNS.do(func(h *netlink.Handle) error { return deleteLink(h, outerName(member)) }))
	}
	return err
}

// ensurePair finds the member's pair if it leads into target, and makes it
// otherwise.
func (n *Network) ensurePair(h *netlink.Handle, member string, target *namespace) (outer netlink.Link, fresh bool, err error) {
	name := outerName(member)
	outer, err = findLink(h, name)
	if err != nil {
		return nil, false, err
	}
	if outer != nil {
		leads, err := leadsInto(outer, target)
		if err != nil || leads {
			return outer, false, err
		}
		if err := deleteLink(h, name); err != nil {
			return nil, false, err
		}
		n.step("stale pair removed")
	}
	uplink, err := h.LinkByName(siteUplink)
	if err != nil {
		return nil, false, fmt.Errorf("look up the site's uplink: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, uplink.Attrs().MTU
	attrs.HardwareAddr = hardwareAddr(member, siteEnd)
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: memberInterface, PeerNamespace: netlink.NsFd(target.fd),
		PeerMTU: uint32(attrs.MTU), PeerHardwareAddr: hardwareAddr(member, memberEnd),
	}
	err = h.LinkAdd(pair)
	if errors.Is(err, unix.EEXIST) && dropOrphan(member, target) {
		n.step("orphan removed")
		err = h.LinkAdd(pair)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil, false, fmt.Errorf("%w: the process has an interface %s already", ErrNameTaken, memberInterface)
	}
	if err != nil {
		return nil, false, fmt.Errorf("make interface pair: %w", err)
	}
	n.step("pair made")
	outer, err = h.LinkByName(name)
	if err != nil {
		return nil, true, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return outer, true, nil
}

// dropOrphan removes the eth0 that an earlier Attach gave to target when it no
// longer leads into the site's namespace: that one was lost and made anew, and
// the kernel has not yet cleared the old one away.
func dropOrphan(member string, target *namespace) (dropped bool) {
	_ = target.do(func(h *netlink.Handle) error {
		link, err := findLink(h, memberInterface)
		if err != nil || link == nil {
			dropped = err == nil // it went by itself
			return err
		}
		if link.Type() == "veth" && bytes.Equal(link.Attrs().HardwareAddr, hardwareAddr(member, memberEnd)) {
			dropped = deleteLink(h, memberInterface) == nil
		}
		return nil
	})
	return dropped
}

// leadsInto says whether the other end of a pair is target's eth0.
func leadsInto(outer netlink.Link, target *namespace) (bool, error) {
	leads := false
	err := target.do(func(h *netlink.Handle) error {
		inner, err := findLink(h, memberInterface)
		if err != nil || inner == nil {
			return err
		}
		leads = inner.Type() == "veth" &&
			inner.Attrs().Index == outer.Attrs().ParentIndex && inner.Attrs().ParentIndex == outer.Attrs().Index
		return nil
	})
	return leads, err
}

// configureOuter makes the site's end the gateway of this one member.
func (n *Network) configureOuter(h *netlink.Handle, outer netlink.Link, member string, a container.Addresses) error {
	v6 := a.V6.IsValid()
	inner := hardwareAddr(member, memberEnd)
	end := linkEnd{
		name: outer.Attrs().Name, alias: member, mtu: outer.Attrs().MTU, v6: v6, mac: hardwareAddr(member, siteEnd),
		addrs:      []netip.Prefix{single(gateway4)},
		neighbours: map[netip.Addr]net.HardwareAddr{a.V4: inner},
	}
	end.routes = append(end.routes, netlink.Route{Dst: ipNet(single(a.V4)), Scope: unix.RT_SCOPE_LINK})
	if v6 {
		end.addrs = append(end.addrs, netip.PrefixFrom(gateway6, 64))
		end.routes = append(end.routes, netlink.Route{Dst: ipNet(single(a.V6))})
		end.neighbours[a.V6] = inner
	}
	return n.configureEnd(h, end)
}

// configureInner furnishes the container's own namespace.
func (n *Network) configureInner(h *netlink.Handle, outer netlink.Link, member string, a container.Addresses) error {
	if err := writeSysctls(containerSettings()); err != nil {
		return err
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up the loopback interface: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback interface up: %w", err)
	}
	v6 := a.V6.IsValid()
	gateway := hardwareAddr(member, siteEnd)
	end := linkEnd{
		name: memberInterface, mtu: outer.Attrs().MTU, v6: v6, mac: hardwareAddr(member, memberEnd),
		addrs:      []netip.Prefix{single(a.V4)},
		neighbours: map[netip.Addr]net.HardwareAddr{gateway4: gateway},
	}
	end.routes = append(end.routes, netlink.Route{Dst: everything(false), Gw: gateway4.AsSlice(), Flags: unix.RTNH_F_ONLINK})
	if v6 {
		end.addrs = append(end.addrs, single(a.V6))
		end.routes = append(end.routes, netlink.Route{Dst: everything(true), Gw: gateway6.AsSlice(), Flags: unix.RTNH_F_ONLINK})
		end.neighbours[gateway6] = gateway
	}
	return n.configureEnd(h, end)
}
