//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inventory is everything that a site leaves on a host, each thing under its
// name, and how many there are of it. Two inventories of the same site at rest
// are equal; what is only in the later one has leaked.
type inventory map[string]int

func (i inventory) add(format string, args ...any) { i[fmt.Sprintf(format, args...)]++ }

// against lists what differs from an earlier inventory.
func (i inventory) against(before inventory) []string {
	var lines []string
	for name, n := range i {
		if n > before[name] {
			lines = append(lines, fmt.Sprintf("+%d %s", n-before[name], name))
		}
	}
	for name, n := range before {
		if n > i[name] {
			lines = append(lines, fmt.Sprintf("-%d %s", n-i[name], name))
		}
	}
	slices.Sort(lines)
	return lines
}

// mustNotHaveLeaked compares with the inventory before, and gives what is
// cleaned up in the background the time for it.
func (w *world) mustNotHaveLeaked(t *testing.T, before inventory) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		lines := w.inventory(t).against(before)
		if len(lines) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind (+) or lost (-):\n%s", strings.Join(lines, "\n"))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// inventory takes stock. What the engine has dropped and collects some seconds
// later, with other garbage, is collected first.
func (w *world) inventory(t *testing.T) inventory {
	t.Helper()
	if code, _, stderr := w.run(t, "image", "prune"); code != 0 {
		t.Fatalf("image prune: exit %d: %s", code, stderr)
	}
	i := inventory{}
	for _, m := range w.mounts() {
		i.add("mount %s", m)
	}
	for _, c := range w.cgroups() {
		i.add("cgroup %s", c)
	}
	for _, pid := range w.processes() {
		if kind := w.processKind(pid); kind != "" {
			i.add("process %s", kind)
		}
	}
	i.files(t, w.root)
	if err := w.inside(func() error { return i.networks("host", 0) }); err != nil {
		t.Fatal(err)
	}
	ns, err := netns.GetFromPath(filepath.Join(w.root, "run", "net", "default.ns"))
	if err != nil {
		t.Fatalf("the site's network: %v", err)
	}
	defer ns.Close()
	err = onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return i.networks("site", int(ns))
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// processKind names a process of the house; those of containers are the
// business of their images and are "", unless they are in no container.
func (w *world) processKind(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || strings.Contains(string(group), "/default/default.") {
		return ""
	}
	args := strings.Split(strings.Trim(string(line), "\x00"), "\x00")
	switch base := filepath.Base(args[0]); {
	case base == "tarima" && len(args) > 3:
		return "tarima " + args[3]
	case base == "tarima-shim":
		return base
	default:
		return strings.Join(args, " ")
	}
}

// socketName matches the sockets of shims, named by a hash of who asked first.
var socketName = regexp.MustCompile(`/s/[0-9a-f]{64}$`)

// files counts what lies in the folders of run, the settings, and what the
// engine keeps of images and root file systems.
func (i inventory) files(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"run", "sites/default/config"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			kind := map[fs.FileMode]string{
				0: "file", fs.ModeDir: "folder", fs.ModeNamedPipe: "fifo", fs.ModeSocket: "socket", fs.ModeSymlink: "link",
			}[d.Type()]
			i.add("%s %s", kind, socketName.ReplaceAllString(name, "/s/HASH"))
			if d.IsDir() && d.Name() == "rootfs" {
				return fs.SkipDir // a container's own files
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	engine := filepath.Join(root, "state", "engine")
	for name, pattern := range map[string]string{
		"snapshot": "io.containerd.snapshotter.v1.overlayfs/snapshots/*",
		"blob":     "io.containerd.content.v1.content/blobs/*/*",
		"ingest":   "io.containerd.content.v1.content/ingest/*",
	} {
		found, err := filepath.Glob(filepath.Join(engine, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			i[name] = len(found)
		}
	}
}

// networks counts interfaces, addresses, routes and firewall rules of the
// network namespace of this thread. ns is its descriptor, 0 for "this one".
func (i inventory) networks(where string, ns int) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		i.add("interface %s %s", where, l.Attrs().Name)
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("addresses: %w", err)
		}
		for _, a := range addresses {
			i.add("address %s %s %s", where, l.Attrs().Name, a.IPNet)
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteList(l, family)
			if err != nil {
				return fmt.Errorf("routes: %w", err)
			}
			for _, r := range routes {
				i.add("route %s %s %s", where, l.Attrs().Name, r.Dst)
			}
		}
	}
	var options []nftables.ConnOption
	if ns != 0 {
		options = append(options, nftables.WithNetNSFd(ns))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("firewall tables: %w", err)
	}
	for _, table := range tables {
		i.add("table %s %s", where, table.Name)
		sets, err := conn.GetSets(table)
		if err != nil {
			return fmt.Errorf("firewall sets: %w", err)
		}
		for _, set := range sets {
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return fmt.Errorf("firewall set %s: %w", set.Name, err)
			}
			// Sets without a name are numbered by the kernel.
			i[fmt.Sprintf("firewall elements %s %s", where, table.Name)] += len(elements)
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return fmt.Errorf("firewall chains: %w", err)
	}
	for _, chain := range chains {
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return fmt.Errorf("firewall rules: %w", err)
		}
		i[fmt.Sprintf("rule %s %s %s", where, chain.Table.Name, chain.Name)] = len(rules)
	}
	return nil
}
