package supervisor

import (
	"context"
	"net/netip"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
)

// Engine is what the supervisor needs of a container engine.
type Engine interface {
	// List returns the site's containers, services and jobs, running or not.
	List(ctx context.Context, site string) ([]container.Status, error)
	// Start makes the container anew from its spec and starts it; a container
	// of that name that has ended is replaced. attach is called with the
	// process id whose network namespace is to be furnished, before the
	// container's own process begins.
	Start(ctx context.Context, spec container.Spec, attach func(pid int) error) (container.Status, error)
	// Stop sends the stop signal to the main process alone and waits for the
	// spec's patience, then kills. It returns at once with ErrNotFound when
	// there is none.
	Stop(ctx context.Context, id string, signal string, patience time.Duration) error
	// Remove deletes a container that has ended, with its root.
	Remove(ctx context.Context, id string) error
	// Update changes the limits of a running container.
	Update(ctx context.Context, id string, limits container.Limits) error
	// SetLabels adds labels to those of a container, or replaces their values.
	SetLabels(ctx context.Context, id string, labels map[string]string) error
	// Exec runs a command in a container and returns its exit code and the
	// first 64 KiB of its output.
	Exec(ctx context.Context, id string, argv []string) (int, []byte, error)
	// Usage of the site's running containers.
	Usage(ctx context.Context, site string) ([]container.Usage, error)
	// Events delivers exits and memory kills until ctx ends. A consumer that
	// is slow loses none: it must List again when the channel was closed.
	Events(ctx context.Context) <-chan container.Event
	// Pull brings an image here and unpacks it. With pinned != "" exactly that
	// digest; the returned image names the digest that came.
	Pull(ctx context.Context, ref, pinned string, progress func(container.Progress)) (container.Image, error)
	// HasImage says whether ref at that digest is here and unpacked.
	HasImage(ctx context.Context, ref, digest string) (bool, error)
	// LogTail returns the last lines of a container's log.
	LogTail(id string, lines int) []string
}

// Network is what the supervisor needs of the site's network.
type Network interface {
	// Apply makes the site's namespace, uplink and firewall as declared. It is
	// idempotent and takes over what an earlier process left.
	Apply(ctx context.Context, t container.Topology) error
	// Attach gives the process's network namespace the member's interface.
	Attach(ctx context.Context, site, member string, pid int) error
	// Detach removes what is left of a member whose container has ended.
	Detach(ctx context.Context, site, member string) error
}

// Store is what the supervisor needs of the database.
type Store interface {
	Applied(site string) (record.Applied, bool, error)
	SetApplied(site string, a record.Applied) error
	Intents(site string) (map[string]record.Intent, error)
	SetIntent(site string, i record.Intent) error
	// Address returns the service's fixed place and makes one when it has none.
	Address(site, service string, v4, v6 netip.Prefix) (record.Address, error)
	Images(site string) (map[string]record.Image, error)
	SetImage(site string, i record.Image) error
	// AppendEvent assigns Seq and returns the event as stored.
	AppendEvent(site string, e record.Event) (record.Event, error)
	// Events returns events with Seq > after, oldest first, at most limit.
	Events(site string, after uint64, limit int) ([]record.Event, error)
	// ServiceEvents returns a service's newest events, newest first.
	ServiceEvents(site, service string, limit int) ([]record.Event, error)
	// Maintenance returns the zero value when nothing is closed.
	Maintenance(site string) (record.Maintenance, error)
	SetMaintenance(site string, m record.Maintenance) error
	Jobs(site string) (map[string]record.JobRecord, error)
	SetJob(site string, j record.JobRecord) error
}

// Router hands snapshots of routes to the proxy and reads its events.
type Router interface {
	// Put sends a snapshot and returns when the proxy has acknowledged it.
	Put(ctx context.Context, s routes.Snapshot) (routes.Ack, error)
	// Events delivers what the proxy tells until ctx ends.
	Events(ctx context.Context) <-chan routes.Event
}
