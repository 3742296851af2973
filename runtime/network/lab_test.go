package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"tarima/runtime/container"
)

// holderEnv makes the test binary a process that only keeps its namespaces
// open, as a container's would be.
const holderEnv = "TARIMA_NETWORK_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(holderEnv) {
	case "hold":
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	case "inspect":
		inspect()
		return
	case "churn":
		churn()
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of runtime/network make network namespaces: run them as root")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// dialTimeout only bounds a test that fails: what is refused at once never
// comes near it.
const dialTimeout = 3 * time.Second

// lab is a host of the test's own in a network namespace, so that the
// machine's rules and routes are never touched.
type lab struct {
	testing.TB
	net  *Network
	host *namespace
	dir  string
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{TB: t, dir: filepath.Join(t.TempDir(), "net")}
	l.host = l.namespace("host")
	l.net = l.open()
	return l
}

// open starts another Network on the same host, as a new process would.
func (l *lab) open() *Network {
	l.Helper()
	n, err := Open(Config{Dir: l.dir, HostNamespace: l.pin("host"), Logger: slog.New(slog.NewTextHandler(l.Output(), nil))})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		for _, site := range must(n.Sites()) {
			if err := n.Remove(context.Background(), site); err != nil {
				l.Error(err)
			}
		}
		_ = n.Close()
	})
	return n
}

func (l *lab) pin(name string) string { return filepath.Join(filepath.Dir(l.dir), name) }

// namespace makes one with its loopback up.
func (l *lab) namespace(name string) *namespace {
	l.Helper()
	ns, err := pin(l.pin(name), name)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		ns.close()
		if err := unpin(l.pin(name)); err != nil {
			l.Error(err)
		}
	})
	l.inside(ns, func(h *netlink.Handle) error { return h.LinkSetUp(must(h.LinkByName("lo"))) })
	return ns
}

func (l *lab) inside(ns *namespace, fn func(h *netlink.Handle) error) {
	l.Helper()
	if err := ns.do(fn); err != nil {
		l.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// hold starts a process with a network namespace of its own, in a user
// namespace of its own as well when asked.
func (l *lab) hold(userNamespace bool) (pid int, ns *namespace) {
	l.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderEnv+"=hold")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if userNamespace {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1 << 20, Size: 65536}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1 << 20, Size: 65536}}
	}
	stdin := must(cmd.StdinPipe())
	if err := cmd.Start(); err != nil {
		l.Fatalf("start a process in new namespaces: %v", err)
	}
	ns = must(openNamespace(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), "container"))
	l.Cleanup(func() {
		ns.close()
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid, ns
}

// box is a member of a site with a process of its own.
type box struct {
	container.Member
	pid int
	ns  *namespace
}

// start makes processes for all members and attaches them.
func (l *lab) start(t container.Topology, userNamespace bool) map[string]*box {
	l.Helper()
	boxes := map[string]*box{}
	for _, m := range t.Members {
		pid, ns := l.hold(userNamespace)
		if err := l.net.Attach(l.Context(), t.Site, m.Name, pid); err != nil {
			l.Fatal(err)
		}
		boxes[m.Name] = &box{m, pid, ns}
	}
	return boxes
}

func (l *lab) apply(t container.Topology) {
	l.Helper()
	if err := l.net.Apply(l.Context(), t); err != nil {
		l.Fatal(err)
	}
}

// topology makes members with consecutive addresses from the third on.
func topology(site, prefix4, prefix6 string, members ...string) container.Topology {
	t := container.Topology{Site: site, Prefix4: netip.MustParsePrefix(prefix4)}
	a4, a6 := HostAddress(t.Prefix4), netip.Addr{}
	if prefix6 != "" {
		t.Prefix6 = netip.MustParsePrefix(prefix6)
		a6 = HostAddress(t.Prefix6)
	}
	for _, m := range members {
		a4 = a4.Next()
		if a6.IsValid() {
			a6 = a6.Next()
		}
		t.Members = append(t.Members, container.Member{Name: m, Addresses: container.Addresses{V4: a4, V6: a6}})
	}
	return t
}

// serve listens on every address of a namespace and answers each connection
// and each datagram with the address that it came from.
func (l *lab) serve(ns *namespace, port uint16) {
	l.Helper()
	var tcp net.Listener
	var udp []*net.UDPConn
	l.inside(ns, func(h *netlink.Handle) (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		// One socket for each address, so that answers leave from the address
		// that was asked.
		for _, a := range must(listAddresses(h, nil)) {
			p, _ := prefixOf(a.IPNet)
			if p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
				continue
			}
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Addr(), port)))
			if err != nil {
				return err
			}
			udp = append(udp, c)
		}
		return nil
	})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintln(c, c.RemoteAddr())
			_ = c.Close()
		}
	})
	for _, c := range udp {
		running.Go(func() {
			buf := make([]byte, 64)
			for {
				_, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteToUDPAddrPort([]byte(from.String()), from)
			}
		})
	}
	l.Cleanup(func() {
		_ = tcp.Close()
		for _, c := range udp {
			_ = c.Close()
		}
		running.Wait()
	})
}

// dial opens a connection out of a namespace; network is tcp or udp.
func dial(ns *namespace, network string, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := ns.do(func(*netlink.Handle) (err error) {
		c, err = net.DialTimeout(network, to.String(), dialTimeout)
		return err
	})
	return c, err
}

// ask makes a round trip and returns the address that the server saw.
func ask(ns *namespace, network string, to netip.AddrPort) (string, error) {
	c, err := dial(ns, network, to)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 64)
	k, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:k])), err
}

// refusedAtOnce says whether an error is an answer and not a silence. TCP gets
// a reset; UDP an ICMP "administratively prohibited", which Linux reports as
// EHOSTUNREACH on IPv4 and EACCES on IPv6.
func refusedAtOnce(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES)
}

func (l *lab) mustReach(what string, ns *namespace, network string, to netip.AddrPort) string {
	l.Helper()
	seen, err := ask(ns, network, to)
	if err != nil {
		l.Errorf("%s: %s %s: %v, want an answer", what, network, to, err)
	}
	return seen
}

func (l *lab) mustBeRefused(what string, ns *namespace, network string, to netip.AddrPort) {
	l.Helper()
	seen, err := ask(ns, network, to)
	if err == nil {
		l.Errorf("%s: %s %s answered %q, want a refusal", what, network, to, seen)
	} else if !refusedAtOnce(err) {
		l.Errorf("%s: %s %s: %v, want a refusal at once", what, network, to, err)
	}
}

// addresses of a member in every family that it has.
func targets(a container.Addresses, port uint16) []netip.AddrPort {
	var ts []netip.AddrPort
	for _, x := range addrs(a) {
		ts = append(ts, netip.AddrPortFrom(x, port))
	}
	return ts
}

// state is everything that a site leaves on a host, as text: to compare.
func (l *lab) state(sites ...string) string {
	l.Helper()
	var b strings.Builder
	dump := func(title string, ns *namespace) {
		l.inside(ns, func(h *netlink.Handle) error {
			names := map[int]string{}
			for _, k := range must(listLinks(h)) {
				if k.Type() != "veth" && k.Attrs().Name != "lo" {
					continue
				}
				names[k.Attrs().Index] = k.Attrs().Name
				fmt.Fprintf(&b, "%s link %s alias=%q mtu=%d up=%v\n", title, k.Attrs().Name, k.Attrs().Alias, k.Attrs().MTU, k.Attrs().Flags&net.FlagUp != 0)
			}
			var lines []string
			for _, a := range must(listAddresses(h, nil)) {
				lines = append(lines, fmt.Sprintf("%s addr %s on %s flags=%d\n", title, a.IPNet, names[a.LinkIndex], a.Flags&^unix.IFA_F_TENTATIVE))
			}
			for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				for _, e := range must(whole(func() ([]netlink.Neigh, error) { return h.NeighList(0, fam) })) {
					if e.State == netlink.NUD_PERMANENT {
						lines = append(lines, fmt.Sprintf("%s neighbour %s is %s on %s\n", title, e.IP, e.HardwareAddr, names[e.LinkIndex]))
					}
				}
				for _, r := range must(listRoutes(h, nil, fam)) {
					lines = append(lines, fmt.Sprintf("%s route %s via %s dev %s src %s\n", title, r.Dst, r.Gw, names[r.LinkIndex], r.Src))
				}
			}
			conn := must(nftables.New())
			for _, t := range must(conn.ListTables()) {
				for _, s := range must(conn.GetSets(t)) {
					lines = append(lines, fmt.Sprintf("%s table %s set %s with %d\n", title, t.Name, s.Name, len(must(conn.GetSetElements(s)))))
				}
			}
			for _, c := range must(conn.ListChains()) {
				lines = append(lines, fmt.Sprintf("%s table %s chain %s with %d\n", title, c.Table.Name, c.Name, len(must(conn.GetRules(c.Table, c)))))
			}
			for _, key := range []string{forward4, forward6} {
				lines = append(lines, fmt.Sprintf("%s %s=%s\n", title, key, must(readSysctl(key))))
			}
			slices.Sort(lines)
			b.WriteString(strings.Join(lines, ""))
			return nil
		})
	}
	dump("host", l.host)
	for _, s := range sites {
		ns := must(openNamespace(l.net.pinPath(s), s))
		dump(s, ns)
		ns.close()
	}
	return b.String()
}
