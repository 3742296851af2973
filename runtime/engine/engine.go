package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Engine runs the containers of all sites. Its methods may be called from any
// number of goroutines; those that change one container wait for each other.
type Engine struct {
	cfg      Config
	log      *slog.Logger
	client   *containerd.Client
	embedded *embedded // nil: an external containerd
	lock     *rootLock
	shim     string // path of the shim binary
	host     *host
	work     *keyedLock
	images   *imageCache
	events   *fanout

	background context.Context // ends with Close
	stop       context.CancelFunc
	running    sync.WaitGroup
	closed     sync.Once
	closeError error
}

// Open takes the root, starts containerd in this process (or connects to the
// one at cfg.Socket) and finds the containers that an earlier process left
// running. What a crash left half-made is removed.
func Open(ctx context.Context, cfg Config) (_ *Engine, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	adoptGlobalLogger(cfg.Logger)
	if err := makeFolders(cfg); err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, log: cfg.Logger.With("component", "engine"), work: newKeyedLock(), events: newFanout()}
	e.background, e.stop = context.WithCancel(context.Background())
	e.lock, err = lockRoot(cfg.Root)
	if err != nil {
		e.stop()
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = e.Close() // the first error says more
		}
	}()
	if e.shim, err = installShim(cfg.Root, cfg.ShimBinary); err != nil {
		return nil, err
	}
	e.host = probeHost(cfg)
	if cfg.Socket != "" {
		e.client, err = connectExternal(ctx, cfg.Socket)
	} else {
		err = e.embed(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := e.makeNamespace(ctx); err != nil {
		return nil, err
	}
	imageRoot := cfg.Root
	if cfg.Socket != "" {
		imageRoot = externalRoot(e.contextFor(ctx), e.client)
	}
	e.images = newImageCache(e.client, cfg.Images, imageRoot, e.log)
	if err := e.watch(); err != nil {
		return nil, err
	}
	if err := e.sweepAtOpen(ctx); err != nil {
		e.log.Warn("removing what an earlier process left", "error", err)
	}
	if err := removeOldShims(cfg.Root, cfg.State, e.shim); err != nil {
		e.log.Warn("removing old shim binaries", "error", err)
	}
	return e, nil
}

// embed starts the embedded containerd, or says by ErrDamaged that its
// databases cannot be used.
func (e *Engine) embed(ctx context.Context) error {
	if err := checkDatabases(e.cfg.Root, e.cfg.CheckDatabase); err != nil {
		return err
	}
	return guarded(func() (err error) {
		if e.embedded, err = startEmbedded(e.cfg); err != nil {
			return err
		}
		if e.client, err = e.embedded.client(); err != nil {
			return err
		}
		return e.readAll(ctx)
	})
}

// readAll reads every list once, so that inner damage of a database shows now
// and not in the middle of the work.
func (e *Engine) readAll(ctx context.Context) error {
	ctx = e.contextFor(ctx)
	if _, err := e.client.ContainerService().List(ctx); err != nil {
		return err
	}
	if _, err := e.client.ImageService().List(ctx); err != nil {
		return err
	}
	if _, err := e.client.LeasesService().List(ctx); err != nil {
		return err
	}
	var keys []string
	return e.client.SnapshotService(snapshotter).Walk(ctx, collectKeys(&keys))
}

// Close ends the engine. Containers go on; the next Open finds them.
func (e *Engine) Close() error {
	e.closed.Do(func() {
		e.stop()
		e.running.Wait()
		e.events.close()
		if e.images != nil {
			e.images.close()
		}
		var errs []error
		if e.client != nil {
			errs = append(errs, e.client.Close())
		}
		if e.embedded != nil {
			errs = append(errs, e.embedded.closeBounded())
		}
		if e.host != nil { // nil: Open failed before it looked at the host
			e.host.removeEmptyCgroups(e.cfg.Cgroup)
		}
		errs = append(errs, e.lock.release())
		e.closeError = errors.Join(errs...)
	})
	return e.closeError
}

// contextFor returns ctx with our namespace and logger, as every call of
// containerd's client needs it.
func (e *Engine) contextFor(ctx context.Context) context.Context {
	return containerdLogger(namespaces.WithNamespace(ctx, namespace), e.cfg.Logger)
}

// collect removes unreferenced blobs and snapshots now.
func (e *Engine) collect(ctx context.Context) error {
	if e.embedded == nil {
		return e.images.collect(ctx)
	}
	_, err := e.embedded.db.GarbageCollect(ctx)
	return err
}

func (e *Engine) makeNamespace(ctx context.Context) error {
	names, err := e.client.NamespaceService().List(ctx)
	if err != nil {
		return fmt.Errorf("reading containerd's namespaces: %w", err)
	}
	for _, name := range names {
		if name == namespace {
			return nil
		}
	}
	if err := e.client.NamespaceService().Create(ctx, namespace, nil); err != nil {
		return fmt.Errorf("making containerd's namespace %s: %w", namespace, err)
	}
	return nil
}

// makeFolders makes the folders with the modes that they need: nobody but root
// reads Root; State is searchable, or a process in a user namespace could not
// reach its own root through it.
func makeFolders(cfg Config) error {
	folders := []struct {
		path string
		mode os.FileMode
	}{
		{cfg.Root, 0o700},
		{cfg.State, 0o711},
		{filepath.Join(cfg.State, "exits"), 0o700},
		{filepath.Join(cfg.State, "files"), 0o711},
		{filepath.Join(cfg.State, "fifo"), 0o700},
	}
	for _, folder := range folders {
		if err := os.MkdirAll(folder.path, folder.mode); err != nil {
			return fmt.Errorf("making the engine's folder: %w", err)
		}
		if err := os.Chmod(folder.path, folder.mode); err != nil {
			return fmt.Errorf("making the engine's folder: %w", err)
		}
	}
	return nil
}

// keyedLock is one lock for each name. A waiter gives up when its context ends.
type keyedLock struct {
	mu    sync.Mutex
	locks map[string]*countedLock
}

type countedLock struct {
	free  chan struct{}
	users int
}

func newKeyedLock() *keyedLock { return &keyedLock{locks: map[string]*countedLock{}} }

// take waits for the lock of name; the returned function gives it back.
func (k *keyedLock) take(ctx context.Context, name string) (func(), error) {
	k.mu.Lock()
	l := k.locks[name]
	if l == nil {
		l = &countedLock{free: make(chan struct{}, 1)}
		l.free <- struct{}{}
		k.locks[name] = l
	}
	l.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, name)
		}
	}
	select {
	case <-l.free:
		return func() { l.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("waiting for other work on %s: %w", name, ctx.Err())
	}
}
