//go:build e2e

package neighbours

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"tarima/runtime/network"
)

// TestRangeInUse: a range that the host routes already, by whatever program's
// interface, is refused with the route's name, and nothing is left behind.
func TestRangeInUse(t *testing.T) {
	for _, in := range []struct {
		name, script, route string
		docker              bool
	}{
		{name: "a route", script: "ip route add 10.91.0.0/16 via 192.0.2.1", route: "10.91.0.0/16 (route by wan0)"},
		{name: "an address", script: "ip addr add 10.91.7.77/28 dev wan0", route: "10.91.7.64/28 (route by wan0)"},
		{name: "the whole of a private network", script: "ip route add 10.0.0.0/8 via 192.0.2.1; ip route add 172.16.0.0/12 via 192.0.2.1", route: "10.0.0.0/8 (route by wan0)"},
		{name: "an IPv6 route", script: "ip -6 route add fd91:7::/32 via 2001:db8:1::1", route: "fd91:7::/32 (route by wan0)"},
		{name: "a route of another table", script: "ip route add 10.91.7.0/25 via 192.0.2.1 table 77", route: "10.91.7.0/25 (route by wan0)"},
		{name: "Docker's bridge", docker: true, route: "10.91.0.0/16 (route by docker0)"},
	} {
		t.Run(in.name, func(t *testing.T) {
			h := newHost(t)
			h.outside()
			if in.docker {
				h.daemon("dockerd --bip 10.91.0.1/16 --data-root /run/docker-data --exec-root /run/docker-exec --pidfile /run/docker.pid --host unix:///run/docker.sock --storage-driver vfs",
					"docker --host unix:///run/docker.sock version")
			} else {
				h.must(in.script)
			}
			state := func() string {
				return h.must("ip link; ip addr | grep -v valid_lft; ip route show table all; ip -6 route | sed 's/ expires.*//'") + h.rules(true) + h.rules(false)
			}
			before := state()
			s := h.open(twoMembers())
			err := s.network.Apply(t.Context(), s.topology)
			if !errors.Is(err, network.ErrRangeInUse) || !strings.Contains(err.Error(), in.route) {
				t.Errorf("apply says %v, want %s", err, in.route)
			}
			if f, named := find(s.findings(), network.CodeRangeInUse); named && !strings.Contains(in.name, "IPv6") {
				// What is proposed must do.
				free := netip.MustParsePrefix(strings.TrimSuffix(strings.Fields(f.Fix[strings.Index(f.Fix, "such as ")+len("such as "):])[0], ","))
				if free.Bits() != s.topology.Prefix4.Bits() {
					t.Errorf("doctor proposes %s", free)
				}
				proposed := s.topology
				proposed.Prefix4, proposed.Prefix6 = free, netip.Prefix{}
				proposed.Members, proposed.Edges, proposed.Doors, proposed.Egress = nil, nil, nil, nil
				other := h.open(proposed)
				if err := other.network.Apply(t.Context(), proposed); err != nil {
					t.Errorf("the range that doctor proposes: %v", err)
				}
				if err := other.network.Remove(t.Context(), siteName); err != nil {
					t.Fatal(err)
				}
			}
			if f, named := find(s.findings(), network.CodeRangeInUse); !named || !strings.Contains(f.Text, in.route) {
				t.Errorf("doctor says:%s\nwant %s", summary(s.findings()), in.route)
			}
			if after := state(); after != before {
				t.Errorf("a refused site changed the host from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// TestHostWithoutIPv6 has it switched off by sysctl, as many guides tell.
func TestHostWithoutIPv6(t *testing.T) {
	for _, in := range []struct {
		name string
		six  bool // the site has IPv6 inside all the same
	}{{"IPv4 alone", false}, {"IPv6 inside", true}} {
		t.Run(in.name, func(t *testing.T) {
			h := newHost(t)
			h.outside()
			h.must("sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
			top := twoMembers()
			if !in.six {
				top.Prefix6 = netip.Prefix{}
				for i := range top.Members {
					top.Members[i].V6 = netip.Addr{}
				}
			}
			s := h.open(top)
			s.up()
			s.inside("without IPv6")
			if err := ask(s.pids["lms"], netip.AddrPortFrom(webAddresses[0], publicPort), dialTimeout); err != nil {
				t.Errorf("egress by IPv4: %v", err)
			}
			if found := s.findings(); len(found) > 0 {
				t.Errorf("doctor says:%s", summary(found))
			}
			if now := strings.TrimSpace(h.must("sysctl -n net.ipv6.conf.all.disable_ipv6 net.ipv6.conf.default.disable_ipv6 net.ipv6.conf.wan0.disable_ipv6 | tr -d '\\n'")); now != "111" {
				t.Errorf("disable_ipv6 of all, default and wan0 is %s: the administrator's wish was overridden", now)
			}
		})
	}
}
