//go:build e2e

package neighbours

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarima/runtime/container"
	"tarima/runtime/network"
)

// The outside of every host: documentation addresses (RFC 5737, RFC 3849).
var (
	hostAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8:1::2")}
	webAddresses  = []netip.Addr{netip.MustParseAddr("203.0.113.80"), netip.MustParseAddr("2001:db8:80::80")}
)

const (
	siteName    = "default"
	memberPort  = 80
	publicPort  = 443
	undeclared  = 81
	dialTimeout = 5 * time.Second // bounds a test that fails
	// What a firewall drops in silence shows by waiting only.
	silence = 1500 * time.Millisecond
)

// outside gives the host a way out and something at the end of it.
func (h *host) outside() (pid int) {
	h.Helper()
	pid = spawn(h, roleMember, syscall.CLONE_NEWNET)
	other := &host{h.TB, pid}
	run := func(script string) {
		h.Helper()
		if _, err := other.shNet(script); err != nil {
			h.Fatal(err)
		}
	}
	// The interface is made in the outside and pushed by the machine's view of
	// the host's process.
	run(fmt.Sprintf("ip link set lo up; ip link add eth0 type veth peer name wan0 netns %d", h.pid))
	run("sysctl -q net.ipv6.conf.eth0.addr_gen_mode=1; ip addr add 192.0.2.1/24 dev eth0; ip -6 addr add 2001:db8:1::1/64 dev eth0 nodad; ip link set eth0 up;" +
		"ip addr add 203.0.113.80/32 dev lo; ip -6 addr add 2001:db8:80::80/128 dev lo nodad")
	h.must("sysctl -q net.ipv6.conf.wan0.addr_gen_mode=1; ip addr add 192.0.2.2/24 dev wan0; ip -6 addr add 2001:db8:1::2/64 dev wan0 nodad; ip link set wan0 up;" +
		"ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:1::1;" +
		"for i in $(seq 100); do ip link show wan0 | grep -q 'state UP' && exit 0; sleep 0.05; done; echo wan0 does not come up; exit 1")
	h.serve(pid, publicPort)
	h.serve(h.pid, publicPort)
	return pid
}

// shNet runs a command in the network of the process alone.
func (h *host) shNet(script string) (string, error) {
	var out string
	err := within(h.pid, func() (err error) { out, err = shell(script); return err })
	return out, err
}

// serve answers every connection to a port with the address it came from.
func (h *host) serve(pid int, port uint16) {
	h.Helper()
	var l net.Listener
	if err := within(pid, func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); return err }); err != nil {
		h.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(c, c.RemoteAddr())
			_ = c.Close()
		}
	})
	h.Cleanup(func() { _ = l.Close(); running.Wait() })
}

// ask makes a whole round trip out of the network of a process.
func ask(pid int, to netip.AddrPort, timeout time.Duration) error {
	return within(pid, func() error {
		c, err := net.DialTimeout("tcp", to.String(), timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		answer, err := io.ReadAll(c)
		if err == nil && len(answer) == 0 {
			err = errors.New("an empty answer")
		}
		return err
	})
}

// site is a site's network with two members: lms may go out and may ask mysql.
type site struct {
	*host
	network  *network.Network
	topology container.Topology
	pids     map[string]int
}

// wanted is what doctor is asked for.
func (s *site) wanted() network.Wanted {
	w := network.Wanted{Site: siteName, Prefixes: []netip.Prefix{s.topology.Prefix4}, Egress: true, Ports: []uint16{publicPort}}
	if s.topology.Prefix6.IsValid() {
		w.Prefixes = append(w.Prefixes, s.topology.Prefix6)
	}
	return w
}

func twoMembers() container.Topology {
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	return container.Topology{
		Site: siteName, Prefix4: netip.MustParsePrefix("10.91.7.0/24"), Prefix6: netip.MustParsePrefix("fd91:7::/64"),
		Members: []container.Member{
			{Name: "lms", Addresses: container.Addresses{V4: a("10.91.7.2"), V6: a("fd91:7::2")}},
			{Name: "mysql", Addresses: container.Addresses{V4: a("10.91.7.3"), V6: a("fd91:7::3")}},
		},
		Edges:  []container.Edge{{From: "lms", To: "mysql", Port: memberPort}},
		Doors:  []container.Door{{To: "mysql", Port: memberPort}},
		Egress: []string{"lms"},
	}
}

// open prepares a network on the host; nothing is up yet.
func (h *host) open(top container.Topology) *site {
	h.Helper()
	n, err := network.Open(network.Config{
		Dir: filepath.Join(h.TempDir(), "net"), HostNamespace: fmt.Sprintf("/proc/%d/ns/net", h.pid),
		Logger: slog.New(slog.NewTextHandler(h.Output(), nil)),
	})
	if err != nil {
		h.Fatal(err)
	}
	s := &site{h, n, top, map[string]int{}}
	h.Cleanup(func() {
		if err := n.Remove(contextOf(), siteName); err != nil {
			h.Error(err)
		}
		_ = n.Close()
	})
	return s
}

// up brings the network up with a process for each member.
func (s *site) up() {
	s.Helper()
	if err := s.network.Apply(s.Context(), s.topology); err != nil {
		s.Fatal(err)
	}
	for _, m := range s.topology.Members {
		pid := spawn(s, roleMember, syscall.CLONE_NEWNET)
		if err := s.network.Attach(s.Context(), siteName, m.Name, pid); err != nil {
			s.Fatal(err)
		}
		s.serve(pid, memberPort)
		s.serve(pid, undeclared)
		s.pids[m.Name] = pid
	}
}

// inside checks what no neighbour may change: declared edges and doors pass,
// all else is refused at once.
func (s *site) inside(when string) {
	s.Helper()
	for _, m := range s.topology.Members {
		for _, a := range []netip.Addr{m.V4, m.V6} {
			if !a.IsValid() {
				continue
			}
			for _, in := range []struct {
				who     string
				pid     int
				port    uint16
				allowed bool
			}{
				{"lms", s.pids["lms"], memberPort, true},
				{"lms", s.pids["lms"], undeclared, m.Name == "lms"},
				{"mysql", s.pids["mysql"], memberPort, m.Name == "mysql"},
				{"the host", s.pid, memberPort, m.Name == "mysql"},
				{"the host", s.pid, undeclared, false},
			} {
				err := ask(in.pid, netip.AddrPortFrom(a, in.port), dialTimeout)
				switch {
				case in.allowed && err != nil:
					s.Errorf("%s: %s to %s port %d: %v, want an answer", when, in.who, m.Name, in.port, err)
				case !in.allowed && !errors.Is(err, unix.ECONNREFUSED):
					s.Errorf("%s: %s to %s port %d: %v, want a refusal at once", when, in.who, m.Name, in.port, err)
				}
			}
		}
	}
}

// egress says for each family whether lms reaches the outside.
func (s *site) egress(timeout time.Duration) (works []bool, all bool) {
	s.Helper()
	all = true
	for _, web := range webAddresses {
		if web.Is6() && !s.topology.Prefix6.IsValid() {
			continue
		}
		err := ask(s.pids["lms"], netip.AddrPortFrom(web, publicPort), timeout)
		works = append(works, err == nil)
		all = all && err == nil
	}
	if err := ask(s.pids["mysql"], netip.AddrPortFrom(webAddresses[0], publicPort), dialTimeout); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) {
		s.Errorf("mysql to the outside, which is not declared: %v, want a refusal at once", err)
	}
	return works, all
}

// visitors says whether the outside reaches the host's public port.
func (s *site) visitors(outside int, timeout time.Duration) bool {
	s.Helper()
	for _, a := range hostAddresses {
		if ask(outside, netip.AddrPortFrom(a, publicPort), timeout) != nil {
			return false
		}
	}
	return true
}

// findings are what doctor says and that an administrator has to do something
// about.
func (s *site) findings() []network.Finding {
	s.Helper()
	found := s.network.Inspect(s.Context(), s.wanted())
	return slices.DeleteFunc(found, func(f network.Finding) bool {
		return f.Level == network.LevelInfo && f.Code != network.CodeForwardUnsure
	})
}

func summary(found []network.Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "\n  %s: %s\n    %s", f.Code, f.Text, f.Fix)
	}
	return b.String()
}
