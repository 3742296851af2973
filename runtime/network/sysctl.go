package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysctl is one kernel setting of a network namespace; key is its path below
// /proc/sys, since interface names may hold dots.
type sysctl struct{ key, value string }

// sysctlRoot shows the settings of the network namespace of the thread that
// opens a file below it.
const sysctlRoot = "/proc/sys"

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysctlRoot, key))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// writeSysctl writes a value unless it is there already: where /proc/sys is
// read-only it is enough that the setting is right.
func writeSysctl(s sysctl) error {
	if have, err := readSysctl(s.key); err == nil && have == s.value {
		return nil
	}
	if err := os.WriteFile(filepath.Join(sysctlRoot, s.key), []byte(s.value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", s.key, s.value, err)
	}
	return nil
}

// writeSysctls writes in order. A setting that this kernel does not have is
// passed over: what it would switch off is not there.
func writeSysctls(settings []sysctl) error {
	for _, s := range settings {
		if err := writeSysctl(s); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// haveIPv6 says whether the kernel has IPv6 at all.
func haveIPv6() bool {
	_, err := os.Stat(filepath.Join(sysctlRoot, "net/ipv6/conf"))
	return err == nil
}

// namespaceSettings make a site's namespace a router that trusts nobody.
func namespaceSettings(v6 bool) []sysctl {
	s := []sysctl{
		// First: switching forwarding on resets some of the others.
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv4/conf/all/rp_filter", "1"},
		{"net/ipv4/conf/default/rp_filter", "1"},
		{"net/ipv4/conf/all/accept_redirects", "0"},
		{"net/ipv4/conf/default/accept_redirects", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"},
		{"net/ipv4/conf/default/send_redirects", "0"},
		{"net/ipv4/conf/all/accept_source_route", "0"},
		{"net/ipv4/conf/default/accept_source_route", "0"},
		// ICMP "unreachable" is this firewall's refusal: by default the kernel
		// sends each target one a second, and the rest would look like loss. The
		// mask is the default without bit 3, destination unreachable.
		{"net/ipv4/icmp_ratelimit", "0"},
		{"net/ipv4/icmp_ratemask", "6160"},
	}
	if !v6 {
		return append(s, sysctl{"net/ipv6/conf/all/disable_ipv6", "1"}, sysctl{"net/ipv6/conf/default/disable_ipv6", "1"})
	}
	return append(
		s,
		sysctl{"net/ipv6/conf/all/disable_ipv6", "0"},
		sysctl{"net/ipv6/conf/default/disable_ipv6", "0"},
		sysctl{"net/ipv6/conf/all/forwarding", "1"},
		sysctl{"net/ipv6/conf/all/accept_ra", "0"},
		sysctl{"net/ipv6/conf/default/accept_ra", "0"},
		sysctl{"net/ipv6/conf/all/accept_redirects", "0"},
		sysctl{"net/ipv6/conf/default/accept_redirects", "0"},
		sysctl{"net/ipv6/icmp/ratelimit", "0"},
		sysctl{"net/ipv6/icmp/ratemask", "0,3-127"},
	)
}

// interfaceSettings are for an end of a pair that has fixed addresses, before
// it goes up.
func interfaceSettings(name string, v6 bool) []sysctl {
	s := []sysctl{
		{"net/ipv4/conf/" + name + "/rp_filter", "1"},
		{"net/ipv4/conf/" + name + "/accept_redirects", "0"},
		{"net/ipv4/conf/" + name + "/send_redirects", "0"},
	}
	if !v6 {
		return append(s, sysctl{"net/ipv6/conf/" + name + "/disable_ipv6", "1"})
	}
	return append(
		s,
		sysctl{"net/ipv6/conf/" + name + "/disable_ipv6", "0"},
		sysctl{"net/ipv6/conf/" + name + "/accept_ra", "0"},
		sysctl{"net/ipv6/conf/" + name + "/autoconf", "0"},
		sysctl{"net/ipv6/conf/" + name + "/accept_redirects", "0"},
		// Nobody else is on the wire: duplicate address detection would only
		// keep the address unusable for its first second.
		sysctl{"net/ipv6/conf/" + name + "/accept_dad", "0"},
		// No link-local address but those given.
		sysctl{"net/ipv6/conf/" + name + "/addr_gen_mode", "1"},
	)
}

// containerSettings are for a container's own namespace.
func containerSettings() []sysctl {
	return []sysctl{
		// A new namespace inherits the host's value.
		{"net/ipv4/ip_forward", "0"},
		{"net/ipv6/conf/all/forwarding", "0"},
		{"net/ipv4/conf/all/accept_source_route", "0"},
		// Images expect what Docker does: a service that is not root may
		// listen on port 80 of its own namespace.
		{"net/ipv4/ip_unprivileged_port_start", "0"},
	}
}
