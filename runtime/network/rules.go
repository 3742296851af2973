package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Priorities of the host's chains: just before the usual filter (0), so that a
// refusal answers at once even where ufw, firewalld or Docker would drop.
// Accepting there overrides none of them (nftables: a drop in any chain of a
// hook is final), which is why the host's administrator is never bypassed.
const hostFilterPriority nftables.ChainPriority = -1

// loadSiteTable replaces the table inside the site's namespace. policy.allows
// is its meaning in words:
//
//	forward, policy drop:
//	  from a member with another source address than its own: drop
//	  to a member that is not attached now: refuse
//	  established, related: accept
//	  member to member, declared edge: accept
//	  host to member, declared door: accept
//	  member with egress to a resolver's port 53: accept
//	  member with egress to anything but a refused range: accept
//	  else: refuse
//	input: refuse all but replies and IPv6 neighbour discovery
func loadSiteTable(conn *nftables.Conn, p *policy) error {
	w := replaceTable(conn, siteTable)
	w.refuseChain()
	w.chain(versionPrefix + p.digest())
	p.addEgressSets(w)
	for _, v := range p.versions() {
		var sources, edges, doors []nftables.SetElement
		for _, s := range p.sources {
			if v.has(s.addr) {
				sources = append(sources, nftables.SetElement{Key: key(ifname(s.outer), s.addr.AsSlice())})
			}
		}
		for _, e := range p.edges {
			if v.has(e.from) {
				edges = append(edges, nftables.SetElement{Key: key(e.from.AsSlice(), e.to.AsSlice(), portBytes(e.port))})
			}
		}
		for _, d := range p.doors {
			if v.has(d.to) {
				doors = append(doors, nftables.SetElement{Key: key(d.to.AsSlice(), portBytes(d.port))})
			}
		}
		w.set(&nftables.Set{Name: "sources" + v.suffix, KeyType: nftables.MustConcatSetType(nftables.TypeIFName, v.addr)}, sources)
		w.set(&nftables.Set{Name: "edges" + v.suffix, KeyType: nftables.MustConcatSetType(v.addr, v.addr, nftables.TypeInetService)}, edges)
		w.set(&nftables.Set{Name: "doors" + v.suffix, KeyType: nftables.MustConcatSetType(v.addr, nftables.TypeInetService)}, doors)
	}

	forward := w.baseChain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter, nftables.ChainPolicyDrop)
	for _, v := range p.versions() {
		// The interface's name is one 16-byte register, the address lies in
		// the next.
		w.rule(forward, notFromInterface(siteUplink), v.is(), loadIncomingName(reg1), v.loadSource(reg2), w.notIn("sources"+v.suffix, reg1), drop())
		w.rule(forward, toInterface(siteUplink), v.is(), v.targetWithin(p.prefix(v)), v.targetIsNot(HostAddress(p.prefix(v))), refuse())
	}
	w.rule(forward, established(), accept())
	w.rule(forward, invalid(), drop())
	for _, v := range p.versions() {
		w.rule(forward, notFromInterface(siteUplink), v.is(), isTCP(),
			v.loadSource(v.reg[0]), v.loadTarget(v.reg[1]), loadPort(v.reg[2]), w.in("edges"+v.suffix, v.reg[0]), accept())
		w.rule(forward, fromInterface(siteUplink), v.is(), v.sourceIs(HostAddress(p.prefix(v))), isTCP(),
			v.loadTarget(v.reg[0]), loadPort(v.reg[1]), w.in("doors"+v.suffix, v.reg[0]), accept())
		p.addEgressRules(w, forward, v, toInterface(siteUplink))
	}
	w.rule(forward, refuse())

	w.refusingInput("")
	return w.commit()
}

// loadHostTable replaces the site's own table on the host: containers reach no
// address of the host itself, the outside only by declaration and under the
// host's address, and nothing that the host forwards reaches a container:
// neither from the outside nor from another site.
func loadHostTable(conn *nftables.Conn, p *policy) error {
	uplink := UplinkName(p.site)
	w := replaceTable(conn, hostTable(p.site))
	w.refuseChain()
	w.chain(versionPrefix + p.digest())
	p.addEgressSets(w)
	w.refusingInput(uplink)

	forward := w.baseChain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, hostFilterPriority, nftables.ChainPolicyAccept)
	w.rule(forward, toInterface(uplink), established(), accept())
	w.rule(forward, toInterface(uplink), invalid(), drop())
	w.rule(forward, toInterface(uplink), refuse())
	w.rule(forward, fromInterface(uplink), established(), accept())
	w.rule(forward, fromInterface(uplink), invalid(), drop())
	for _, v := range p.versions() {
		p.addEgressRules(w, forward, v, fromInterface(uplink))
	}
	w.rule(forward, fromInterface(uplink), refuse())

	nat := w.baseChain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, nftables.ChainPolicyAccept)
	for _, v := range p.versions() {
		w.rule(nat, notToInterface(uplink), v.is(), v.loadSource(reg1), w.in("egress"+v.suffix, reg1), masquerade())
	}
	return w.commit()
}

// addEgressSets makes the sets that both tables need: who may go out, which
// resolvers may be asked, and what is refused to everybody.
func (p *policy) addEgressSets(w *tableWriter) {
	for _, v := range p.versions() {
		var egress, resolvers []nftables.SetElement
		for _, a := range p.egress {
			if v.has(a) {
				egress = append(egress, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		for _, a := range p.resolvers {
			if v.has(a) {
				resolvers = append(resolvers, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		var refused []netip.Prefix
		for _, r := range refusedEverywhere {
			if v.has(r.Addr()) {
				refused = append(refused, r)
			}
		}
		w.set(&nftables.Set{Name: "egress" + v.suffix, KeyType: v.addr}, egress)
		w.set(&nftables.Set{Name: "resolvers" + v.suffix, KeyType: v.addr}, resolvers)
		w.set(&nftables.Set{Name: "refused" + v.suffix, KeyType: v.addr, Interval: true}, rangeElements(refused))
	}
}

// addEgressRules lets members with egress out. where says by which interface a
// packet on its way out is known.
func (p *policy) addEgressRules(w *tableWriter, c *nftables.Chain, v ipVersion, where []expr.Any) {
	from := slices.Concat(where, v.is(), v.loadSource(reg1), w.in("egress"+v.suffix, reg1))
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		w.rule(c, from, v.loadTarget(reg1), w.in("resolvers"+v.suffix, reg1), protocol(proto), portIs(dnsPort), accept())
	}
	w.rule(c, from, v.loadTarget(reg1), w.notIn("refused"+v.suffix, reg1), accept())
}

// refusingInput refuses what a container sends to the namespace itself: to
// every local address, however many there are and whenever they came. With ""
// it is for all interfaces but the loopback.
func (w *tableWriter) refusingInput(iface string) {
	where := notFromInterface("lo")
	if iface != "" {
		where = fromInterface(iface)
	}
	c := w.baseChain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, hostFilterPriority, nftables.ChainPolicyAccept)
	w.rule(c, where, established(), accept())
	w.rule(c, where, invalid(), drop())
	// The two ends of a pair find each other's hardware address by these; the
	// kernel accepts them from the link itself only (hop limit 255).
	for _, kind := range []byte{icmpv6NeighbourSolicitation, icmpv6NeighbourAdvertisement} {
		w.rule(c, where, protocol(unix.IPPROTO_ICMPV6), icmpType(kind), accept())
	}
	w.rule(c, where, refuse())
}

// versions are the families that the site has.
func (p *policy) versions() []ipVersion {
	if p.prefix6.IsValid() {
		return []ipVersion{ipv4, ipv6}
	}
	return []ipVersion{ipv4}
}

func (p *policy) prefix(v ipVersion) netip.Prefix {
	if v.proto == unix.NFPROTO_IPV6 {
		return p.prefix6
	}
	return p.prefix4
}
