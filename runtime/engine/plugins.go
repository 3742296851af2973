package engine

// The parts of containerd that are linked in. Left out on purpose: CRI and NRI
// (Kubernetes), the restart monitor (the supervisor decides), plugins/server/*
// (they open sockets; served here only when asked for), plugins/gc (it puts
// metrics into the process-wide Prometheus registry; collect.go takes its
// place), the sandbox controller, tracing and every snapshotter but overlay.
// TestPluginGraph holds this list to its word.
import (
	_ "github.com/containerd/containerd/api/types/runc/options"              // type of the runtime's options
	_ "github.com/containerd/containerd/v2/core/runtime/v2"                  // shims and tasks
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"     // blobs
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"      // unpacking of layers
	_ "github.com/containerd/containerd/v2/plugins/events"                   // event exchange, and its ttrpc door for shims
	_ "github.com/containerd/containerd/v2/plugins/leases"                   // what protects blobs during a pull
	_ "github.com/containerd/containerd/v2/plugins/metadata"                 // names for blobs, snapshots, containers
	_ "github.com/containerd/containerd/v2/plugins/mount"                    // the runtime asks for a mount manager
	_ "github.com/containerd/containerd/v2/plugins/services/containers"      //
	_ "github.com/containerd/containerd/v2/plugins/services/content"         //
	_ "github.com/containerd/containerd/v2/plugins/services/diff"            //
	_ "github.com/containerd/containerd/v2/plugins/services/events"          //
	_ "github.com/containerd/containerd/v2/plugins/services/images"          //
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"   //
	_ "github.com/containerd/containerd/v2/plugins/services/leases"          //
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"      //
	_ "github.com/containerd/containerd/v2/plugins/services/snapshots"       //
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"           //
	_ "github.com/containerd/containerd/v2/plugins/services/version"         // asked for by ctr on the debug socket
	_ "github.com/containerd/containerd/v2/plugins/services/warning"         // required by introspection and tasks
	_ "github.com/containerd/containerd/v2/plugins/snapshots/overlay/plugin" // root file systems
	_ "github.com/containerd/containerd/v2/plugins/transfer"                 // pulls with progress
)
