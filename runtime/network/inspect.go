package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Level says how much a finding matters.
type Level string

// Levels of findings.
const (
	LevelError   Level = "error"   // the site's network does not work
	LevelWarning Level = "warning" // something of it does not work
	LevelInfo    Level = "info"    // worth knowing
)

// Codes of findings. They are never translated.
const (
	CodeRangeInUse      = "range-in-use"
	CodeForwardDrop     = "forward-drop"
	CodeForwardDocker   = "forward-docker"
	CodeForwardUFW      = "forward-ufw"
	CodeForwardFirewall = "forward-firewalld"
	CodeForwardLegacy   = "forward-legacy"
	CodeForwardUnsure   = "forward-unsure"
	CodeInputBlocked    = "input-blocked"
	CodeForwardingOff   = "forwarding-off"
	CodeRouterAds       = "router-advertisements-ignored"
	CodeBridgeFilter    = "bridge-netfilter"
	CodeNoTables        = "nf-tables-missing"
	CodeNoIPv6          = "ipv6-missing"
	CodePrivateMounts   = "private-mounts"
	CodeNoInspection    = "inspection-failed"
)

// Finding is one fact about the host that the administrator should know.
// Nothing of what is found is changed.
type Finding struct {
	Code  string `json:"code"`
	Level Level  `json:"level"`
	Text  string `json:"text"` // a sentence: what is so, and what follows
	Fix   string `json:"fix,omitempty"`
	// Args are the names in Text and Fix, for translations by Code.
	Args map[string]string `json:"args,omitempty"`
}

// Wanted is what the host is asked to carry.
type Wanted struct {
	Site     string
	Prefixes []netip.Prefix
	// Egress: some member is to reach the outside.
	Egress bool
	// Ports are the host's TCP ports at which the outside is to reach the site.
	Ports []uint16
}

// Inspect looks for what on this host stands in the way of a site's network,
// most important first. It needs root to see the firewall and changes nothing.
// What it says of mounts is about the calling process: the daemon asks.
func (n *Network) Inspect(ctx context.Context, wanted Wanted) []Finding {
	var found []Finding
	add := func(fs []Finding, what string, err error) {
		found = append(found, fs...)
		if err != nil {
			found = append(found, Finding{
				Code: CodeNoInspection, Level: LevelWarning, Text: fmt.Sprintf("The %s of this host could not be looked at: %v.", what, err),
				Fix: "Run this as root.", Args: map[string]string{"what": what, "error": err.Error()},
			})
		}
	}
	if err := ctx.Err(); err != nil {
		add(nil, "network", err)
		return found
	}
	private, err := privateMounts(n.hostMounts)
	if private {
		found = append(found, Finding{
			Code: CodePrivateMounts, Level: LevelError,
			Text: "The daemon has a mount namespace of its own: the sites' networks end with it, and its restart cuts off every container.",
			Fix:  "Remove from tarima.service what gives it private mounts (PrivateTmp, PrivateMounts, ProtectSystem, ProtectHome, ReadWritePaths and the like).",
		})
	}
	add(nil, "mounts", err)
	err = n.host.do(func(h *netlink.Handle) error {
		fs, err := inspectRanges(h, wanted)
		add(fs, "routes", err)
		fs, err = inspectFirewall(h, wanted)
		add(fs, "firewall", err)
		fs, err = inspectForwarding(h, wanted)
		add(fs, "forwarding", err)
		return nil
	})
	if err != nil {
		add(nil, "network namespace", err)
	}
	rank := map[Level]int{LevelError: 0, LevelWarning: 1, LevelInfo: 2}
	slices.SortStableFunc(found, func(a, b Finding) int { return rank[a.Level] - rank[b.Level] })
	return found
}

// privateMounts says whether what this process mounts is hidden from the
// process whose mount namespace is hosts. A machine that does not let it be
// looked at, as only the host of a container does, counts as sharing.
func privateMounts(hosts string) (bool, error) {
	own, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return false, err
	}
	theirs, err := os.Readlink(hosts)
	if errors.Is(err, os.ErrPermission) {
		return false, nil
	}
	return err == nil && own != theirs, err
}

func inspectRanges(h *netlink.Handle, wanted Wanted) ([]Finding, error) {
	own := func(l netlink.Link) bool { return isUplink(l, wanted.Site) }
	var found []Finding
	for _, p := range wanted.Prefixes {
		if !p.IsValid() {
			continue
		}
		if p.Addr().Is6() && !haveIPv6() {
			found = append(found, Finding{
				Code: CodeNoIPv6, Level: LevelError, Text: fmt.Sprintf("IPv6 is switched off on this host, but the site is to use %s.", p),
				Fix: "Leave the IPv6 range out of the site file, or switch IPv6 on.", Args: map[string]string{"range": p.String()},
			})
			continue
		}
		overlaps, err := hostOverlaps(h, p, own)
		if err != nil {
			return found, err
		}
		if len(overlaps) == 0 {
			continue
		}
		setting := "range4"
		if p.Addr().Is6() {
			setting = "range6"
		}
		free := proposal(h, p)
		for _, o := range overlaps {
			found = append(found, Finding{
				Code: CodeRangeInUse, Level: LevelError,
				Text: fmt.Sprintf("The site's address range %s overlaps %s on this host.", p, o),
				Fix:  "Choose another " + setting + " under [network] in the site file" + free + ", and then: systemctl restart tarima",
				Args: map[string]string{"range": p.String(), "other": o.Prefix.String(), "where": o.Where},
			})
		}
	}
	return found, nil
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	default:
		return "inet"
	}
}

func inspectForwarding(h *netlink.Handle, wanted Wanted) ([]Finding, error) {
	if !wanted.Egress {
		return nil, nil
	}
	uplink, err := findLink(h, UplinkName(wanted.Site))
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, p := range wanted.Prefixes {
		key := forward4
		if p.IsValid() && p.Addr().Is6() {
			key = forward6
		}
		// Before the first start it is off and will be switched on.
		if v, err := readSysctl(key); !p.IsValid() || err != nil || v != "0" || uplink == nil {
			continue
		}
		found = append(found, Finding{
			Code: CodeForwardingOff, Level: LevelWarning,
			Text: fmt.Sprintf("Forwarding is switched off on this host (%s is 0), so that services with egress do not reach the outside.", strings.ReplaceAll(key, "/", ".")),
			Fix:  "Look in /etc/sysctl.conf and /etc/sysctl.d for what switches it off, then: tarima apply",
			Args: map[string]string{"key": strings.ReplaceAll(key, "/", ".")},
		})
	}
	if !haveIPv6() {
		return found, nil
	}
	v6, err := readSysctl(forward6)
	if err != nil || v6 != "1" {
		return found, err
	}
	links, err := listLinks(h)
	if err != nil {
		return found, fmt.Errorf("list the host's interfaces: %w", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if l.Attrs().Flags&net.FlagLoopback != 0 || l.Attrs().Flags&net.FlagUp == 0 || strings.HasPrefix(name, uplinkPrefix) {
			continue
		}
		if v, err := readSysctl("net/ipv6/conf/" + name + "/accept_ra"); err != nil || v != "1" {
			continue
		}
		found = append(found, Finding{
			Code: CodeRouterAds, Level: LevelWarning,
			Text: fmt.Sprintf("IPv6 forwarding is on and %s has accept_ra 1: the kernel ignores router advertisements there, and the host may lose its IPv6 default route.", name),
			Fix:  "sysctl net.ipv6.conf." + name + ".accept_ra=2, unless a network service handles them itself",
			Args: map[string]string{"interface": name},
		})
	}
	return found, nil
}
