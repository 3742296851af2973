package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"tarima/runtime/container"
)

// imageCache is the engine's images: what is here, where more comes from, and
// what may go. It knows containerd's client and nothing of containers, but for
// the question which images they use.
type imageCache struct {
	client    *containerd.Client
	cfg       ImagesConfig
	root      string // folder whose file system fills up; "": not known
	platform  platforms.MatchComparer
	transport http.RoundTripper
	logger    *slog.Logger
	pulls     *keyedLock
	work      gate
}

// newImageCache takes its settings with their defaults filled in.
func newImageCache(client *containerd.Client, cfg ImagesConfig, root string, logger *slog.Logger) *imageCache {
	return &imageCache{
		client: client, cfg: cfg, root: root, platform: platforms.DefaultStrict(),
		transport: newTransport(), logger: logger, pulls: newKeyedLock(),
	}
}

// close ends what is under way, waits for it, and drops idle connections to
// registries. Interrupted pulls go on at the next start.
func (c *imageCache) close() {
	c.work.close()
	if t, ok := c.transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// pull is one pull under way.
type pull struct {
	*imageCache
	ref    imageRef
	what   string // for errors
	report *progressReport
}

// fetched is an image whose content is here.
type fetched struct {
	target   ocispec.Descriptor // index or manifest that the name points to
	variant  ocispec.Descriptor // manifest of this machine's platform
	manifest ocispec.Manifest   // its content
	diffIDs  []ocispec.Descriptor
}

func (c *imageCache) pull(ctx context.Context, ref, pinned string, progress func(container.Progress)) (container.Image, error) {
	parsed, err := parseRef(ref, pinned)
	if err != nil {
		return container.Image{}, err
	}
	p := &pull{imageCache: c, ref: parsed, what: "pull " + parsed.String(), report: newProgressReport(parsed.name(), progress)}

	// A second pull of the same image waits and then finds everything here.
	unlock, err := c.pulls.take(ctx, parsed.name())
	if err != nil {
		return container.Image{}, fmt.Errorf("%s: %w", p.what, err)
	}
	defer unlock()

	if image, ok, err := p.local(ctx); err != nil || ok {
		return image, classify(p.what, err)
	}
	ctx, lease, err := c.pullLease(ctx, parsed)
	if err != nil {
		return container.Image{}, classify(p.what, err)
	}
	image, err := p.run(ctx)
	p.end(ctx, lease, err)
	return image, classify(p.what, err)
}

// local finishes a pull without a registry when the digest is fixed and the
// image is here whole: a site starts without its registry.
func (p *pull) local(ctx context.Context) (container.Image, bool, error) {
	if p.ref.digest == "" {
		return container.Image{}, false, nil
	}
	list, err := p.records(ctx)
	if err != nil {
		return container.Image{}, false, err
	}
	record, ok := list.find(p.ref.digest.String())
	if !ok {
		return container.Image{}, false, nil
	}
	here, err := p.unpacked(ctx, record)
	if err != nil || !here {
		return container.Image{}, false, err
	}
	if err := p.record(ctx, p.ref, record.Target); err != nil {
		return container.Image{}, false, err
	}
	image, err := p.describe(ctx, record)
	if err != nil {
		return container.Image{}, false, err
	}
	image.Ref = p.ref.name()
	p.report.done(image.Size)
	return image, true, nil
}

// end gives up the lease when the image is recorded, and when the disk is full:
// then what came so far does more harm than the bytes are worth. After any
// other failure it stays for the next attempt.
func (p *pull) end(ctx context.Context, lease leases.Lease, err error) {
	if err != nil && !noSpace(err) && !errors.Is(err, ErrNoSpace) {
		return
	}
	// The pull's own context may have ended; giving up must work all the same.
	ctx = context.WithoutCancel(ctx)
	var options []leases.DeleteOpt
	if err != nil {
		options = append(options, leases.SynchronousDelete)
	}
	if err := p.client.LeasesService().Delete(ctx, lease, options...); err != nil && !errdefs.IsNotFound(err) {
		p.logger.Warn("the lease of a pull is left to expire", "image", p.ref.String(), "lease", lease.ID, "error", err)
	}
}

func (p *pull) run(ctx context.Context) (container.Image, error) {
	p.report.phase(phaseResolving)
	resolver, err := p.resolver(p.logger.With("image", p.ref.name()))
	if err != nil {
		return container.Image{}, err
	}
	name, target, err := resolver.Resolve(ctx, p.ref.source())
	if err != nil {
		return container.Image{}, err
	}
	if err := p.plausible(target, maxDocument); err != nil {
		return container.Image{}, err
	}
	if !images.IsIndexType(target.MediaType) && !images.IsManifestType(target.MediaType) {
		return container.Image{}, &imageError{
			what: p.what, kind: ErrCorruptImage,
			detail: fmt.Sprintf("the registry names it %q, which is neither an image nor an index of images", target.MediaType),
		}
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return container.Image{}, err
	}
	image, err := p.bring(ctx, fetcher, target)
	if errors.Is(err, ErrCorruptImage) && p.dropDamaged(ctx, image) > 0 {
		// Not the registry's fault: the disk lost or changed what was here.
		_, err = p.bring(ctx, fetcher, target)
	}
	if err != nil {
		return container.Image{}, err
	}
	if err := p.record(ctx, p.ref, target); err != nil {
		return container.Image{}, err
	}
	described, err := p.describe(ctx, images.Image{Name: p.ref.name(), Target: target})
	if err != nil {
		return container.Image{}, err
	}
	p.report.done(described.Size)
	return described, nil
}

// bring fetches and unpacks an image. With an error it returns how far it came.
func (p *pull) bring(ctx context.Context, fetcher remotes.Fetcher, target ocispec.Descriptor) (fetched, error) {
	image, err := p.fetch(ctx, fetcher, target)
	if err != nil {
		return image, err
	}
	return image, p.unpack(ctx, image)
}

// dropDamaged removes those of an image's blobs whose content on disk is not
// what its digest says, and returns how many. containerd itself believes its
// database and never looks again.
func (p *pull) dropDamaged(ctx context.Context, image fetched) int {
	store := p.client.ContentStore()
	dropped := 0
	for _, blob := range append([]ocispec.Descriptor{image.target, image.variant, image.manifest.Config}, image.manifest.Layers...) {
		if blob.Digest == "" || sound(ctx, store, blob) {
			continue
		}
		err := store.Delete(ctx, blob.Digest)
		if err != nil {
			if !errdefs.IsNotFound(err) {
				p.logger.Warn("damaged content cannot be removed", "image", p.ref.String(), "digest", blob.Digest, "error", err)
			}
			continue
		}
		p.logger.Warn("damaged content on disk is downloaded again", "image", p.ref.String(), "digest", blob.Digest)
		dropped++
	}
	if dropped == 0 {
		return 0
	}
	// Only the record is gone so far. While the file is there a download of the
	// same digest would end with it.
	if err := p.collect(ctx); err != nil {
		p.logger.Warn("damaged content cannot be removed", "image", p.ref.String(), "error", err)
		return 0
	}
	return dropped
}

// sound reads a blob from the first byte to the last.
func sound(ctx context.Context, store content.Store, blob ocispec.Descriptor) bool {
	reader, err := store.ReaderAt(ctx, blob)
	if err != nil {
		return false
	}
	defer func() { _ = reader.Close() }() // read only
	verifier := blob.Digest.Verifier()
	_, err = io.Copy(verifier, content.NewReader(reader))
	return err == nil && verifier.Verified()
}

// fetch brings the content of an image: first the small documents that say
// what belongs to it, then its layers.
func (p *pull) fetch(ctx context.Context, fetcher remotes.Fetcher, target ocispec.Descriptor) (fetched, error) {
	image := fetched{target: target}
	store := p.client.ContentStore()
	if err := p.blob(ctx, fetcher, target); err != nil {
		return image, err
	}
	if images.IsIndexType(target.MediaType) {
		variants, err := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(store), p.platform), p.platform, 1)(ctx, target)
		if err != nil && !errdefs.IsNotFound(err) {
			return image, p.corrupt(target, err)
		}
		if len(variants) == 0 {
			return image, p.foreign("its index names no variant")
		}
		target = variants[0]
		if err := p.plausible(target, maxDocument); err != nil {
			return image, err
		}
		if err := p.blob(ctx, fetcher, target); err != nil {
			return image, err
		}
	}
	image.variant = target
	if err := readDocument(ctx, store, target, &image.manifest); err != nil {
		return image, p.corrupt(target, err)
	}
	config := image.manifest.Config
	if err := p.plausible(config, maxDocument); err != nil {
		return image, err
	}
	for _, layer := range image.manifest.Layers {
		if err := p.plausible(layer, maxLayer); err != nil {
			return image, err
		}
	}
	if err := p.blob(ctx, fetcher, config); err != nil {
		return image, err
	}
	var settings ocispec.Image
	if err := readDocument(ctx, store, config, &settings); err != nil {
		return image, p.corrupt(config, err)
	}
	if found := settings.Platform; !p.platform.Match(platforms.Normalize(found)) {
		return image, p.foreign("it is made for " + platforms.Format(found))
	}
	if got, want := len(settings.RootFS.DiffIDs), len(image.manifest.Layers); got != want {
		return image, p.corrupt(config, fmt.Errorf("it names %d layers and the manifest %d", got, want))
	}
	for _, id := range settings.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return image, p.corrupt(config, fmt.Errorf("layer %q: %w", id, err))
		}
		image.diffIDs = append(image.diffIDs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: id})
	}
	if err := p.layers(ctx, fetcher, image); err != nil {
		return image, err
	}
	// References between the blobs keep them once the image is recorded. They
	// are set when all blobs are here: a label on what is missing would say more
	// than is true.
	children := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(store), p.platform), p.platform, 1)
	if err := images.Walk(ctx, images.SetChildrenMappedLabels(store, children, images.ChildGCLabels), image.target); err != nil {
		return image, fmt.Errorf("link the parts of the image: %w", err)
	}
	return image, nil
}

// maxLayer bounds what a manifest may say of one layer's size, in bytes, so that
// sums of sizes cannot overflow.
const maxLayer = 1 << 40

// plausible refuses descriptors that no honest registry sends, before anything
// works with them: a digest that is none makes its users panic.
func (p *pull) plausible(blob ocispec.Descriptor, most int64) error {
	err := blob.Digest.Validate()
	if err == nil && (blob.Size <= 0 || blob.Size > most) {
		err = fmt.Errorf("size of %d bytes", blob.Size)
	}
	if err != nil {
		return p.corrupt(blob, fmt.Errorf("descriptor %q: %w", blob.Digest, err))
	}
	return nil
}

func (p *pull) layers(ctx context.Context, fetcher remotes.Fetcher, image fetched) error {
	missing, packed, err := p.missing(ctx, image)
	if err != nil {
		return err
	}
	if err := p.checkSpace(p.what, missing, packed); err != nil {
		return err
	}
	stop := p.report.download(ctx, p.client.ContentStore(), image.manifest.Layers)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.cfg.Parallel)
	for _, layer := range image.manifest.Layers {
		group.Go(func() error { return p.blob(ctx, fetcher, layer) })
	}
	return group.Wait()
}

// missing returns the bytes that are not here yet, and the compressed size of
// the layers that are not unpacked yet.
func (p *pull) missing(ctx context.Context, image fetched) (download, packed int64, err error) {
	store := p.client.ContentStore()
	snapshotter := p.client.SnapshotService(snapshotter)
	chain := chainIDs(image.diffIDs)
	seen := map[string]bool{}
	for i, layer := range image.manifest.Layers {
		if seen[layer.Digest.String()] {
			continue
		}
		seen[layer.Digest.String()] = true
		if _, err := store.Info(ctx, layer.Digest); errdefs.IsNotFound(err) {
			download += layer.Size - ingested(ctx, store, layer)
		} else if err != nil {
			return 0, 0, fmt.Errorf("look for layer %s: %w", layer.Digest, err)
		}
		if _, err := snapshotter.Stat(ctx, chain[i].String()); errdefs.IsNotFound(err) {
			packed += layer.Size
		} else if err != nil {
			return 0, 0, fmt.Errorf("look for unpacked layer %s: %w", layer.Digest, err)
		}
	}
	return download, packed, nil
}

// ingested is how much of a blob an earlier attempt has brought.
func ingested(ctx context.Context, store content.Store, blob ocispec.Descriptor) int64 {
	status, err := store.Status(ctx, remotes.MakeRefKey(ctx, blob))
	if err != nil {
		return 0
	}
	return status.Offset
}

// blob brings one blob and goes on after cuts as long as bytes come.
func (p *pull) blob(ctx context.Context, fetcher remotes.Fetcher, blob ocispec.Descriptor) error {
	store := p.client.ContentStore()
	// A manifest may name other addresses for a blob, and the resolver would ask
	// them first: an image could make this host ask anything that it reaches.
	blob.URLs, blob.Data = nil, nil
	failed, wrong := 0, 0
	for {
		before := ingested(ctx, store, blob)
		err := remotes.Fetch(ctx, store, fetcher, blob)
		switch {
		case err == nil || errdefs.IsAlreadyExists(err):
			return nil
		case errdefs.IsFailedPrecondition(err):
			// The bytes are not those that the digest names. What was stored would
			// spoil every further attempt; a proxy on the way may have spoiled it
			// once, so one more attempt from the first byte is fair.
			if err := abort(ctx, store, blob); err != nil {
				return fmt.Errorf("drop wrong content: %w", err)
			}
			if wrong++; wrong > 1 {
				return p.corrupt(blob, err)
			}
		case errors.Is(err, io.ErrUnexpectedEOF):
			if ingested(ctx, store, blob) > before {
				failed = 0
			}
			if failed++; failed >= p.cfg.Attempts {
				return &imageError{
					what: p.what, kind: ErrRegistry, cause: err,
					detail: fmt.Sprintf("the connection broke off %d times in a row before anything came", failed),
				}
			}
			if err := sleep(ctx, backoff(failed, p.cfg.Backoff, p.cfg.MaxWait)); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// abort drops what was stored of a download. An external containerd closes the
// writer that has just failed a moment later than its client; until then it
// may refuse.
func abort(ctx context.Context, store content.Store, blob ocispec.Descriptor) error {
	for attempt := 1; ; attempt++ {
		err := store.Abort(ctx, remotes.MakeRefKey(ctx, blob))
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		if attempt == 6 {
			return err
		}
		if err := sleep(ctx, backoff(attempt, 20*time.Millisecond, time.Second)); err != nil {
			return err
		}
	}
}

func (p *pull) corrupt(blob ocispec.Descriptor, err error) error {
	return &imageError{
		what: p.what, kind: ErrCorruptImage, cause: err,
		detail: fmt.Sprintf("%s: %s", blob.Digest, redact(err.Error())),
	}
}

func (p *pull) foreign(why string) error {
	return foreign(p.what, why)
}

func foreign(what, why string) error {
	return &imageError{
		what: what, kind: ErrPlatform,
		detail: fmt.Sprintf("%s, and this machine is %s", why, platforms.Format(platforms.DefaultSpec())),
	}
}

// suits fails with ErrPlatform when an image that is here was made for another
// machine. An index leaves no doubt; a manifest alone tells it only in its
// configuration, which containerd does not look at when it unpacks.
func (c *imageCache) suits(ctx context.Context, record images.Image) error {
	store := c.client.ContentStore()
	config, err := record.Config(ctx, store, c.platform)
	if errdefs.IsNotFound(err) {
		return foreign(record.Name, "it has no variant for it")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", record.Name, err)
	}
	var settings ocispec.Image
	if err := readDocument(ctx, store, config, &settings); err != nil {
		return fmt.Errorf("%s: %w", record.Name, err)
	}
	if !c.platform.Match(platforms.Normalize(settings.Platform)) {
		return foreign(record.Name, "it is made for "+platforms.Format(settings.Platform))
	}
	return nil
}
