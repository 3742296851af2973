package engine

import (
	"context"
	"maps"
	"slices"

	"tarima/runtime/container"
)

// Pull brings an image here and unpacks it. References are read as Docker reads
// them: redis is docker.io/library/redis:latest. With pinned, or a digest in
// the reference, exactly that image comes or an error; one that is here already
// then needs no registry. The returned image names the digest that came, to be
// pinned by the caller.
//
// A pull that fails, is cancelled or dies with its process goes on where it was
// the next time, for a day. When the disk is full it gives back what it took.
//
// progress, when not nil, is called from one goroutine at a time and must not
// block. Errors: ErrImageRef, ErrImageNotFound, ErrUnauthorized,
// ErrCredentials, ErrRateLimited, ErrRegistry, ErrNoSpace, ErrCorruptImage,
// ErrPlatform, ErrClosed, and those of ctx.
func (e *Engine) Pull(ctx context.Context, ref, pinned string, progress func(container.Progress)) (container.Image, error) {
	return through(e.contextFor(ctx), &e.images.work, func(ctx context.Context) (container.Image, error) {
		return e.images.pull(ctx, ref, pinned, progress)
	})
}

// Images returns the images that are here, sorted by reference: one for each
// tag, and one by digest for each image whose tag has moved on. Size is that of
// the compressed content for this machine.
func (e *Engine) Images(ctx context.Context) ([]container.Image, error) {
	return through(e.contextFor(ctx), &e.images.work, e.images.list)
}

// Keep holds images, named by references or digests, under a lease, so that
// Prune leaves them: the images of a release stay until its successor is
// healthy. It adds to what a lease of that name holds already. When one of the
// images is not here the error is ErrNoImage and nothing is added; a name with
// other characters than letters, digits, dot, dash and underscore is an
// ErrLeaseName.
func (e *Engine) Keep(ctx context.Context, lease string, refs ...string) error {
	_, err := through(e.contextFor(ctx), &e.images.work, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, e.images.keep(ctx, lease, refs...)
	})
	return err
}

// Release gives a lease up; what only it held goes with the next Prune. It is
// no error when there is no such lease.
func (e *Engine) Release(ctx context.Context, lease string) error {
	_, err := through(e.contextFor(ctx), &e.images.work, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, e.images.release(ctx, lease)
	})
	return err
}

// Prune removes every image that no container was made from, no lease holds and
// pins does not name, and returns how many bytes that freed. Pins are
// references or digests: what the store has pinned for the applied site file
// belongs there, or an image that was pulled and not yet started would go.
// Content of interrupted pulls goes too, of pulls under way nothing.
func (e *Engine) Prune(ctx context.Context, pins ...string) (int64, error) {
	return through(e.contextFor(ctx), &e.images.work, func(ctx context.Context) (int64, error) {
		return e.images.prune(ctx, pins...)
	})
}

// names are those that are locked or waited for.
func (k *keyedLock) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.locks))
}
