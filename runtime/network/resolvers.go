package network

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

const (
	// HostResolvConf is where a host keeps its name servers.
	HostResolvConf = "/etc/resolv.conf"
	// resolvedResolvConf lists the servers that systemd-resolved itself asks
	// (systemd-resolved.service(8), "/etc/resolv.conf").
	resolvedResolvConf = "/run/systemd/resolve/resolv.conf"
	// maxResolvers is how many the C library looks at (MAXNS in resolv.h).
	maxResolvers = 3
)

// Resolvers are the host's name servers that a container with egress can ask:
// those of hostResolvConf ("": HostResolvConf), or, where that names only the
// stub of systemd-resolved, those that it asks itself. Servers on the loopback,
// on an address of the host's own, or on a link are left out. When none is
// left, the error is ErrNoResolver and says what to do in a sentence.
//
// They belong into Topology.Resolvers and into the containers' resolv.conf.
func Resolvers(hostResolvConf string) ([]netip.Addr, error) {
	if hostResolvConf == "" {
		hostResolvConf = HostResolvConf
	}
	return resolvers(hostResolvConf, resolvedResolvConf, hostAddresses)
}

func resolvers(path, resolvedPath string, own func() ([]netip.Addr, error)) ([]netip.Addr, error) {
	listed, err := readResolvConf(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ours, err := own()
	if err != nil {
		return nil, err
	}
	reachable := reachableResolvers(listed, ours)
	if len(reachable) == 0 {
		behind, err := readResolvConf(resolvedPath)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		reachable = reachableResolvers(behind, ours)
	}
	if len(reachable) > 0 {
		return reachable, nil
	}
	if len(listed) == 0 {
		return nil, fmt.Errorf("%w: %s names none; name one there or in the site file", ErrNoResolver, path)
	}
	return nil, fmt.Errorf("%w: %s names only %s, which containers cannot reach; name another resolver in the site file", ErrNoResolver, path, listed)
}

func readResolvConf(path string) ([]netip.Addr, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	defer func() { _ = f.Close() }()
	addrs, err := parseResolvConf(f)
	if err != nil {
		return nil, fmt.Errorf("read name servers from %s: %w", path, err)
	}
	return addrs, nil
}

// parseResolvConf reads the "nameserver" lines as the C library does
// (resolv.conf(5)): the keyword begins the line, and what is no address counts
// as absent.
func parseResolvConf(r io.Reader) ([]netip.Addr, error) {
	var addrs []netip.Addr
	lines := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "nameserver")
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		if a, err := netip.ParseAddr(fields[0]); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs, lines.Err()
}

func reachableResolvers(listed, own []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range listed {
		a = a.Unmap()
		if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast() ||
			slices.Contains(own, a) || slices.Contains(out, a) {
			continue
		}
		if out = append(out, a); len(out) == maxResolvers {
			break
		}
	}
	return out
}

func hostAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if p, ok := prefixOf(n); ok {
				out = append(out, p.Addr().Unmap())
			}
		}
	}
	return out, nil
}
