package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/sirupsen/logrus"
)

// shimName is the file name under which this executable is the shim.
const shimName = "tarima-shim"

// RunAsShim must be called first in main, and in TestMain of tests that use an
// Engine. When this process was started to be a shim it serves as one and
// never returns; otherwise it returns false at once.
//
// The role is told by the name of the executable, which survives the shim's
// own restart of itself through /proc/self/exe and needs no help from an
// external containerd.
func RunAsShim() bool {
	if len(os.Args) == 0 || filepath.Base(os.Args[0]) != shimName {
		return false
	}
	// The registry is shared by the whole process and full of the daemon's
	// plugins by now: the shim would load them all.
	registry.Reset()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newShimService,
	})
	for _, name := range shimForgets {
		_ = os.Unsetenv(name)
	}
	logShim()
	answered, err := speakOldProtocol()
	if err != nil {
		fmt.Fprintln(os.Stderr, shimName+":", err)
		os.Exit(1)
	}
	// The shim's own way of logging opens a FIFO that a daemon must read: when
	// the daemon is killed in that moment, the shim stands there for ever, with
	// a socket that takes connections and never answers.
	withoutFifo := func(c *shim.Config) { c.NoSetupLogger = true }
	shim.RunShim(context.Background(), shimManager{manager.NewShimManager("io.containerd.runc.v2")}, withoutFifo)
	if err := answered(); err != nil {
		fmt.Fprintln(os.Stderr, shimName+":", err)
		os.Exit(1)
	}
	os.Exit(0)
	return true
}

// shimLogVariable names the file that shims write warnings to.
const shimLogVariable = "TARIMA_SHIM_LOG"

// maxShimLog bounds that file, in bytes. It is begun anew when it is longer.
const maxShimLog = 1 << 20

// logShim sends what goes wrong in the shim to a file, or nowhere when an
// external containerd started it and there is none.
func logShim() {
	log.L.Logger.SetOutput(io.Discard)
	path := os.Getenv(shimLogVariable)
	if path == "" {
		return
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxShimLog {
		flags |= os.O_TRUNC
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return // there is nobody to tell
	}
	log.L.Logger.SetOutput(file)
	log.L.Logger.SetLevel(logrus.WarnLevel)
}

// shimForgets are variables that systemd gives to the daemon alone: the OCI
// runtime would act on some of them, and a shim outlives their meaning.
var shimForgets = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID", "JOURNAL_STREAM"}

// shimEnvironment is added to what the shim inherits.
func shimEnvironment(state string) []string {
	env := []string{shimLogVariable + "=" + filepath.Join(state, "shim.log")}
	for _, name := range shimForgets {
		env = append(env, name+"=")
	}
	return env
}

// shimManager starts, ends and describes shims.
type shimManager struct{ shim.Shim }

// Info describes the shim. containerd asks once without saying which OCI
// runtime is meant; the answer of the original would then look for one named
// runc in PATH and fail.
func (m shimManager) Info(ctx context.Context, options io.Reader) (*apitypes.RuntimeInfo, error) {
	text, err := io.ReadAll(options)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return &apitypes.RuntimeInfo{
			Name:    m.Name(),
			Version: &apitypes.RuntimeVersion{Version: version.Version, Revision: version.Revision},
		}, nil
	}
	return m.Shim.Info(ctx, strings.NewReader(string(text)))
}

func newShimService(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	stop, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	stop.(shutdown.Service).RegisterCallback(removingOwnSocket())
	s := &shimService{containers: map[string]*shimContainer{}}
	events := newJournalPublisher(publisher.(shim.Publisher), s)
	if cgroups.Mode() == cgroups.Unified {
		s.memory, err = newOOMWatch(func(id string) { events.memoryKill(ic.Context, id) })
		if err != nil {
			return nil, err
		}
		stop.(shutdown.Service).RegisterCallback(func(context.Context) error { return s.memory.close() })
	}
	s.TTRPCTaskService, err = task.NewTaskService(ic.Context, events, stop.(shutdown.Service))
	if err != nil {
		return nil, err
	}
	return s, nil
}
