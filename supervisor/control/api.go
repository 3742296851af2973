// Package control is the control API of a running Tarima: HTTP with JSON below
// /v1 on two unix sockets told apart by file mode. control.sock (0600, root)
// changes things; read.sock (0660, root:tarima) answers status, events and
// plan. docs/api.md describes every path.
package control

import (
	"context"
	"io"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
	"tarima/supervisor"
)

// Version of the API. A client one version older or newer than the daemon
// works with it: fields are added, never renamed.
const Version = 1

// Names of the two sockets in the daemon's runtime folder.
const (
	ControlSocket = "control.sock"
	ReadSocket    = "read.sock"
)

// Action on one service.
type Action string

// The actions that an administrator may ask of a service.
const (
	Start   Action = "start"
	Stop    Action = "stop"
	Restart Action = "restart"
)

// About answers /v1/version.
type About struct {
	API     int       `json:"api"`
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// Applied answers /v1/apply: what a site file changed.
type Applied struct {
	Generation uint64   `json:"generation"`
	Changes    []string `json:"changes"` // one sentence per changed key; empty: nothing was new
}

// Planned answers /v1/plan: the steps from what runs to what is wanted.
type Planned struct {
	Steps   []supervisor.StepStatus `json:"steps"`
	Changes []string                `json:"changes,omitempty"` // of the site file that was sent along
}

// LogQuery selects lines of service logs.
type LogQuery struct {
	Services []string  // none: all
	Since    time.Time // zero: no bound
	Tail     int       // last lines per service; 0: all
	Follow   bool
}

// LogLine is one line of a service's log.
type LogLine struct {
	Service string    `json:"service"`
	At      time.Time `json:"at"`
	Stream  string    `json:"stream"` // stdout or stderr
	Text    string    `json:"text"`
}

// Finding of the doctor: what is wrong, why it matters and what to do.
type Finding struct {
	Code  string `json:"code"`  // stable, for searches
	Level string `json:"level"` // ok, warning or error
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"`
}

// Exec asks for a command in a service's container.
type Exec struct {
	Argv []string `json:"argv"`
	TTY  bool     `json:"tty"`
	Size Size     `json:"size"`
}

// Size of a terminal in characters.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// Streams of a command that runs in a container.
type Streams struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer // unused with a terminal
	Resizes <-chan Size
}

// PullLine is one line of the answer to an image pull or load: progress, and
// at the end the images or an error.
type PullLine struct {
	Progress *container.Progress `json:"progress,omitempty"`
	Images   []container.Image   `json:"images,omitempty"`
	Error    *Problem            `json:"error,omitempty"`
}

// Pruned answers /v1/images/prune.
type Pruned struct {
	Freed int64 `json:"freed"` // bytes
}

// Backend is what the daemon offers to the API.
type Backend interface {
	Certificates
	About() About
	Status(ctx context.Context) (supervisor.SiteStatus, error)
	// Plan says what would happen now, or with siteFile in place of the
	// applied one when it is not nil.
	Plan(ctx context.Context, siteFile []byte) (Planned, error)
	// Apply makes siteFile (nil: the file on disk) what is wanted, as a whole
	// or not at all.
	Apply(ctx context.Context, siteFile []byte) (Applied, error)
	Act(ctx context.Context, service string, action Action) error
	// StopSite stops all services in reverse order and returns when they have
	// ended; the site stays stopped until StartSite or the next daemon start.
	StopSite(ctx context.Context) error
	StartSite(ctx context.Context) error
	// Events returns events after a sequence number; it waits up to wait for
	// the first when there is none yet.
	Events(ctx context.Context, after uint64, limit int, wait time.Duration) ([]record.Event, error)
	Logs(ctx context.Context, q LogQuery, emit func(LogLine) error) error
	Exec(ctx context.Context, service string, e Exec, s Streams) (int, error)
	Usage(ctx context.Context) ([]container.Usage, error)
	// Requests are those that the public door serves at the moment.
	Requests(ctx context.Context) (routes.Requests, error)
	Images(ctx context.Context) ([]container.Image, error)
	PullImage(ctx context.Context, ref string, progress func(container.Progress)) (container.Image, error)
	LoadImages(ctx context.Context, archive io.Reader) ([]container.Image, error)
	PruneImages(ctx context.Context) (Pruned, error)
	Doctor(ctx context.Context) ([]Finding, error)
	// Maintenance says which public hosts are closed; Maintain changes it.
	Maintenance(ctx context.Context) (Maintained, error)
	Maintain(ctx context.Context, m Maintenance) (Maintained, error)
}
