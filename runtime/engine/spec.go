package engine

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"tarima/runtime/container"
)

// userRange is how many ids a container's user namespace has, from
// container.Spec.IDBase on.
const userRange = 65536

// defaultNoFile is the RLIMIT_NOFILE of a container that asks for none: MySQL,
// MongoDB and search engines want far more than the 1,024 of containerd.
const defaultNoFile = 65536

// defaultCapabilities are enough for images that begin as root and step down
// to a user of their own, and for nothing else.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID",
}

// ociVersion is the version of the OCI runtime specification that is written
// into specifications. Fields of later versions are used where the runtime says
// that it knows them; a higher number here would only make others, such as
// crun 1.8, refuse the whole.
const ociVersion = "1.0.2"

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

// validate finds what cannot be run, before anything is made.
func validate(spec *container.Spec) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrSpec, spec.ID(), fmt.Sprintf(format, args...))
	}
	if !namePattern.MatchString(spec.Site) || !namePattern.MatchString(spec.Name) {
		return wrong("site and name must be of lower-case letters, digits, - and _")
	}
	if spec.Group == "" {
		return wrong("no group")
	}
	if spec.Image == "" {
		return wrong("no image")
	}
	for _, env := range spec.Env {
		if name, _, ok := strings.Cut(env, "="); !ok || name == "" || strings.ContainsRune(env, 0) {
			return wrong("environment entry %q is not KEY=value", name) // the value may be a secret
		}
	}
	if _, err := parseSignal(spec.StopSignal); spec.StopSignal != "" && err != nil {
		return wrong("%v", err)
	}
	if spec.IDBase != 0 && (spec.IDBase < userRange || spec.IDBase > 1<<32-2*userRange) {
		return wrong("the range of ids from %d is not one of its own", spec.IDBase)
	}
	for _, capability := range spec.Capabilities {
		if !strings.HasPrefix(capability, "CAP_") {
			return wrong("capability %q is not written CAP_NAME", capability)
		}
	}
	if spec.OOMScoreAdj < -1000 || spec.OOMScoreAdj > 1000 {
		return wrong("oomScoreAdj %d is not between -1000 and 1000", spec.OOMScoreAdj)
	}
	if err := validateLimits(spec.Limits); err != nil {
		return wrong("%v", err)
	}
	seen := map[string]bool{}
	for _, m := range spec.Mounts {
		if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
			return wrong("mount target %q is not an absolute path below /", m.Target)
		}
		if seen[path.Clean(m.Target)] {
			return wrong("two mounts at %s", m.Target)
		}
		seen[path.Clean(m.Target)] = true
		switch {
		case m.Tmpfs && m.Source != "":
			return wrong("the tmpfs at %s has a source", m.Target)
		case !m.Tmpfs && !filepath.IsAbs(m.Source):
			return wrong("the source %q of %s is not an absolute path", m.Source, m.Target)
		case !m.Tmpfs && !exists(m.Source):
			return wrong("the source %s of %s does not exist", m.Source, m.Target)
		}
	}
	return nil
}

// blueprint is an OCI specification in the making.
type blueprint struct {
	spec  *container.Spec
	image ocispec.ImageConfig
	host  *host
	// cgroupRoot is Config.Cgroup.
	cgroupRoot string
	files      string // folder of hosts, hostname and resolv.conf
	user       specs.User
	userns     bool
	oci        *specs.Spec
	reduced    []string
}

func (b *blueprint) reduce(format string, args ...any) {
	b.reduced = append(b.reduced, fmt.Sprintf(format, args...))
}

// build writes the specification from nothing, not from containerd's default,
// so that all that a container gets is read here.
func (b *blueprint) build() error {
	b.oci = &specs.Spec{
		Version:  ociVersion,
		Root:     &specs.Root{Path: "rootfs", Readonly: b.spec.ReadOnlyRoot},
		Hostname: hostname(b.spec),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.CgroupNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
				"/sys/firmware", "/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
		Annotations: map[string]string{},
	}
	if b.userns {
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: b.spec.IDBase, Size: userRange}}
		b.oci.Linux.Namespaces = append(b.oci.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		b.oci.Linux.UIDMappings, b.oci.Linux.GIDMappings = ids, slices.Clone(ids)
	}
	if err := b.process(); err != nil {
		return err
	}
	if err := b.mounts(); err != nil {
		return err
	}
	b.cgroup()
	if b.host.seccomp() {
		// The profile depends on the capabilities, so it comes last.
		b.oci.Linux.Seccomp = seccomp.DefaultProfile(b.oci)
	} else {
		b.reduce("no filter of system calls: the OCI runtime was built without seccomp")
	}
	return nil
}

func hostname(spec *container.Spec) string {
	if spec.Hostname != "" {
		return spec.Hostname
	}
	return spec.Name
}

func (b *blueprint) process() error {
	args := slices.Concat(first(b.spec.Entrypoint, b.image.Entrypoint), b.spec.Args)
	if b.spec.Args == nil && b.spec.Entrypoint == nil {
		// As everywhere: an entrypoint of one's own does away with the image's
		// CMD, which was written for the image's entrypoint.
		args = slices.Concat(args, b.image.Cmd)
	}
	if len(args) == 0 {
		return fmt.Errorf("%w: %s: neither it nor its image names a command", ErrSpec, b.spec.ID())
	}
	cwd := b.spec.Workdir
	if cwd == "" {
		cwd = b.image.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	if !path.IsAbs(cwd) {
		cwd = "/" + cwd
	}
	capabilities := b.spec.Capabilities
	if capabilities == nil {
		capabilities = defaultCapabilities
	}
	process := &specs.Process{
		Args:            args,
		Env:             mergeEnv(b.image.Env, b.spec.Env),
		Cwd:             cwd,
		User:            b.user,
		NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{
			Bounding: capabilities, Permitted: capabilities, Effective: capabilities,
		},
	}
	noFile := b.spec.NoFile
	if noFile == 0 {
		noFile = defaultNoFile
	}
	if noFile > b.host.noFile {
		b.reduce("at most %d open files in place of %d: this host allows no more", b.host.noFile, noFile)
		noFile = b.host.noFile
	}
	process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: noFile, Soft: noFile}, {Type: "RLIMIT_CORE"}}

	// Always set: what is not set is inherited from the daemon, whose unit
	// protects itself.
	score := b.spec.OOMScoreAdj
	if !b.host.resource && score < b.host.oomScore {
		b.reduce("oom_score_adj %d in place of %d: lowering it needs CAP_SYS_RESOURCE", b.host.oomScore, score)
		score = b.host.oomScore
	}
	process.OOMScoreAdj = &score
	b.oci.Process = process
	return nil
}

func first(lists ...[]string) []string {
	for _, list := range lists {
		if list != nil {
			return list
		}
	}
	return nil
}

// mergeEnv gives the later of two values of a name the place of the former.
func mergeEnv(lists ...[]string) []string {
	var env []string
	place := map[string]int{}
	for _, entry := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(entry, "=")
		if i, ok := place[name]; ok {
			env[i] = entry
			continue
		}
		place[name] = len(env)
		env = append(env, entry)
	}
	if _, ok := place["PATH"]; !ok {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	return env
}

func (b *blueprint) mounts() error {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
	}
	asked := map[string]bool{}
	for _, m := range b.spec.Mounts {
		asked[path.Clean(m.Target)] = true
	}
	mounts = slices.DeleteFunc(mounts, func(m specs.Mount) bool { return asked[m.Destination] })
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		if target := "/etc/" + name; !asked[target] {
			mounts = append(mounts, specs.Mount{Destination: target, Type: "bind", Source: filepath.Join(b.files, name), Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
		}
	}
	// Outer folders first, or they would hide what is mounted below them.
	wanted := slices.Clone(b.spec.Mounts)
	slices.SortStableFunc(wanted, func(x, y container.Mount) int {
		return strings.Count(path.Clean(x.Target), "/") - strings.Count(path.Clean(y.Target), "/")
	})
	for _, m := range wanted {
		mount, err := b.mount(m)
		if err != nil {
			return err
		}
		mounts = append(mounts, mount)
	}
	for volume := range b.image.Volumes {
		if !asked[path.Clean(volume)] {
			b.reduce("the image declares a volume at %s and nothing is mounted there: what is written to it is lost with the container", volume)
		}
	}
	slices.Sort(b.reduced) // the volumes of an image have no order
	b.oci.Mounts = mounts
	return nil
}

func (b *blueprint) mount(m container.Mount) (specs.Mount, error) {
	if m.Tmpfs {
		options := []string{"nosuid", "nodev"}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		mode := m.Mode
		if mode == 0 {
			mode = 0o1777
		}
		options = append(options, "mode="+strconv.FormatUint(uint64(mode), 8))
		if m.Size > 0 {
			options = append(options, "size="+strconv.FormatInt(m.Size, 10))
		}
		return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: options}, nil
	}
	mount := specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: []string{"rbind", "nosuid", "nodev"}}
	if m.ReadOnly {
		mount.Options = append(mount.Options, "ro")
	}
	if m.Idmap && b.userns {
		if err := b.host.mayIdmap(m.Source); err != nil {
			return mount, fmt.Errorf("%w: %s: %s cannot be shown with shifted ids, its file system refuses idmapped mounts; put it on ext4, xfs or btrfs: %w", ErrSpec, b.spec.ID(), m.Source, err)
		}
		mount.UIDMappings = slices.Clone(b.oci.Linux.UIDMappings)
		mount.GIDMappings = slices.Clone(b.oci.Linux.GIDMappings)
	}
	return mount, nil
}

// cgroup places the container and sets its limits.
func (b *blueprint) cgroup() {
	b.oci.Linux.CgroupsPath = b.host.cgroupsPath(b.cgroupRoot, b.spec.Site, b.spec.ID())
	resources, reduced := b.host.resources(b.spec.Limits)
	resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	b.oci.Linux.Resources = resources
	b.reduced = append(b.reduced, reduced...)
}
