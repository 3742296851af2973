// Package network gives every site a network of its own and decides which of
// its containers may speak to which.
//
// A site is one network namespace on the host, pinned by a bind mount so that
// it outlives this process. Each container has a veth pair whose outer end
// lies in the site's namespace and whose inner end is the container's eth0,
// both with host routes only (/32 and /128): there is no bridge, so that
// everything between two containers is routed and passes the forward hook of
// the site's own table, whether br_netfilter is loaded or not. One more pair,
// the uplink, joins the site's namespace to the host; the host has a route for
// the site's range over it. Nothing is published.
//
//	 container lms        site's namespace                  host
//	┌──────────────┐   ┌──────────────────────┐   ┌──────────────────────┐
//	│ eth0 10.x.y.5├───┤tm…        inet tarima│   │      inet tarima_HASH│
//	└──────────────┘   │            policy    │   │  input: refuse       │
//	┌──────────────┐   │            drop      │   │  forward: egress only│
//	│ eth0 10.x.y.6├───┤tm…            uplink ├───┤tarimaHASH  masquerade│
//	└──────────────┘   │            10.x.y.0  │   │10.x.y.1              │
//	 container mysql   └──────────────────────┘   └──────────────────────┘
//
// What the topology does not declare is refused at once (a TCP reset, or an
// ICMP answer "administratively prohibited") and not dropped, so that a wrong
// edge shows as an error and not as a time-out.
//
// In each site's range the first address is the site's own end of the uplink
// and the second is the host's end ([RouterAddress], [HostAddress]); members
// have any other. On IPv6 the two ends speak by link-local addresses, and the
// host's end is the second address of the range as well.
//
// Every operation is idempotent and takes over what an earlier process left at
// whatever moment it died; each firewall table changes in one transaction.
package network
