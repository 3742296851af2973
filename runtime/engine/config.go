package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
)

// Defaults for Config.
const (
	DefaultRoot  = "/var/lib/tarima/engine"
	DefaultState = "/run/tarima/engine"

	// shippedRuntime is where the packages put the static runc.
	shippedRuntime = "/usr/libexec/tarima/runc"
	// namespace keeps our containers apart from others in an external
	// containerd; the embedded one uses it too, so that both look alike.
	namespace = "tarima"
	// snapshotter is the only one that is linked in.
	snapshotter = "overlayfs"
)

// maxState is how long State may be: a shim's socket lies in State/s under a
// name of 64 characters, and the kernel takes paths of at most 107.
const maxState = 107 - 64 - len("/s/")

// Config of an Engine. The zero value of a field means its default.
type Config struct {
	Root  string // what outlives a reboot; DefaultRoot
	State string // what does not; DefaultState. At most 40 characters

	// Runtime is the path of the OCI runtime. Default: "runc" beside this
	// executable, then /usr/libexec/tarima/runc, then the one in PATH.
	Runtime string
	// LogDir returns the folder of a site's log files. Default: Root/logs/SITE.
	LogDir func(site string) string
	// Socket of an external containerd (2.1 or newer) to use in place of the
	// embedded one.
	Socket string
	// DebugSocket serves containerd's API to tools such as ctr, for root
	// alone. Default: no socket.
	DebugSocket string
	// Cgroup is the name below which the containers' cgroups lie, as
	// /NAME/SITE/ID or, with systemd, in NAME-SITE.slice. Default: tarima, and
	// for another Root tarima- and a hash of it, so that two engines on one
	// host do not meet.
	Cgroup string
	// ShimBinary is the executable that calls RunAsShim. Default: this one.
	ShimBinary string
	// Images says where images come from.
	Images ImagesConfig
	// CheckDatabase says whether a database file of containerd's can be opened
	// without harm; its error makes Open fail with ErrDamaged. Default: they
	// are opened unseen.
	CheckDatabase func(path string) error
	// Logger for the engine and for containerd's own messages. Default:
	// slog.Default.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Root == "" {
		c.Root = DefaultRoot
	}
	if c.State == "" {
		c.State = DefaultState
	}
	for _, dir := range []string{c.Root, c.State} {
		if !filepath.IsAbs(dir) {
			return c, fmt.Errorf("engine folder %q is not an absolute path", dir)
		}
	}
	c.Root, c.State = filepath.Clean(c.Root), filepath.Clean(c.State)
	if c.Root == c.State {
		return c, fmt.Errorf("engine root and state are both %s; they must differ", c.Root)
	}
	if len(c.State) > maxState {
		return c, fmt.Errorf("engine state folder %s is longer than %d characters: sockets in it could not be named", c.State, maxState)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.LogDir == nil {
		root := c.Root
		c.LogDir = func(site string) string { return filepath.Join(root, "logs", site) }
	}
	if c.Cgroup == "" {
		c.Cgroup = "tarima"
		if c.Root != DefaultRoot {
			sum := sha256.Sum256([]byte(c.Root))
			c.Cgroup += "-" + hex.EncodeToString(sum[:4])
		}
	}
	if !namePattern.MatchString(c.Cgroup) {
		return c, fmt.Errorf("cgroup name %q must be of lower-case letters, digits and -", c.Cgroup)
	}
	if c.ShimBinary == "" {
		self, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("finding this executable for the shim: %w", err)
		}
		c.ShimBinary = self
	}
	images, err := c.Images.withDefaults()
	if err != nil {
		return c, err
	}
	c.Images = images
	runtime, err := findRuntime(c.Runtime)
	if err != nil {
		return c, err
	}
	c.Runtime = runtime
	return c, nil
}

// findRuntime returns the absolute path of the OCI runtime.
func findRuntime(asked string) (string, error) {
	if asked != "" {
		path, err := exec.LookPath(asked)
		if err != nil {
			return "", fmt.Errorf("%w at %s: %w", ErrNoRuntime, asked, err)
		}
		return filepath.Abs(path)
	}
	var candidates []string
	if self, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(self), "runc"))
	}
	candidates = append(candidates, shippedRuntime, "runc")
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("%w: looked for %v; name one in the site file or install the package again", ErrNoRuntime, candidates)
}
