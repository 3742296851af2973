package container

import "net/netip"

// Topology says which containers of a site may speak to which. What it does
// not declare is refused at once.
type Topology struct {
	Site    string
	Prefix4 netip.Prefix // the site's own range; every member lies in it
	Prefix6 netip.Prefix // zero: no IPv6 inside
	Members []Member
	Edges   []Edge
	Doors   []Door
	Egress  []string // members that may reach the outside; cloud metadata addresses stay refused
	// Resolvers are name servers that Egress members may ask on port 53 even
	// when the address is refused otherwise: on some clouds the resolver is the
	// metadata address itself.
	Resolvers []netip.Addr
}

// Member is a service or job with its fixed addresses.
type Member struct {
	Name string
	Addresses
}

// Edge lets From open TCP connections to Port of To.
type Edge struct {
	From, To string
	Port     uint16
}

// Door lets the host (proxy, probes) open TCP connections to Port of To.
type Door struct {
	To   string
	Port uint16
}
