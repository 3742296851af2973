package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Addresses that stand for any of the internet in a trace: a public DNS
// service. Nothing is sent there.
var (
	anywhere4 = netip.MustParseAddr("9.9.9.9")
	anywhere6 = netip.MustParseAddr("2620:fe::fe")
)

// Ports of a trace: where mail and web services are reached, and a port from
// which a client asks.
const (
	servicePort = 443
	clientPort  = 40000
)

// inspectFirewall finds foreign rules that stop what the site needs: egress,
// and visitors at the public ports. Edges and doors never pass the host's
// forward hook.
func inspectFirewall(h *netlink.Handle, wanted Wanted) ([]Finding, error) {
	conn, err := openTables()
	var rules *ruleset
	if err == nil {
		defer func() { _ = conn.CloseLasting() }()
		rules, err = readRuleset(conn)
	}
	if errors.Is(err, ErrUnsupported) {
		return []Finding{{
			Code: CodeNoTables, Level: LevelError, Text: "This kernel has no nf_tables, without which Tarima cannot separate containers.",
			Fix: "Install a kernel of version 5.2 or later with the module nf_tables.",
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	var found []Finding
	if _, err := os.Stat(filepath.Join(sysctlRoot, "net/bridge/bridge-nf-call-iptables")); err == nil {
		found = append(found, Finding{
			Code: CodeBridgeFilter, Level: LevelInfo,
			Text: "br_netfilter is loaded: the firewall sees the traffic of bridges. Tarima uses no bridge and works with and without it.",
		})
	}
	ways, err := examples(h, wanted)
	if err != nil {
		return found, err
	}
	found = append(found, inputFindings(rules, ways, wanted.Ports)...)
	if wanted.Egress {
		found = append(found, forwardFindings(rules, ways, UplinkName(wanted.Site))...)
	}
	return append(found, legacyFindings(wanted)...), nil
}

// legacyFindings: the file is the namespace's own; it lists what
// iptables-legacy has loaded.
func legacyFindings(wanted Wanted) []Finding {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") || !wanted.Egress && len(wanted.Ports) == 0 {
		return nil
	}
	return []Finding{{
		Code: CodeForwardLegacy, Level: LevelInfo,
		Text: "Rules of iptables-legacy are loaded, which cannot be read here. If they drop forwarded packets, services with egress do not reach the outside.",
		Fix:  "Look at them with: iptables-legacy -S FORWARD",
	}}
}

// example is a way between the host and the outside for one family.
type example struct {
	way      string // interface to the outside; "": not known
	member   netip.Addr
	anywhere netip.Addr
}

// examples are the families in which the site may speak with the outside. IPv6
// without a default route is left out: there is nothing to be stopped.
func examples(h *netlink.Handle, wanted Wanted) ([]example, error) {
	way4, err := wayOut(h, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	way6, err := wayOut(h, netlink.FAMILY_V6)
	if err != nil {
		return nil, err
	}
	var es []example
	for _, p := range wanted.Prefixes {
		if !p.IsValid() {
			continue
		}
		member := HostAddress(p).Next()
		if p.Addr().Is4() {
			es = append(es, example{way4, member, anywhere4})
		} else if way6 != "" {
			es = append(es, example{way6, member, anywhere6})
		}
	}
	return es, nil
}

// wayOut names the interface of a family's first default route, "" without.
func wayOut(h *netlink.Handle, family int) (string, error) {
	routes, err := h.RouteList(nil, family)
	if err != nil {
		return "", fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 || r.LinkIndex == 0 {
			continue
		}
		if link, err := h.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().Name, nil
		}
	}
	return "", nil
}

// forwardFindings says who stops what members with egress send, or the
// answers to it.
func forwardFindings(rules *ruleset, ways []example, uplink string) []Finding {
	var found []Finding
	for _, e := range ways {
		forward := *nftables.ChainHookForward
		out := packet{
			hook: forward, in: uplink, out: e.way, src: e.member, dst: e.anywhere, sport: clientPort, dport: servicePort,
		}
		back := packet{
			hook: forward, in: e.way, out: uplink, src: e.anywhere, dst: e.member, sport: servicePort, dport: clientPort,
			established: true, translatedFrom: true,
		}
		for _, p := range []packet{out, back} {
			t := rules.trace(p)
			if t.outcome&stopped == 0 {
				continue
			}
			f := forwardFinding(rules, t, uplink, e.member.Is6())
			if !slices.ContainsFunc(found, func(g Finding) bool { return g.Code == f.Code && g.Args["rule"] == f.Args["rule"] }) {
				found = append(found, f)
			}
			break // the same firewall, the same fix
		}
	}
	return found
}

func forwardFinding(rules *ruleset, t traced, uplink string, v6 bool) Finding {
	f := Finding{Level: LevelWarning, Args: map[string]string{"interface": uplink, "rule": t.stop}}
	if !t.sure() {
		f.Code, f.Level = CodeForwardUnsure, LevelInfo
		f.Text = "Forwarded packets may be stopped by " + t.stop + ", depending on what cannot be told beforehand. If services with egress do not reach the outside, look there."
		return f
	}
	stopped := "stops forwarded packets (" + t.stop + "), so that services with egress do not reach the outside."
	iptables := "iptables"
	if v6 {
		iptables = "ip6tables"
	}
	owners := rules.owners(t)
	switch {
	case owners.ufw:
		f.Code, f.Text, f.Fix = CodeForwardUFW, "ufw is active and "+stopped, "ufw route allow in on "+uplink
	case owners.firewalld:
		f.Code, f.Text = CodeForwardFirewall, "firewalld is active and "+stopped
		f.Fix = "firewall-cmd --permanent --zone=trusted --add-interface=" + uplink + " && firewall-cmd --reload"
	case owners.docker:
		f.Code, f.Text = CodeForwardDocker, "Docker has set the policy of the FORWARD chain to drop: it "+stopped+" What lets them pass lasts until the next boot."
		f.Fix = fmt.Sprintf("%[1]s -I DOCKER-USER -i %[2]s -j ACCEPT && %[1]s -I DOCKER-USER -o %[2]s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			iptables, uplink)
	default:
		f.Code, f.Text = CodeForwardDrop, "The host's firewall "+stopped
		f.Fix = "Accept there what comes in by " + uplink + ", and established connections that go out by it."
	}
	return f
}

// owners are the programs whose rules a packet met.
type owners struct{ docker, ufw, firewalld bool }

// owners goes by the chains that were entered, and for those without a mark, as
// a policy alone, by the other chains of the same table.
func (rs *ruleset) owners(t traced) owners {
	var o owners
	table := ""
	if len(t.chains) > 0 {
		f := strings.Fields(t.chains[0])
		table = strings.Join(f[:2], " ")
	}
	for _, c := range rs.chains {
		if c.Table == nil || familyName(c.Table.Family)+" "+c.Table.Name != table {
			continue
		}
		o.docker = o.docker || strings.HasPrefix(c.Name, "DOCKER")
		o.firewalld = o.firewalld || c.Table.Name == "firewalld"
	}
	// Switched off, ufw leaves its chains behind: it counts where it is asked.
	for _, c := range t.chains {
		name := c[strings.LastIndex(c, " ")+1:]
		o.ufw = o.ufw || strings.HasPrefix(name, "ufw-") || strings.HasPrefix(name, "ufw6-")
	}
	return o
}

// inputFindings says who stops visitors. Of a firewall that lets some ports
// pass, those that it stops are named.
func inputFindings(rules *ruleset, ways []example, ports []uint16) []Finding {
	var found []Finding
	for _, e := range ways {
		var closed []uint16
		var last traced
		for _, port := range ports {
			// The address of the host is none of the site's: any other will do.
			t := rules.trace(packet{
				hook: *nftables.ChainHookInput, in: e.way, src: e.anywhere, dst: e.member, sport: clientPort, dport: port, toHost: true,
			})
			if t.sure() {
				closed, last = append(closed, port), t
			}
		}
		if len(closed) == 0 {
			continue
		}
		f := inputFinding(rules, last, e.way, closed)
		if !slices.ContainsFunc(found, func(g Finding) bool { return g.Fix == f.Fix }) {
			found = append(found, f)
		}
	}
	return found
}

func inputFinding(rules *ruleset, t traced, way string, ports []uint16) Finding {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = strconv.Itoa(int(p))
	}
	f := Finding{
		Code: CodeInputBlocked, Level: LevelWarning,
		Args: map[string]string{"ports": strings.Join(texts, ", "), "rule": t.stop, "interface": way},
	}
	who := "The host's firewall"
	owners := rules.owners(t)
	switch {
	case owners.ufw:
		who, f.Fix = "ufw", "ufw allow "+strings.Join(texts, ",")+"/tcp"
	case owners.firewalld:
		who = "firewalld"
		zone := ""
		if z := zoneOf(t.chains); z != "" {
			zone = " --zone=" + z
		}
		f.Fix = "firewall-cmd --permanent" + zone
		for _, p := range texts {
			f.Fix += " --add-port=" + p + "/tcp"
		}
		f.Fix += " && firewall-cmd --reload"
	default:
		f.Fix = "Accept there new TCP connections to port " + strings.Join(texts, " and ") + "."
	}
	where := ""
	if way != "" {
		where = " on " + way
	}
	f.Text = fmt.Sprintf("%s stops visitors at port %s%s (%s): nobody outside of this host sees the site.", who, strings.Join(texts, " and "), where, t.stop)
	return f
}

// zoneOf is the zone of firewalld that a packet came to: its chain is named
// filter_IN_ZONE, followed in other chains by _pre, _allow and the like.
func zoneOf(chains []string) string {
	for _, c := range chains {
		if zone, ok := strings.CutPrefix(c, "inet firewalld filter_IN_"); ok {
			return zone // the first is the zone's own
		}
	}
	return ""
}
