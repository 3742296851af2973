package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarima/runtime/container"
)

// anyTopology draws a valid topology.
func anyTopology(t *rapid.T) container.Topology {
	prefix6 := rapid.SampledFrom([]string{"", "fd7a:1::/64"}).Draw(t, "prefix6")
	var names []string
	for i := range rapid.IntRange(1, 8).Draw(t, "members") {
		names = append(names, fmt.Sprintf("m%d", i))
	}
	top := topology("default", "10.90.1.0/24", prefix6, names...)
	for i := range top.Members {
		if rapid.IntRange(0, 3).Draw(t, "without IPv6") == 0 {
			top.Members[i].V6 = netip.Addr{}
		}
	}
	name, port := rapid.SampledFrom(names), rapid.Uint16Range(1, 4)
	for range rapid.IntRange(0, 10).Draw(t, "edges") {
		top.Edges = append(top.Edges, container.Edge{From: name.Draw(t, "from"), To: name.Draw(t, "to"), Port: port.Draw(t, "port")})
	}
	for range rapid.IntRange(0, 4).Draw(t, "doors") {
		top.Doors = append(top.Doors, container.Door{To: name.Draw(t, "door"), Port: port.Draw(t, "port")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "egress") {
		top.Egress = append(top.Egress, name.Draw(t, "egress"))
	}
	for range rapid.IntRange(0, 2).Draw(t, "resolvers") {
		top.Resolvers = append(top.Resolvers, netip.MustParseAddr(rapid.SampledFrom([]string{"9.9.9.9", "169.254.169.254", "fd20:ce::254"}).Draw(t, "resolver")))
	}
	return top
}

// TestPolicyIsItsTopology: the policy allows exactly what was declared,
// whoever asks.
func TestPolicyIsItsTopology(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		top := anyTopology(t)
		p, err := compile(top)
		if err != nil {
			t.Fatal(err)
		}
		for port := uint16(1); port <= 5; port++ {
			for _, to := range top.Members {
				for _, from := range top.Members {
					declared := from.Name != to.Name && slices.Contains(top.Edges, container.Edge{From: from.Name, To: to.Name, Port: port})
					if p.allows(from.V4, to.V4, protoTCP, port) != declared {
						t.Fatalf("%s to %s:%d on IPv4: allowed %v, declared %v", from.Name, to.Name, port, !declared, declared)
					}
					if both := from.V6.IsValid() && to.V6.IsValid(); both && p.allows(from.V6, to.V6, protoTCP, port) != declared {
						t.Fatalf("%s to %s:%d on IPv6: allowed %v, declared %v", from.Name, to.Name, port, !declared, declared)
					}
					if p.allows(from.V4, to.V4, protoUDP, port) {
						t.Fatalf("%s to %s:%d: UDP is allowed", from.Name, to.Name, port)
					}
				}
				door := slices.Contains(top.Doors, container.Door{To: to.Name, Port: port})
				if p.allows(HostAddress(top.Prefix4), to.V4, protoTCP, port) != door {
					t.Fatalf("host to %s:%d: allowed %v, declared %v", to.Name, port, !door, door)
				}
			}
		}
		outside := netip.MustParseAddr("203.0.113.80")
		for _, from := range top.Members {
			out := slices.Contains(top.Egress, from.Name)
			if p.allows(from.V4, outside, protoUDP, 443) != out {
				t.Fatalf("%s to the outside: allowed %v, declared %v", from.Name, !out, out)
			}
			for _, m := range []string{"169.254.169.254", "100.100.100.200", "168.63.129.16"} {
				a := netip.MustParseAddr(m)
				if p.allows(from.V4, a, protoTCP, 80) {
					t.Fatalf("%s to %s is allowed", from.Name, m)
				}
				asked := out && slices.Contains(top.Resolvers, a)
				if p.allows(from.V4, a, protoUDP, 53) != asked {
					t.Fatalf("%s to resolver %s: allowed %v, declared %v", from.Name, m, !asked, asked)
				}
			}
			if p.allows(outside, from.V4, protoTCP, 1) || p.allows(from.V4, HostAddress(top.Prefix4), protoTCP, 1) {
				t.Fatalf("the outside to %s, or it to the host, is allowed", from.Name)
			}
		}
	})
}

// TestPolicyOrder: neither order nor repetition of what is declared changes
// the policy, and any change of meaning changes its digest.
func TestPolicyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		top := anyTopology(t)
		p, err := compile(top)
		if err != nil {
			t.Fatal(err)
		}
		shuffled := top
		shuffled.Members = rapid.Permutation(top.Members).Draw(t, "members")
		shuffled.Edges = append(rapid.Permutation(top.Edges).Draw(t, "edges"), top.Edges...)
		shuffled.Doors = append(rapid.Permutation(top.Doors).Draw(t, "doors"), top.Doors...)
		shuffled.Egress = append(rapid.Permutation(top.Egress).Draw(t, "egress"), top.Egress...)
		shuffled.Resolvers = append(rapid.Permutation(top.Resolvers).Draw(t, "resolvers"), top.Resolvers...)
		q, err := compile(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(p, q) || p.digest() != q.digest() {
			t.Fatalf("order matters:\n%+v\n%+v", p, q)
		}
		more := top
		more.Doors = append(slices.Clone(top.Doors), container.Door{To: top.Members[0].Name, Port: 9})
		r, err := compile(more)
		if err != nil {
			t.Fatal(err)
		}
		if r.digest() == p.digest() {
			t.Fatal("one more door has the same digest")
		}
	})
}

func TestWrongTopology(t *testing.T) {
	addr := netip.MustParseAddr
	for what, spoil := range map[string]func(*container.Topology){
		"no site":                  func(t *container.Topology) { t.Site = "" },
		"site that is a path":      func(t *container.Topology) { t.Site = "../etc" },
		"site that is a dot":       func(t *container.Topology) { t.Site = "." },
		"member with a slash":      func(t *container.Topology) { t.Members[0].Name = "a/b" },
		"member without name":      func(t *container.Topology) { t.Members[0].Name = "" },
		"member twice":             func(t *container.Topology) { t.Members[1].Name = t.Members[0].Name },
		"no range":                 func(t *container.Topology) { t.Prefix4 = netip.Prefix{} },
		"IPv6 as IPv4":             func(t *container.Topology) { t.Prefix4 = t.Prefix6 },
		"IPv4 as IPv6":             func(t *container.Topology) { t.Prefix6 = t.Prefix4 },
		"everything":               func(t *container.Topology) { t.Prefix4 = netip.MustParsePrefix("0.0.0.0/0") },
		"range too small":          func(t *container.Topology) { t.Prefix4 = netip.MustParsePrefix("10.90.1.0/30") },
		"loopback":                 func(t *container.Topology) { t.Prefix4 = netip.MustParsePrefix("127.0.0.0/8") },
		"link-local":               func(t *container.Topology) { t.Prefix6 = netip.MustParsePrefix("fe80::/64") },
		"no address":               func(t *container.Topology) { t.Members[0].V4 = netip.Addr{} },
		"address outside":          func(t *container.Topology) { t.Members[0].V4 = addr("10.90.2.1") },
		"IPv6 address outside":     func(t *container.Topology) { t.Members[0].V6 = addr("fd7a:2::5") },
		"IPv6 address, no range":   func(t *container.Topology) { t.Prefix6 = netip.Prefix{} },
		"address twice":            func(t *container.Topology) { t.Members[0].V4 = t.Members[1].V4 },
		"the host's address":       func(t *container.Topology) { t.Members[0].V4 = HostAddress(t.Prefix4) },
		"the router's address":     func(t *container.Topology) { t.Members[0].V6 = RouterAddress(t.Prefix6) },
		"edge from nobody":         func(t *container.Topology) { t.Edges[0].From = "nobody" },
		"edge to nobody":           func(t *container.Topology) { t.Edges[0].To = "nobody" },
		"edge to port 0":           func(t *container.Topology) { t.Edges[0].Port = 0 },
		"door to nobody":           func(t *container.Topology) { t.Doors[0].To = "nobody" },
		"door to port 0":           func(t *container.Topology) { t.Doors[0].Port = 0 },
		"egress of nobody":         func(t *container.Topology) { t.Egress = []string{"nobody"} },
		"resolver on the loopback": func(t *container.Topology) { t.Resolvers = []netip.Addr{addr("127.0.0.53")} },
		"resolver that is none":    func(t *container.Topology) { t.Resolvers = []netip.Addr{{}} },
	} {
		top := egressTopology()
		spoil(&top)
		if p, err := compile(top); !errors.Is(err, ErrTopology) {
			t.Errorf("%s: %v (%+v), want ErrTopology", what, err, p)
		}
	}
}

// FuzzCompile: no topology, however wrong, makes compile panic, and one that
// it takes is safe to load: every address in the site's ranges, names that fit.
func FuzzCompile(f *testing.F) {
	for _, top := range []container.Topology{egressTopology(), fullTopology(), {}} {
		b, err := json.Marshal(top)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var top container.Topology
		if json.Unmarshal(b, &top) != nil {
			return
		}
		p, err := compile(top)
		if err != nil {
			if !errors.Is(err, ErrTopology) {
				t.Fatalf("error %v is not ErrTopology", err)
			}
			return
		}
		for _, s := range p.sources {
			if !p.inside(s.addr) || len(s.outer) > maxInterfaceName {
				t.Fatalf("source %+v is outside of the site or its name too long", s)
			}
		}
		for _, e := range p.edges {
			if !p.inside(e.from) || !p.inside(e.to) || e.from.Is4() != e.to.Is4() || e.port == 0 {
				t.Fatalf("edge %+v cannot be", e)
			}
		}
		if len(UplinkName(p.site)) > maxInterfaceName {
			t.Fatalf("interface name %q is too long", UplinkName(p.site))
		}
	})
}
