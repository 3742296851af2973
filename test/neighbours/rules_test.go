//go:build e2e

package neighbours

import (
	"net/netip"
	"strings"
	"testing"

	"tarima/runtime/network"
)

// TestDoctorKnowsTheRules: administrators write rules of their own. Whatever
// doctor says of them must be what the kernel does.
func TestDoctorKnowsTheRules(t *testing.T) {
	h := newHost(t)
	outside := h.outside()
	s := h.open(twoMembers())
	s.up()
	uplink := network.UplinkName(siteName)
	const forward, input = "type filter hook forward priority 5;", "type filter hook input priority 5;"
	for _, in := range []struct {
		name, chains string // UPLINK stands for the interface
		iptables     string
		forward      bool // egress passes
		input        bool // visitors pass
	}{
		{name: "no rules", chains: "chain f { " + forward + " }", forward: true, input: true},
		{name: "one interface", chains: `chain f { ` + forward + ` iifname UPLINK reject }`, input: true},
		{name: "another interface", chains: `chain f { ` + forward + ` iifname "eth7" reject }`, forward: true, input: true},
		{name: "a wildcard", chains: `chain f { ` + forward + ` iifname "tarima*" reject }`, input: true},
		{name: "a set of interfaces", chains: `chain f { ` + forward + ` oifname { "wan0", "eth7" } ct state new reject }`, input: true},
		{name: "not in a set", chains: `chain f { ` + forward + ` iifname != { UPLINK, "wan0" } reject }`, forward: true, input: true},
		{name: "answers only", chains: `chain f { ` + forward + ` ct state { established, related } reject }`, input: true},
		{name: "a verdict map", chains: `chain a { reject
			}
			chain f { ` + forward + ` ct state vmap { established : accept, new : goto a } }`, input: true},
		{name: "port range", chains: `chain i { ` + input + ` tcp dport 400-500 reject }`, forward: true},
		{name: "ports in ranges", chains: `chain i { ` + input + ` tcp dport { 22, 80-90, 440-450 } accept
			tcp dport 1-65535 reject }`, forward: true, input: true},
		{name: "ports outside of ranges", chains: `chain i { ` + input + ` tcp dport { 22, 80-90, 450-460 } accept
			meta l4proto tcp ct state new reject }`, forward: true},
		{name: "a source network", chains: `chain f { ` + forward + ` ip saddr 10.91.0.0/16 reject
			ip6 saddr fd91::/16 reject }`, input: true},
		{name: "another network", chains: `chain f { ` + forward + ` ip saddr 10.92.0.0/16 reject
			ip6 saddr fd92::/16 reject }`, forward: true, input: true},
		{name: "networks in a set", chains: `chain f { ` + forward + ` ip saddr { 10.90.0.0/16, 10.91.4.0/22, 172.16.0.0/12 } reject
			ip6 saddr { fd91:7::/64 } reject }`, input: true},
		{name: "a concatenation", chains: `chain f { ` + forward + ` iifname . oifname { UPLINK . "wan0" } reject }`, input: true},
		{name: "return", chains: `chain a { iifname UPLINK return
			reject
			}
			chain f { ` + forward + ` ct state established accept
			jump a }`, forward: true, input: true},
		{name: "goto does not come back", chains: `chain a { iifname "eth7" reject
			}
			chain f { ` + forward + ` goto a
			reject }`, forward: true, input: true},
		{name: "jump comes back", chains: `chain a { iifname "eth7" reject
			}
			chain f { ` + forward + ` jump a
			reject }`, input: true},
		{name: "another protocol", chains: `chain f { ` + forward + ` meta l4proto udp reject
			icmp type echo-request reject }`, forward: true, input: true},
		{name: "a family", chains: `chain f { ` + forward + ` meta nfproto { ipv4, ipv6 } reject }`, input: true},
		{name: "to an own address", chains: `chain i { ` + input + ` fib daddr type local tcp dport 443 ct state new reject }`, forward: true},
		{name: "marked", chains: `chain f { ` + forward + ` meta mark and 0x10 == 0x10 reject }`, forward: true, input: true},
		{name: "accepted in one chain, refused in another", chains: `chain f { ` + forward + ` accept
			}
			chain g { type filter hook forward priority 6; iifname UPLINK reject }`, input: true},
		{name: "iptables: state", iptables: "-A FORWARD -m conntrack --ctstate NEW -j REJECT", input: true},
		{name: "iptables: not that state", iptables: "-A FORWARD -m conntrack ! --ctstate NEW,ESTABLISHED -j REJECT", forward: true, input: true},
		{name: "iptables: ports", iptables: "-A INPUT -p tcp -m multiport --dports 80,440:450 -m comment --comment closed -j REJECT", forward: true},
		{name: "iptables: other ports", iptables: "-A INPUT -p tcp -m multiport ! --dports 443,80 -m conntrack --ctstate NEW -j REJECT", forward: true, input: true},
		{name: "iptables: kind of address", iptables: "-A INPUT -i wan0 -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 443 -j REJECT", forward: true},
		{name: "iptables: log", iptables: "-A FORWARD -m limit --limit 3/min -j LOG", forward: true, input: true},
	} {
		t.Run(in.name, func(t *testing.T) {
			clean := "nft delete table inet theirs 2>/dev/null; iptables -F; ip6tables -F; nft add table inet theirs"
			h.must(clean)
			if in.chains != "" {
				chains := strings.ReplaceAll(strings.ReplaceAll(in.chains, "UPLINK", `"`+uplink+`"`), " }", "\n}")
				h.must("nft -f - <<'RULES'\ntable inet theirs {\n" + chains + "\n}\nRULES")
			} else {
				h.must("iptables " + in.iptables + " && ip6tables " + in.iptables)
			}
			found := s.findings()
			blocked, closed := false, false
			for _, f := range found {
				blocked = blocked || f.Code == network.CodeForwardDrop
				closed = closed || f.Code == network.CodeInputBlocked
				if f.Code == network.CodeForwardUnsure {
					t.Errorf("doctor is not sure:%s", summary(found))
				}
			}
			reached := ask(outside, netip.AddrPortFrom(hostAddresses[0], publicPort), dialTimeout) == nil
			works, all := s.egress(silence)
			if all != in.forward || reached != in.input {
				t.Errorf("egress works %v, visitors come %v, want %v and %v", works, reached, in.forward, in.input)
			}
			if blocked == in.forward || closed == in.input {
				t.Errorf("egress passes %v and visitors pass %v, but doctor says:%s", in.forward, in.input, summary(found))
			}
		})
	}
}
