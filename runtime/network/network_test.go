package network

import (
	"fmt"
	"net/netip"
	"testing"

	"tarima/runtime/container"
)

// TestEveryPair tries each ordered pair of members and the host, each port and
// each protocol: what is declared passes, everything else is refused at once.
func TestEveryPair(t *testing.T) {
	for _, in := range []struct {
		name, prefix6 string
		userNamespace bool
	}{{"IPv4", "", false}, {"IPv4 and IPv6", "fd7a:1::/64", false}, {"user namespaces", "fd7a:1::/64", true}} {
		t.Run(in.name, func(t *testing.T) {
			l := newLab(t)
			top := topology("default", "10.90.1.0/24", in.prefix6, "lms", "cms", "mysql", "redis")
			top.Edges = []container.Edge{
				{From: "lms", To: "mysql", Port: 3306},
				{From: "cms", To: "mysql", Port: 3306},
				{From: "lms", To: "redis", Port: 6379},
				{From: "lms", To: "lms", Port: 6379},
			}
			top.Doors = []container.Door{{To: "lms", Port: 6379}, {To: "redis", Port: 6379}}
			l.apply(top)
			boxes := l.start(top, in.userNamespace)
			for _, b := range boxes {
				l.serve(b.ns, 3306)
				l.serve(b.ns, 6379)
			}
			boxes["host"] = &box{ns: l.host}
			tried := 0
			for from, b := range boxes {
				for _, to := range top.Members {
					if from == to.Name {
						continue
					}
					for _, port := range []uint16{3306, 6379} {
						declared := from == "lms" && to.Name == "mysql" && port == 3306 ||
							from == "cms" && to.Name == "mysql" && port == 3306 ||
							from == "lms" && to.Name == "redis" && port == 6379 ||
							from == "host" && to.Name == "lms" && port == 6379 ||
							from == "host" && to.Name == "redis" && port == 6379
						for _, target := range targets(to.Addresses, port) {
							what := fmt.Sprintf("%s to %s", from, to.Name)
							if declared {
								l.mustReach(what, b.ns, "tcp", target)
							} else {
								l.mustBeRefused(what, b.ns, "tcp", target)
							}
							l.mustBeRefused(what, b.ns, "udp", target)
							tried += 2
						}
					}
				}
			}
			if want := (4*3 + 4) * 2 * 2; tried < want {
				t.Fatalf("tried %d pairs, want at least %d", tried, want)
			}
			// A member never reaches the host, by whichever of its addresses.
			for _, a := range []netip.Addr{HostAddress(top.Prefix4), RouterAddress(top.Prefix4), gateway4} {
				l.mustBeRefused("lms to the host's side", boxes["lms"].ns, "tcp", netip.AddrPortFrom(a, 22))
				l.mustBeRefused("lms to the host's side", boxes["lms"].ns, "udp", netip.AddrPortFrom(a, 53))
			}
		})
	}
}
