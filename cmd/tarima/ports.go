package main

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"tarima/supervisor/control"
)

// examinePorts says who holds the ports that the proxy needs.
func examinePorts(addresses ...string) []control.Finding {
	var findings []control.Finding
	for _, address := range addresses {
		_, text, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			continue
		}
		code := "PORT-" + text
		inode := listener(uint16(port))
		if inode == "" {
			findings = append(findings, finding(code, levelOK, "port "+text+" is free", ""))
			continue
		}
		owner := socketOwner(inode)
		findings = append(findings, finding(code, levelError, fmt.Sprintf("port %s is taken by %s", text, owner),
			"stop that program, or give Tarima another port under [proxy] in the site file"))
	}
	return findings
}

// publicPorts are the ports of listening addresses that the outside is to reach:
// those on the loopback are for this host alone.
func publicPorts(addresses ...string) []uint16 {
	var ports []uint16
	for _, address := range addresses {
		host, text, err := net.SplitHostPort(address)
		if err != nil || host == "localhost" {
			continue
		}
		if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
			continue
		}
		if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
			ports = append(ports, uint16(port))
		}
	}
	return ports
}

// listener returns the inode of the TCP socket that listens on a port, or "".
func listener(port uint16) string {
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		file, err := os.Open(name)
		if err != nil {
			continue
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			// sl local_address rem_address st … uid timeout inode, proc(5)
			f := strings.Fields(lines.Text())
			const listening = "0A"
			if len(f) > 9 && f[3] == listening && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return f[9]
			}
		}
	}
	return ""
}

// socketOwner names the process that has a socket open.
func socketOwner(inode string) string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "an unknown program"
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		pid := strings.Split(link, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			return "process " + pid
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
	}
	return "another user's program"
}
