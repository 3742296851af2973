package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tarima/runtime/container"
)

// DefaultDir is where the sites' namespaces are pinned.
const DefaultDir = "/run/tarima/net"

// Config says where a Network works.
type Config struct {
	// Dir holds one file per site on which its namespace is mounted, and what
	// is to be undone on the host. It must be on a file system that a reboot
	// empties and must be seen by the next process in the same mount
	// namespace: a unit with private mounts would lose it. "": DefaultDir.
	Dir string
	// HostNamespace is the path of the network namespace that counts as the
	// host. "": the one that Open is called in.
	HostNamespace string
	Logger        *slog.Logger // nil: slog.Default
}

// Network makes and keeps the networks of all sites. It is safe for use by
// several goroutines.
type Network struct {
	dir  string
	host *namespace
	log  *slog.Logger

	mu    sync.Mutex
	sites map[string]*policy // as last applied by this process
	// warned holds what was said of a site's range, so as not to say it again
	// with every Apply.
	warned map[string]string

	// hostMounts is the mount namespace that outlives this process: init's.
	hostMounts string

	// step is called between any two changes of the kernel's state. Tests end
	// an operation there as a crash would.
	step func(name string)
}

// Open prepares a Network. It changes nothing on the host and needs no
// privilege; Apply does.
func Open(c Config) (*Network, error) {
	if c.Dir == "" {
		c.Dir = DefaultDir
	}
	if !filepath.IsAbs(c.Dir) {
		return nil, fmt.Errorf("network: folder %q must be an absolute path", c.Dir)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	host := &namespace{name: "the host"}
	var err error
	if c.HostNamespace == "" {
		host.fd, err = netns.Get()
	} else {
		host.fd, err = netns.GetFromPath(c.HostNamespace)
	}
	if err != nil {
		return nil, fmt.Errorf("network: open the host's network namespace: %w", err)
	}
	return &Network{
		dir: c.Dir, host: host, log: c.Logger,
		sites: map[string]*policy{}, warned: map[string]string{},
		hostMounts: "/proc/1/ns/mnt", step: func(string) {},
	}, nil
}

// Close releases what this process holds. All sites go on as they are.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.host.close()
	return nil
}

func (n *Network) pinPath(site string) string { return filepath.Join(n.dir, site+".ns") }

// Apply makes the site's namespace, uplink and firewall as declared. It is
// idempotent, cheap when nothing is to be done, and takes over what an earlier
// process left; calling it again repairs what somebody else removed (the
// host's rules flushed, the uplink deleted). Connections that the new topology
// does not allow end.
//
// Members that are attached stay attached, with their edges as now declared.
// It returns ErrTopology, ErrRangeInUse, ErrNameTaken or ErrUnsupported, and
// for the first two has changed nothing.
func (n *Network) Apply(ctx context.Context, t container.Topology) error {
	p, err := compile(t)
	if err != nil {
		return err
	}
	if p.prefix6.IsValid() && !haveIPv6() {
		return fmt.Errorf("%w: site %q: range %s asks for IPv6, which is switched off on this host; leave it out", ErrUnsupported, p.site, p.prefix6)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.apply(ctx, &p); err != nil {
		return fmt.Errorf("network of site %q: %w", p.site, err)
	}
	n.sites[p.site] = &p
	return nil
}

func (n *Network) apply(ctx context.Context, p *policy) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var mtu int
	err := n.host.do(func(h *netlink.Handle) error {
		if err := n.checkRanges(h, p); err != nil {
			return err
		}
		var err error
		mtu, err = defaultMTU(h)
		return err
	})
	if err != nil {
		return err
	}
	// Before the first packet can pass: the host refuses everything from an
	// uplink that does not exist yet.
	if err := n.applyHostTable(p); err != nil {
		return err
	}
	n.step("host table")
	site, err := pin(n.pinPath(p.site), "site "+p.site)
	if err != nil {
		return err
	}
	defer site.close()
	n.step("pinned")
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.applySiteTable(site, p); err != nil {
		return err
	}
	n.step("site table")
	if err := n.applyUplink(p, site, mtu); err != nil {
		return err
	}
	n.step("uplink")
	return n.applyForwarding(p)
}

func (n *Network) applyHostTable(p *policy) error {
	return n.host.do(func(*netlink.Handle) error {
		_, err := ensureTable(hostTable(p.site), p, loadHostTable)
		return err
	})
}

func (n *Network) applySiteTable(site *namespace, p *policy) error {
	return site.do(func(h *netlink.Handle) error {
		v6 := p.prefix6.IsValid()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find the loopback interface: %w", err)
		}
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set the loopback interface up: %w", err)
		}
		// The table comes before forwarding is switched on.
		changed, err := ensureTable(siteTable, p, loadSiteTable)
		if err != nil {
			return err
		}
		n.step("site rules")
		if err := writeSysctls(namespaceSettings(v6)); err != nil {
			return err
		}
		if changed {
			n.endConnections(p)
		}
		return nil
	})
}

// ensureTable loads a table in this thread's namespace unless it is there as
// it should be.
func ensureTable(name string, p *policy, load func(*nftables.Conn, *policy) error) (changed bool, err error) {
	conn, err := openTables()
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.CloseLasting() }()
	same, err := hasPolicy(conn, name, p.digest())
	if err != nil || same {
		return false, err
	}
	return true, load(conn, p)
}

// Detach removes what is left of a member whose container has ended. It is no
// error when nothing is left, or when the site has no network.
func (n *Network) Detach(ctx context.Context, site, member string) error {
	if err := checkName("member", member); err != nil {
		return err
	}
	return n.inSite(ctx, site, func(h *netlink.Handle) error {
		return deleteLink(h, outerName(member))
	})
}

// Sweep removes the interfaces of all members that are not live: what crashes
// have left. It returns the names of the interfaces that it removed.
func (n *Network) Sweep(ctx context.Context, site string, liveMembers []string) ([]string, error) {
	live := make(map[string]bool, len(liveMembers))
	for _, m := range liveMembers {
		live[outerName(m)] = true
	}
	var removed []string
	err := n.inSite(ctx, site, func(h *netlink.Handle) error {
		links, err := listLinks(h)
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, l := range links {
			name := l.Attrs().Name
			if name == "lo" || name == siteUplink || live[name] {
				continue
			}
			if l.Type() != "veth" {
				continue // kernel modules put unused tunnel devices into every namespace
			}
			if err := deleteLink(h, name); err != nil {
				return err
			}
			removed = append(removed, name)
			n.step("swept")
		}
		return nil
	})
	return removed, err
}

// inSite runs fn in the site's namespace, and does nothing when there is none.
func (n *Network) inSite(ctx context.Context, site string, fn func(h *netlink.Handle) error) error {
	if err := checkName("site", site); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !pinned(n.pinPath(site)) {
		return nil
	}
	ns, err := openNamespace(n.pinPath(site), "site "+site)
	if err != nil {
		return err
	}
	defer ns.close()
	if err := ns.do(fn); err != nil {
		return fmt.Errorf("network of site %q: %w", site, err)
	}
	return nil
}

// Remove takes away everything of a site: its containers lose their network,
// the host its rules, its interface and its route. When it was the last site,
// the host's forwarding is set back to what it was, unless something else on
// the host may rely on it by now. Removing what is not there is no error.
func (n *Network) Remove(ctx context.Context, site string) error {
	if err := checkName("site", site); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.remove(site); err != nil {
		return fmt.Errorf("remove network of site %q: %w", site, err)
	}
	delete(n.sites, site)
	return nil
}

func (n *Network) remove(site string) error {
	path := n.pinPath(site)
	if pinned(path) {
		ns, err := openNamespace(path, "site "+site)
		if err != nil {
			return err
		}
		defer ns.close()
		err = ns.do(func(h *netlink.Handle) error {
			links, err := listLinks(h)
			if err != nil {
				return fmt.Errorf("list interfaces: %w", err)
			}
			for _, l := range links {
				if l.Type() != "veth" {
					continue
				}
				if err := deleteLink(h, l.Attrs().Name); err != nil {
					return err
				}
				n.step("interface removed")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	err := n.host.do(func(h *netlink.Handle) error {
		link, err := ownUplink(h, site)
		if err != nil {
			return err
		}
		if link != nil {
			if err := h.LinkDel(link); err != nil {
				return fmt.Errorf("remove interface %s: %w", link.Attrs().Name, err)
			}
		}
		n.step("uplink removed")
		conn, err := openTables()
		if err != nil {
			return err
		}
		defer func() { _ = conn.CloseLasting() }()
		return deleteTable(conn, hostTable(site))
	})
	if err != nil {
		return err
	}
	n.step("host table removed")
	if err := unpin(path); err != nil {
		return err
	}
	n.step("unpinned")
	return n.restoreForwarding()
}

// Sites lists the sites that have a network on this host, whoever made it.
func (n *Network) Sites() ([]string, error) {
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var sites []string
	for _, e := range entries {
		if site, ok := strings.CutSuffix(e.Name(), ".ns"); ok {
			sites = append(sites, site)
		}
	}
	slices.Sort(sites)
	return sites, nil
}

// deleteLink removes an interface of this thread's namespace if it exists.
func deleteLink(h *netlink.Handle, name string) error {
	link, err := findLink(h, name)
	if err != nil || link == nil {
		return err
	}
	// The pair goes as soon as either end does: it may be gone by itself.
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// findLink returns nil without an error when there is no such interface.
func findLink(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return link, nil
}
