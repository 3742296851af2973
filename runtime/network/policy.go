package network

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tarima/runtime/container"
)

// policyVersion is part of every digest: raise it when the rules around the
// sets change, so that tables made by an older Tarima are replaced.
const policyVersion = 1

// dnsPort is the one port on which a declared resolver may be reached even
// where its address is refused otherwise.
const dnsPort = 53

// refusedEverywhere are addresses at which clouds hand their machines'
// credentials to whoever asks. No member may reach them, egress or not.
var refusedEverywhere = []netip.Prefix{
	// IPv4 link-local: 169.254.169.254 (AWS, Azure, Google, Hetzner, OpenStack,
	// DigitalOcean …), 169.254.170.2 (AWS containers), 169.254.0.23 (Tencent),
	// 169.254.42.42 (Scaleway).
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's host agent
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle Cloud, first generation
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google Cloud
	netip.MustParsePrefix("fd00:42::42/128"),    // Scaleway
	netip.MustParsePrefix("fe80::/10"),          // link-local, OpenStack's fe80::a9fe:a9fe
}

// policy is a topology in the form in which the kernel asks: sorted sets of
// addresses, without names. It is a pure function of the topology.
type policy struct {
	site    string
	prefix4 netip.Prefix
	prefix6 netip.Prefix
	members map[string]container.Addresses

	sources   []source
	edges     []edge
	doors     []door
	egress    []netip.Addr
	resolvers []netip.Addr
}

// source ties an address to the one interface that may send from it.
type source struct {
	outer string
	addr  netip.Addr
}

// edge lets from open TCP connections to a port of to.
type edge struct {
	from, to netip.Addr
	port     uint16
}

// door lets the host open TCP connections to a port of to.
type door struct {
	to   netip.Addr
	port uint16
}

// compile checks a topology and turns it into a policy. Equal topologies give
// equal policies, in whatever order their parts are listed and however often
// one is repeated.
func compile(t container.Topology) (policy, error) {
	p := policy{site: t.Site, prefix4: t.Prefix4, prefix6: t.Prefix6, members: make(map[string]container.Addresses, len(t.Members))}
	if err := checkName("site", t.Site); err != nil {
		return policy{}, err
	}
	if err := p.checkPrefixes(); err != nil {
		return policy{}, err
	}
	if err := p.addMembers(t.Members); err != nil {
		return policy{}, err
	}
	for _, e := range t.Edges {
		if err := p.addEdge(e); err != nil {
			return policy{}, err
		}
	}
	for _, d := range t.Doors {
		to, ok := p.members[d.To]
		if !ok || d.Port == 0 {
			return policy{}, fmt.Errorf("%w: site %q: door to port %d of %q: %s", ErrTopology, t.Site, d.Port, d.To, unknownOrZero(ok))
		}
		for _, a := range addrs(to) {
			p.doors = append(p.doors, door{a, d.Port})
		}
	}
	for _, name := range t.Egress {
		m, ok := p.members[name]
		if !ok {
			return policy{}, fmt.Errorf("%w: site %q: egress for %q: no such member", ErrTopology, t.Site, name)
		}
		p.egress = append(p.egress, addrs(m)...)
	}
	for _, r := range t.Resolvers {
		if !r.IsValid() || r.IsLoopback() || r.IsUnspecified() || r.IsMulticast() {
			return policy{}, fmt.Errorf("%w: site %q: resolver %q cannot be reached from a container", ErrTopology, t.Site, r)
		}
		p.resolvers = append(p.resolvers, r.Unmap().WithZone(""))
	}
	p.sort()
	return p, nil
}

func unknownOrZero(known bool) string {
	if known {
		return "the port must not be 0"
	}
	return "no such member"
}

func (p *policy) checkPrefixes() error {
	if !p.prefix4.IsValid() || !p.prefix4.Addr().Is4() || p.prefix4.Bits() < 8 || p.prefix4.Bits() > 29 {
		return fmt.Errorf("%w: site %q: IPv4 range %s must be a network of /8 to /29", ErrTopology, p.site, p.prefix4)
	}
	p.prefix4 = p.prefix4.Masked()
	if a := p.prefix4.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
		return fmt.Errorf("%w: site %q: IPv4 range %s is special and cannot carry containers", ErrTopology, p.site, p.prefix4)
	}
	if !p.prefix6.IsValid() {
		p.prefix6 = netip.Prefix{}
		return nil
	}
	if !p.prefix6.Addr().Is6() || p.prefix6.Addr().Is4In6() || p.prefix6.Bits() < 16 || p.prefix6.Bits() > 120 {
		return fmt.Errorf("%w: site %q: IPv6 range %s must be a network of /16 to /120", ErrTopology, p.site, p.prefix6)
	}
	p.prefix6 = p.prefix6.Masked()
	if a := p.prefix6.Addr(); a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
		return fmt.Errorf("%w: site %q: IPv6 range %s is special and cannot carry containers", ErrTopology, p.site, p.prefix6)
	}
	return nil
}

func (p *policy) addMembers(members []container.Member) error {
	taken := map[netip.Addr]string{
		RouterAddress(p.prefix4): "the site's router", HostAddress(p.prefix4): "the host",
	}
	if p.prefix6.IsValid() {
		taken[RouterAddress(p.prefix6)], taken[HostAddress(p.prefix6)] = "the site's router", "the host"
	}
	outers := map[string]string{}
	for _, m := range members {
		if err := checkName("member", m.Name); err != nil {
			return fmt.Errorf("site %q: %w", p.site, err)
		}
		if _, twice := p.members[m.Name]; twice {
			return fmt.Errorf("%w: site %q: member %q is listed twice", ErrTopology, p.site, m.Name)
		}
		if !m.V4.IsValid() {
			return fmt.Errorf("%w: site %q: member %q has no IPv4 address", ErrTopology, p.site, m.Name)
		}
		for _, in := range []struct {
			addr   netip.Addr
			prefix netip.Prefix
		}{{m.V4, p.prefix4}, {m.V6, p.prefix6}} {
			if !in.addr.IsValid() {
				continue
			}
			if !in.prefix.IsValid() || !in.prefix.Contains(in.addr) {
				return fmt.Errorf("%w: site %q: address %s of member %q is not in the site's range %s", ErrTopology, p.site, in.addr, m.Name, in.prefix)
			}
			if who, is := taken[in.addr]; is {
				return fmt.Errorf("%w: site %q: address %s of member %q belongs to %s", ErrTopology, p.site, in.addr, m.Name, who)
			}
			taken[in.addr] = fmt.Sprintf("member %q", m.Name)
		}
		outer := outerName(m.Name)
		if other, is := outers[outer]; is {
			return fmt.Errorf("%w: site %q: members %q and %q need the same interface name; rename one", ErrTopology, p.site, other, m.Name)
		}
		outers[outer] = m.Name
		p.members[m.Name] = m.Addresses
		for _, a := range addrs(m.Addresses) {
			p.sources = append(p.sources, source{outer, a})
		}
	}
	return nil
}

func (p *policy) addEdge(e container.Edge) error {
	from, okFrom := p.members[e.From]
	to, okTo := p.members[e.To]
	if !okFrom || !okTo || e.Port == 0 {
		what := unknownOrZero(okFrom && okTo)
		return fmt.Errorf("%w: site %q: edge from %q to port %d of %q: %s", ErrTopology, p.site, e.From, e.Port, e.To, what)
	}
	if e.From == e.To {
		return nil // a member reaches itself without leaving its namespace
	}
	p.edges = append(p.edges, edge{from.V4, to.V4, e.Port})
	if from.V6.IsValid() && to.V6.IsValid() {
		p.edges = append(p.edges, edge{from.V6, to.V6, e.Port})
	}
	return nil
}

func addrs(a container.Addresses) []netip.Addr {
	if a.V6.IsValid() {
		return []netip.Addr{a.V4, a.V6}
	}
	return []netip.Addr{a.V4}
}

func (p *policy) sort() {
	slices.SortFunc(p.sources, func(a, b source) int {
		return cmp.Or(strings.Compare(a.outer, b.outer), a.addr.Compare(b.addr))
	})
	slices.SortFunc(p.edges, func(a, b edge) int {
		return cmp.Or(a.from.Compare(b.from), a.to.Compare(b.to), cmp.Compare(a.port, b.port))
	})
	slices.SortFunc(p.doors, func(a, b door) int { return cmp.Or(a.to.Compare(b.to), cmp.Compare(a.port, b.port)) })
	slices.SortFunc(p.egress, netip.Addr.Compare)
	slices.SortFunc(p.resolvers, netip.Addr.Compare)
	p.edges, p.doors = slices.Compact(p.edges), slices.Compact(p.doors)
	p.egress, p.resolvers = slices.Compact(p.egress), slices.Compact(p.resolvers)
}

// digest names the policy: two policies with the same digest make the same
// tables. It is kept in the tables themselves, so that a later process sees
// without comparing rule by rule that nothing has to be done.
func (p *policy) digest() string {
	h := sha256.New()
	fmt.Fprintln(h, policyVersion, p.site, p.prefix4, p.prefix6, p.sources, p.edges, p.doors, p.egress, p.resolvers)
	return hex.EncodeToString(h.Sum(nil))[:24]
}

// Protocol numbers (IANA) that the policy tells apart.
const (
	protoTCP = 6
	protoUDP = 17
)

// allows says whether a new connection may pass the site's namespace. It is
// the meaning of the rules in siteRules, in one place where it can be read and
// tested, and it decides which established connections end when a policy is
// replaced by a stricter one.
func (p *policy) allows(from, to netip.Addr, proto uint8, port uint16) bool {
	if p.inside(to) {
		if proto != protoTCP {
			return false
		}
		if from == HostAddress(p.prefix4) || from == HostAddress(p.prefix6) {
			return slices.Contains(p.doors, door{to, port})
		}
		return slices.Contains(p.edges, edge{from, to, port})
	}
	if !slices.Contains(p.egress, from) {
		return false
	}
	if port == dnsPort && (proto == protoTCP || proto == protoUDP) && slices.Contains(p.resolvers, to) {
		return true
	}
	return !slices.ContainsFunc(refusedEverywhere, func(r netip.Prefix) bool { return r.Contains(to) })
}

// inside says whether an address lies in one of the site's ranges.
func (p *policy) inside(a netip.Addr) bool {
	return p.prefix4.Contains(a) || p.prefix6.IsValid() && p.prefix6.Contains(a)
}

// egressFamilies says for which families some member may reach the outside.
func (p *policy) egressFamilies() (v4, v6 bool) {
	for _, a := range p.egress {
		v4 = v4 || a.Is4()
		v6 = v6 || a.Is6()
	}
	return v4, v6
}
