package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	shims "github.com/containerd/containerd/v2/core/runtime/v2"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/timeout"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
)

// embedded is a containerd in this process: the plugins that plugins.go links
// in, and one ttrpc socket through which shims tell events.
type embedded struct {
	set        *plugin.Set
	db         *metadata.DB
	stop       context.CancelFunc // ends what the plugins run in the background
	servers    []interface{ Close() error }
	serving    sync.WaitGroup
	background context.Context
}

// Times that containerd grants a shim, by its names for them. Five seconds, the
// default of both, are little for a machine that is out of breath.
const (
	// shimCleanup is how long the removal of the containers of a killed shim
	// may take. Beyond it their exits get the code 255.
	shimCleanup         = "io.containerd.timeout.shim.cleanup"
	shimCleanupPatience = 30 * time.Second
	// shimLoad is how long a shim may take to answer a daemon that starts.
	// Beyond it containerd takes the shim for dead and kills its container,
	// which was seen under emulation. A shim that is dead refuses at once.
	shimLoad         = "io.containerd.timeout.shim.load"
	shimLoadPatience = 20 * time.Second
)

// startEmbedded builds the plugin graph. It is a bootstrap of our own and not
// containerd's server.New, which changes the environment of the process,
// opens sockets and registers metrics for the whole process.
func startEmbedded(cfg Config) (_ *embedded, err error) {
	timeout.Set(shimCleanup, shimCleanupPatience)
	timeout.Set(shimLoad, shimLoadPatience)
	ctx, stop := context.WithCancel(containerdLogger(context.Background(), cfg.Logger))
	e := &embedded{set: plugin.NewPluginSet(), stop: stop, background: ctx}
	defer func() {
		if cause := recover(); cause != nil { // a broken database
			_ = e.closeBounded()
			panic(cause)
		}
		if err != nil {
			_ = e.close()
		}
	}()

	ttrpcPath := filepath.Join(cfg.State, "events.ttrpc")
	properties := func(uri string) map[string]string {
		return map[string]string{
			plugins.PropertyRootDir:      filepath.Join(cfg.Root, uri),
			plugins.PropertyStateDir:     filepath.Join(cfg.State, uri),
			plugins.PropertyTTRPCAddress: ttrpcPath,
			// Part of what names a shim's socket, so it must not change while
			// shims live; nothing listens there unless DebugSocket does.
			plugins.PropertyGRPCAddress: filepath.Join(cfg.State, "api"),
		}
	}

	// Some plugins finish in the background and register that they must.
	var ready sync.WaitGroup
	var services []any
	for _, registration := range graph() {
		ic := plugin.NewContext(ctx, e.set, properties(registration.URI()))
		ic.RegisterReadiness = func() func() { ready.Add(1); return ready.Done }
		ic.Config = registration.Config
		if registration.Type == plugins.ShimPlugin {
			ic.Config = &shims.ShimConfig{SocketDir: filepath.Join(cfg.State, "s"), Env: shimEnvironment(cfg.State)}
		}
		loaded := registration.Init(ic)
		if err := e.set.Add(loaded); err != nil {
			return nil, fmt.Errorf("containerd plugin %s: %w", registration.URI(), err)
		}
		instance, err := loaded.Instance()
		if err != nil {
			if plugin.IsSkipPlugin(err) {
				continue
			}
			return nil, fmt.Errorf("containerd plugin %s: %w", registration.URI(), err)
		}
		switch registration.Type {
		case plugins.MetadataPlugin:
			e.db = instance.(*metadata.DB)
		case plugins.TTRPCPlugin, plugins.GRPCPlugin:
			services = append(services, instance)
		}
	}
	ready.Wait()

	if err := e.serveEvents(ttrpcPath, services); err != nil {
		return nil, err
	}
	if cfg.DebugSocket != "" {
		if err := e.serveAPI(cfg.DebugSocket, services); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// graph returns the linked plugins in the order of their dependencies.
func graph() []plugin.Registration {
	return registry.Graph(func(*plugin.Registration) bool { return false })
}

// serveEvents opens the socket that shims publish their events to.
func (e *embedded) serveEvents(path string, services []any) error {
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return fmt.Errorf("event server: %w", err)
	}
	for _, service := range services {
		if s, ok := service.(interface{ RegisterTTRPC(*ttrpc.Server) error }); ok {
			if err := s.RegisterTTRPC(server); err != nil {
				return fmt.Errorf("event server: %w", err)
			}
		}
	}
	listener, err := listenUnix(path)
	if err != nil {
		return fmt.Errorf("event socket of the shims: %w", err)
	}
	e.servers = append(e.servers, server)
	e.serving.Go(func() { _ = server.Serve(e.background, listener) })
	return nil
}

// serveAPI opens containerd's API for tools. It is as powerful as root.
func (e *embedded) serveAPI(path string, services []any) error {
	server := grpc.NewServer(grpc.UnaryInterceptor(unaryNamespace), grpc.StreamInterceptor(streamNamespace))
	for _, service := range services {
		if s, ok := service.(interface{ Register(*grpc.Server) error }); ok {
			if err := s.Register(server); err != nil {
				return fmt.Errorf("debug socket: %w", err)
			}
		}
	}
	listener, err := listenUnix(path)
	if err != nil {
		return fmt.Errorf("debug socket: %w", err)
	}
	e.servers = append(e.servers, closerFunc(func() error { server.Stop(); return nil }))
	e.serving.Go(func() { _ = server.Serve(listener) })
	return nil
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// listenUnix listens on a socket that only root can open, in place of one that
// a killed process left.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// client returns containerd's client on the plugins themselves: no socket and
// no serialisation in between.
func (e *embedded) client() (*containerd.Client, error) {
	get := func(kind plugin.Type, id string) any {
		p := e.set.Get(kind, id)
		if p == nil {
			return nil
		}
		instance, err := p.Instance()
		if err != nil {
			return nil
		}
		return instance
	}
	service := func(id string) any { return get(plugins.ServicePlugin, id) }

	// A missing part shows here as a failed assertion, so it is an error of the
	// import list and TestPluginGraph finds it.
	contentStore, ok1 := service(services.ContentService).(content.Store)
	images, ok2 := service(services.ImagesService).(imagesapi.ImagesClient)
	snapshotters, ok3 := service(services.SnapshotsService).(map[string]snapshots.Snapshotter)
	containers, ok4 := service(services.ContainersService).(containersapi.ContainersClient)
	tasks, ok5 := service(services.TasksService).(tasksapi.TasksClient)
	diff, ok6 := service(services.DiffService).(diffapi.DiffClient)
	namespaces, ok7 := service(services.NamespacesService).(namespacesapi.NamespacesClient)
	inspect, ok8 := service(services.IntrospectionService).(introspection.Service)
	leaseManager, ok9 := get(plugins.LeasePlugin, "manager").(leases.Manager)
	events, ok10 := get(plugins.EventPlugin, "exchange").(containerd.EventService)
	transferrer, ok11 := get(plugins.TransferPlugin, "local").(transfer.Transferrer)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7 && ok8 && ok9 && ok10 && ok11) {
		return nil, errors.New("embedded containerd lacks a service: the list of plugins is incomplete")
	}
	client, err := containerd.New("", containerd.WithDefaultNamespace(namespace), containerd.WithServices(
		containerd.WithContentStore(contentStore),
		containerd.WithImageClient(images),
		containerd.WithSnapshotters(snapshotters),
		containerd.WithContainerClient(containers),
		containerd.WithTaskClient(tasks),
		containerd.WithDiffClient(diff),
		containerd.WithNamespaceClient(namespaces),
		containerd.WithIntrospectionService(inspect),
		containerd.WithLeasesService(leaseManager),
		containerd.WithEventService(events),
		containerd.WithTransferService(transferrer),
	))
	if err != nil {
		return nil, fmt.Errorf("in-process containerd client: %w", err)
	}
	return client, nil
}

// closePatience is how long transactions may take to end at Close.
const closePatience = 10 * time.Second

// closeBounded closes, but does not wait for ever for a database that has failed
// in the middle of a transaction.
func (e *embedded) closeBounded() error {
	done := make(chan error, 1)
	go func() { done <- guarded(e.close) }()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errors.New("closing containerd: a transaction does not end")
	}
}

// close ends the plugins; shims and their containers stay. The order matters:
// first nothing new begins, then no event comes in, then the databases close.
func (e *embedded) close() error {
	e.stop()
	var errs []error
	for _, server := range slices.Backward(e.servers) {
		errs = append(errs, server.Close())
	}
	e.serving.Wait()
	for _, p := range slices.Backward(e.set.GetAll()) {
		instance, err := p.Instance()
		if err != nil {
			continue
		}
		if closer, ok := instance.(io.Closer); ok {
			errs = append(errs, closer.Close())
		}
	}
	return errors.Join(errs...)
}
