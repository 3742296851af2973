package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

const (
	// uplinkPrefix begins the name of every site's interface on the host.
	uplinkPrefix = "tarima"
	// siteUplink is the uplink's end inside a site's namespace.
	siteUplink = "uplink"
	// memberInterface is what a container calls its interface.
	memberInterface = "eth0"
	// siteTable is the firewall table inside a site's namespace.
	siteTable = "tarima"
	// aliasPrefix marks the host's interfaces that are Tarima's; the site's
	// name follows.
	aliasPrefix = "tarima:"

	// An interface name has 15 bytes and a closing zero (IFNAMSIZ is 16 in
	// linux/if.h).
	maxInterfaceName = 15
	maxNameLength    = 63
)

// gateway4 and gateway6 are the next hops that containers see: the outer ends
// of all pairs carry both.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
	// uplinkHost6 and uplinkSite6 are the two ends of an uplink.
	uplinkHost6 = netip.MustParseAddr("fe80::2")
	uplinkSite6 = netip.MustParseAddr("fe80::1")
)

// UplinkName is the name of the site's interface on the host. It is derived
// from the site's name and has at most 15 bytes.
func UplinkName(site string) string { return uplinkPrefix + shortHash(site, 8) }

// hostTable is the name of the site's own firewall table on the host.
func hostTable(site string) string { return "tarima_" + shortHash(site, 8) }

// outerName is the name of a member's interface inside the site's namespace.
// It is a hash because member names may be longer than an interface name; the
// interface's alias holds the member's name for people.
func outerName(member string) string { return "tm" + shortHash(member, 12) }

// Ends of a pair, for hardwareAddr.
const (
	hostEnd   = "host"
	siteEnd   = "site"
	memberEnd = "member"
)

// hardwareAddr is the fixed address of one end of the pair of a site or member.
// It is given when the pair is made, which also keeps systemd-udevd from
// giving it another a moment later (systemd.link(5), MACAddressPolicy).
func hardwareAddr(pair, end string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(end + " end of " + pair))
	sum[0] = sum[0]&^1 | 2 // unicast, locally administered
	return sum[:6]
}

func shortHash(s string, digits int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:digits]
}

// checkName says whether a site's or a member's name is safe in a path and in
// an interface alias.
func checkName(kind, name string) error {
	if name == "" || len(name) > maxNameLength {
		return fmt.Errorf("%w: %s name %q must have 1 to %d characters", ErrTopology, kind, name, maxNameLength)
	}
	bad := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
	if bad >= 0 || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("%w: %s name %q may hold letters, digits, '-', '_' and '.', and begins with a letter or digit", ErrTopology, kind, name)
	}
	return nil
}

// RouterAddress is the site's own end of the uplink in a range: its first
// address, which no member may have.
func RouterAddress(p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	return p.Masked().Addr()
}

// HostAddress is the host's end of the uplink in a range: its second address,
// which no member may have. Proxy and probes reach containers from it.
func HostAddress(p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	return p.Masked().Addr().Next()
}
