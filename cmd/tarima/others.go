package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// errOther: two daemons would take the network of one site from each other.
var errOther = errors.New("another Tarima is in the way")

// other is a process of another Tarima on this host: one that keeps its files
// below another folder and shares our network.
type other struct {
	pid  int
	role string // daemon, proxy or tarima-shim
	root string // "": the system's own places
	site string
	// config is what its site file says; nil when it cannot be read.
	config *site.Config
}

func (o other) String() string {
	root := "the one of this system (/etc/tarima)"
	if o.root != "" {
		root = "root " + o.root
	}
	if o.role == shimRole {
		return fmt.Sprintf("containers whose daemon does not run, process %d, %s", o.pid, root)
	}
	return fmt.Sprintf("%s, process %d, %s", o.role, o.pid, root)
}

const (
	daemonRole = "daemon"
	proxyRole  = "proxy"
	shimRole   = "tarima-shim"
)

// findOthers looks through the processes of this host. It sees what the caller
// may see: all of them as root.
func findOthers(own paths) []other {
	links, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	mine, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	var found []other
	for _, dir := range links {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if theirs, err := os.Stat(dir + "/ns/net"); err != nil || !os.SameFile(mine, theirs) {
			continue // another network: nothing is shared
		}
		o, ok := identify(dir, pid)
		if !ok || samePlace(newPaths(o.root).State, own.State) {
			continue
		}
		if parsed, err := site.Load(newPaths(o.root).SiteFile); err == nil {
			config := site.Defaults(parsed, site.Host{})
			o.config = &config
		}
		found = append(found, o)
	}
	slices.SortFunc(found, func(a, b other) int { return a.pid - b.pid })
	return withoutKept(found)
}

// withoutKept leaves out shims whose daemon runs, and further shims of the same
// Tarima: one line tells of them.
func withoutKept(all []other) []other {
	told := map[string]bool{}
	for _, o := range all {
		if o.role == daemonRole {
			told[o.root] = true
		}
	}
	return slices.DeleteFunc(all, func(o other) bool {
		if o.role != shimRole {
			return false
		}
		before := told[o.root]
		told[o.root] = true
		return before
	})
}

func samePlace(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return a == b || errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// identify says whether a process is a part of a Tarima that stays, and of which.
func identify(dir string, pid int) (other, bool) {
	cmdline, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return other{}, false
	}
	argv := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	name := filepath.Base(argv[0])
	if !strings.HasPrefix(name, "tarima") {
		return other{}, false
	}
	environ, err := os.ReadFile(dir + "/environ")
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return other{}, false
	}
	o := other{pid: pid, site: defaultSite}
	if name == shimRole {
		// The daemon tells its shims where to log: RUN/engine/shim.log.
		log, ok := strings.CutSuffix(variable(environ, "TARIMA_SHIM_LOG"), "/engine/shim.log")
		if !ok {
			return other{}, false
		}
		o.role = shimRole
		if log != newPaths("").Run {
			o.root = strings.TrimSuffix(log, "/run")
		}
		return o, true
	}
	verb, root, given := rootOf(argv[1:])
	if verb != daemonRole && verb != proxyRole {
		return other{}, false
	}
	if !given {
		root = variable(environ, "TARIMA_ROOT")
	}
	if root != "" && !filepath.IsAbs(root) {
		at, err := os.Readlink(dir + "/cwd")
		if err != nil {
			return other{}, false
		}
		root = filepath.Join(at, root)
	}
	o.role, o.root = verb, root
	return o, true
}

// rootOf reads verb and --root of a command line.
func rootOf(args []string) (verb, root string, given bool) {
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		value, joined := strings.CutPrefix(args[i], "--root=")
		switch {
		case joined:
			root, given = value, true
		case args[i] == "--root" && i+1 < len(args):
			i++
			root, given = args[i], true
		case args[i] == "--lang":
			i++
		case verb == "" && !strings.HasPrefix(args[i], "-"):
			verb = args[i]
		}
	}
	return verb, root, given
}

// variable of an environment as /proc shows it.
func variable(environ []byte, name string) string {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}

// shared says what a process of another Tarima and this one both want.
func shared(o other, siteName string, config site.Config) []string {
	var out []string
	if o.role != proxyRole {
		if o.site == siteName {
			out = append(out, fmt.Sprintf("the site name %q", siteName))
		}
		if o.config != nil {
			for _, pair := range [][2]netip.Prefix{
				{config.Network.Range4, o.config.Network.Range4}, {config.Network.Range6, o.config.Network.Range6},
			} {
				if pair[0].IsValid() && pair[1].IsValid() && pair[0].Overlaps(pair[1]) {
					out = append(out, "addresses of "+pair[0].String())
				}
			}
		}
	}
	if o.role == proxyRole && o.config != nil {
		for _, address := range []string{config.Proxy.HTTP, config.Proxy.HTTPS} {
			port := portOf(address)
			if port != "" && (port == portOf(o.config.Proxy.HTTP) || port == portOf(o.config.Proxy.HTTPS)) {
				out = append(out, "port "+port)
			}
		}
	}
	return out
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}

// remedy says what to do about another Tarima.
func remedy(o other, what []string) string {
	command := "tarima"
	if o.root != "" {
		command += " --root " + o.root
	}
	end := fmt.Sprintf("stop the other one (%s stop --all, then end process %d)", command, o.pid)
	switch {
	case o.root == "":
		end = "stop the other one (systemctl stop tarima tarima-proxy)"
	case o.role == proxyRole:
		end = fmt.Sprintf("end process %d", o.pid)
	case o.role == shimRole:
		end = fmt.Sprintf("start its daemon again and stop its site (%s run, then end it)", command)
	}
	if slices.ContainsFunc(what, func(w string) bool { return strings.HasPrefix(w, "the site name") }) {
		return end + ", or run one of the two in a network namespace of its own (ip netns exec)"
	}
	return end + ", or give one of the two others: range4 and range6 under [network], http and https under [proxy] in its site file"
}

// checkOthers refuses to start beside a living daemon that keeps the same site
// or the same addresses: the two would take the network from each other again
// and again. Containers whose daemon is gone are only told of.
func (a *appliance) checkOthers(config site.Config) error {
	for _, o := range findOthers(a.paths) {
		what := shared(o, defaultSite, config)
		if len(what) == 0 || o.role == proxyRole {
			continue // the proxy says itself who holds its ports
		}
		if o.role == daemonRole {
			return fmt.Errorf("%w (%s): both want %s; %s", errOther, o, strings.Join(what, " and "), remedy(o, what))
		}
		a.log.Warn("there are containers of another Tarima, which lose their network", "what", o.String(), "shared", what, "remedy", remedy(o, what))
	}
	return nil
}

// examineOthers says which other Tarimas are on this host.
func examineOthers(own paths, config site.Config) []control.Finding {
	var findings []control.Finding
	for _, o := range findOthers(own) {
		what := shared(o, defaultSite, config)
		if len(what) == 0 {
			findings = append(findings, finding("HOST-TARIMA", levelInfo, "there is another Tarima, which is not in the way: "+o.String(), ""))
			continue
		}
		findings = append(findings, finding("HOST-TARIMA", levelError,
			fmt.Sprintf("there is another Tarima (%s), and both want %s", o, strings.Join(what, " and ")), remedy(o, what)))
	}
	return findings
}
