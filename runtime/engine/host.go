package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// host is what this machine and its OCI runtime can do. What costs a process
// to find out is found out at the first container.
type host struct {
	runtime  string
	state    string
	unified  bool // cgroup v2 alone
	systemd  bool // PID 1 is systemd and takes orders
	resource bool // CAP_SYS_RESOURCE
	noFile   uint64
	oomScore int // the lowest oom_score_adj that may be set without CAP_SYS_RESOURCE
	swap     bool
	// lacks are the controllers of cgroup v2 that this host does not have, as
	// in a machine that is itself a container: their limits are left out.
	lacks map[string]bool

	features func() (features.Features, error)
	userns   func() error // why there are no idmapped user namespaces

	mu    sync.Mutex
	idmap map[uint64]error // by device: why a file system takes no idmapped mount
}

func probeHost(cfg Config) *host {
	h := &host{runtime: cfg.Runtime, state: cfg.State, idmap: map[uint64]error{}}
	h.unified = cgroups.Mode() == cgroups.Unified
	if h.unified {
		h.lacks = lackingControllers("/sys/fs/cgroup/cgroup.controllers")
	}
	h.systemd = systemdTakesOrders()
	h.resource = hasCapability(unix.CAP_SYS_RESOURCE)
	h.noFile = hardNoFile(h.resource)
	h.oomScore = ownOOMScore()
	h.swap = countsSwap(h.unified)
	h.features = sync.OnceValues(func() (features.Features, error) { return runtimeFeatures(cfg.Runtime) })
	h.userns = sync.OnceValue(h.probeUserns)
	return h
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lackingControllers reads which of the controllers that limits need are not
// in a list of the kernel's (Linux, Documentation/admin-guide/cgroup-v2.rst,
// "cgroup.controllers"). A list that cannot be read tells of none.
func lackingControllers(path string) map[string]bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	lacks := map[string]bool{}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(strings.Fields(string(text)), controller) {
			lacks[controller] = true
		}
	}
	return lacks
}

// countsSwap says whether the kernel limits swap. The root of cgroup v2 has no
// limits to look at; only a cgroup below it that has one of memory tells.
func countsSwap(unified bool) bool {
	if !unified {
		return exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	memory, _ := filepath.Glob("/sys/fs/cgroup/*/memory.max") // the patterns are right ones
	swap, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
	return len(memory) == 0 || len(swap) > 0
}

// systemdTakesOrders says whether containers can be put into scopes: systemd
// must be PID 1 (sd_booted(3)) and be reached over D-Bus.
func systemdTakesOrders() bool {
	return exists("/run/systemd/system") && (exists("/run/dbus/system_bus_socket") || exists("/run/systemd/private"))
}

func hasCapability(number int) bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && set&(1<<number) != 0
		}
	}
	return false
}

// hardNoFile is the highest RLIMIT_NOFILE that a container can be given:
// fs.nr_open for one who may raise limits, else our own hard limit.
func hardNoFile(mayRaise bool) uint64 {
	if mayRaise {
		if text, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
			if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
				return n
			}
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // the default of every Linux
	}
	return limit.Max
}

func ownOOMScore() int {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

// runtimeFeatures asks the OCI runtime what it can do (OCI runtime
// specification, features.md). Runtimes without that command, such as older
// ones of crun, give an error.
func runtimeFeatures(runtime string) (features.Features, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, runtime, "features").Output()
	if err != nil {
		return features.Features{}, fmt.Errorf("%s does not say what it can do: %w", runtime, err)
	}
	var f features.Features
	if err := json.Unmarshal(output, &f); err != nil {
		return f, fmt.Errorf("%s does not say what it can do: %w", runtime, err)
	}
	return f, nil
}

// idmapMounts says why the OCI runtime cannot make idmapped volumes, or nil.
func (h *host) idmapMounts() error {
	f, err := h.features()
	if err != nil {
		return err
	}
	if f.Linux == nil || f.Linux.MountExtensions == nil || f.Linux.MountExtensions.IDMap == nil ||
		f.Linux.MountExtensions.IDMap.Enabled == nil || !*f.Linux.MountExtensions.IDMap.Enabled {
		return fmt.Errorf("%s makes no idmapped mounts; runc 1.2 or newer does", h.runtime)
	}
	return nil
}

// seccomp says whether the runtime can filter system calls.
func (h *host) seccomp() bool {
	f, err := h.features()
	if err != nil {
		return true // an older runtime; it says so itself when it cannot
	}
	return f.Linux != nil && f.Linux.Seccomp != nil && f.Linux.Seccomp.Enabled != nil && *f.Linux.Seccomp.Enabled
}

// probeUserns says why containers cannot have user namespaces with idmapped
// roots, or nil.
func (h *host) probeUserns() error {
	if err := h.idmapMounts(); err != nil {
		return err
	}
	// The root of a container lies below; a process with no right of its own
	// must reach it.
	for dir := h.state; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s cannot be searched by others; chmod o+x it", dir)
		}
		if dir == "/" {
			break
		}
	}
	if err := h.mayIdmap(h.state); err != nil {
		return fmt.Errorf("idmapped mounts do not work here: %w", err)
	}
	return nil
}

// probeMapping is any mapping that changes something.
const probeMapping = "0:65536:65536"

// mayIdmap tries an idmapped mount of a path's file system, once for each file
// system: some, such as NFS or older ZFS, refuse it.
func (h *host) mayIdmap(path string) error {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err, known := h.idmap[stat.Dev]; known {
		return err
	}
	err := tryIdmap(path)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		h.idmap[stat.Dev] = err // a lasting answer
	}
	return err
}

// tryIdmap makes an idmapped mount that is not attached to any place and lets
// it go.
func tryIdmap(path string) error {
	userns, err := mount.GetUsernsFD(probeMapping, probeMapping)
	if err != nil {
		return fmt.Errorf("making a user namespace: %w", err)
	}
	defer userns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree of %s: %w", path, err)
	}
	defer func() { _ = unix.Close(tree) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mount_setattr of %s: %w", path, err)
	}
	return nil
}

// Reduced tells, one sentence each, what every container of this host must do
// without. What one container alone lacks is in its Status.
func (e *Engine) Reduced() []string {
	var reduced []string
	if err := e.host.userns(); err != nil {
		reduced = append(reduced, fmt.Sprintf("no user namespaces: %v", err))
	}
	if !e.host.seccomp() {
		reduced = append(reduced, fmt.Sprintf("no filter of system calls: %s was built without seccomp", e.host.runtime))
	}
	if !e.host.unified {
		reduced = append(reduced, "cgroup v1: no memory.high, memory limits act only by killing")
	}
	for _, controller := range slices.Sorted(maps.Keys(e.host.lacks)) {
		reduced = append(reduced, "this host's cgroups have no controller for "+controller+": its limits are not in force")
	}
	if !e.host.swap {
		reduced = append(reduced, "the kernel does not limit swap (boot it with swapaccount=1)")
	}
	return reduced
}
