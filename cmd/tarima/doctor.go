package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// Levels of a finding.
const (
	levelOK      = "ok"
	levelInfo    = "info"
	levelWarning = "warning"
	levelError   = "error"
)

func (c *cli) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := c.verb("doctor", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		findings, running, err := c.examine(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(c.out, findings)
		} else {
			c.printFindings(findings, running)
		}
		for _, f := range findings {
			if err == nil && f.Level == levelError {
				err = &exitError{code: exitFailed}
			}
		}
		return err
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

// examine looks at the machine, and asks the daemon for what it knows.
func (c *cli) examine(ctx context.Context) (findings []control.Finding, running bool, err error) {
	p := c.paths()
	findings, err = p.client().Doctor(ctx)
	switch {
	case errors.Is(err, control.ErrNotRunning):
	case err != nil:
		return nil, false, err
	default:
		running = true
	}
	findings = append(examineMachine(p), findings...)
	config := site.Defaults(site.Config{}, site.Host{})
	if parsed, err := site.Load(p.SiteFile); err == nil {
		config = site.Defaults(parsed, site.Host{})
	}
	if host, err := site.DetectHost(); err == nil { // HOST-MEMORY tells the error
		if f, ok := examineSwap(host, config); ok {
			findings = append(findings, f)
		}
	}
	findings = append(findings, examineOthers(p, config)...)
	if !running {
		findings = append(findings, examinePorts(config.Proxy.HTTP, config.Proxy.HTTPS)...)
	}
	return findings, running, nil
}

func (c *cli) printFindings(findings []control.Finding, running bool) {
	if !running {
		fmt.Fprintln(c.err, c.say("doctor.notRunning"))
	}
	wrong := 0
	for _, f := range findings {
		if f.Level == levelInfo {
			f.Level = levelOK // good to know, nothing to do
		}
		color := map[string]string{levelOK: green, levelWarning: yellow, levelError: red}[f.Level]
		fmt.Fprintf(c.out, "%s  %s  %s\n", paint(c.say("doctor."+f.Level), color, c.color()), f.Code, f.Text)
		if f.Level == levelOK {
			continue
		}
		wrong++
		if f.Fix != "" {
			fmt.Fprintln(c.out, "    "+c.say("doctor.fix", values{"Fix": f.Fix}))
		}
	}
	if wrong == 0 {
		fmt.Fprintln(c.out, c.say("doctor.allWell"))
	}
}

// examineMachine checks what a site needs of the host. It changes nothing.
func examineMachine(p paths) []control.Finding {
	return append([]control.Finding{
		examineRoot(), examineKernel(), examineOverlay(), examineCgroups(), examineUserNamespaces(),
		examineMemory(), examineDisk(p.State),
	}, examineDamaged(p.engineRoot())...)
}

func finding(code, level, text, fix string) control.Finding {
	if level == levelOK {
		fix = ""
	}
	return control.Finding{Code: code, Level: level, Text: text, Fix: fix}
}

func examineRoot() control.Finding {
	if os.Geteuid() == 0 {
		return finding("HOST-ROOT", levelOK, "runs as root", "")
	}
	return finding("HOST-ROOT", levelWarning, "not root: some things cannot be seen", "run sudo tarima doctor")
}

// examineKernel wants 5.19: the first whose overlayfs works on idmapped layers,
// which keeps root of a container nobody outside.
func examineKernel() control.Finding {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return finding("HOST-KERNEL", levelError, "the kernel does not say its version: "+err.Error(), "")
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return finding("HOST-KERNEL", levelWarning, "kernel "+release+" has a version that cannot be read", "")
	}
	if major > 5 || major == 5 && minor >= 19 {
		return finding("HOST-KERNEL", levelOK, "kernel "+release, "")
	}
	return finding("HOST-KERNEL", levelWarning,
		"kernel "+release+" cannot map user ids of images: containers run without user namespaces",
		"use a distribution with Linux 5.19 or newer, such as Debian 12")
}

func examineOverlay() control.Finding {
	data, err := os.ReadFile("/proc/filesystems")
	if err == nil && strings.Contains(string(data), "\toverlay\n") {
		return finding("HOST-OVERLAY", levelOK, "overlayfs is there", "")
	}
	return finding("HOST-OVERLAY", levelError, "the kernel has no overlayfs: images cannot be unpacked", "run modprobe overlay, or use a kernel that has it")
}

func examineCgroups() control.Finding {
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
			return finding("HOST-CGROUP", levelWarning, "cgroup version 1: memory is limited, but services are not slowed down before they reach their limit",
				"boot with systemd.unified_cgroup_hierarchy=1, the usual setting since Debian 11")
		}
		return finding("HOST-CGROUP", levelError, "no cgroups with a memory controller: nothing can be limited", "mount cgroup2 at /sys/fs/cgroup")
	}
	var missing []string
	have := strings.Fields(string(data))
	for _, want := range []string{"memory", "cpu", "pids"} {
		found := false
		for _, h := range have {
			found = found || h == want
		}
		if !found {
			missing = append(missing, want)
		}
	}
	if len(missing) > 0 {
		return finding("HOST-CGROUP", levelWarning, "cgroup controllers are missing: "+strings.Join(missing, ", "),
			"on a Raspberry Pi add cgroup_enable=memory to the kernel's command line; in a container ask the host for delegation")
	}
	return finding("HOST-CGROUP", levelOK, "cgroup version 2 with memory, cpu and pids", "")
}

func examineUserNamespaces() control.Finding {
	data, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err == nil && strings.TrimSpace(string(data)) != "0" {
		return finding("HOST-USERNS", levelOK, "user namespaces are there", "")
	}
	return finding("HOST-USERNS", levelWarning, "user namespaces are switched off: root in a container is root outside",
		"sysctl -w user.max_user_namespaces=15000, and write it to /etc/sysctl.d")
}

// Memory below which a whole Open edX does not fit.
const leastMemory = 1900 * site.MB

func examineMemory() control.Finding {
	host, err := site.DetectHost()
	if err != nil {
		return finding("HOST-MEMORY", levelError, err.Error(), "")
	}
	text := fmt.Sprintf("%s of memory (%s), %d cores", bytesText(int64(host.Memory)), host.MemoryFrom, host.Cores)
	if host.Memory < leastMemory {
		return finding("HOST-MEMORY", levelWarning, text+": less than the 2 GB that a small site needs", "choose a larger server, or run fewer services")
	}
	return finding("HOST-MEMORY", levelOK, text, "")
}

// Free disk space below which images and databases have no room, in bytes.
const leastDisk = 8 << 30

func examineDisk(dir string) control.Finding {
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return finding("HOST-DISK", levelError, fmt.Sprintf("free space of %s: %v", dir, err), "")
	}
	free := int64(fs.Bavail) * fs.Bsize
	text := fmt.Sprintf("%s free on %s", bytesText(free), dir)
	if free < leastDisk {
		return finding("HOST-DISK", levelWarning, text+": images and databases need more", "make room, or put /var/lib/tarima on a larger disk")
	}
	return finding("HOST-DISK", levelOK, text, "")
}
