package engine

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tarima/runtime/container"
)

// Phases of a pull, as container.Progress names them.
const (
	phaseResolving   = "resolving"
	phaseDownloading = "downloading"
	phaseUnpacking   = "unpacking"
	phaseDone        = "done"
)

// progressEvery is how often a transfer tells how far it is.
const progressEvery = 200 * time.Millisecond

// progressReport tells how far a pull is. Its calls never overlap, and within a
// phase Done never falls.
type progressReport struct {
	tell func(container.Progress)

	mu    sync.Mutex
	now   container.Progress
	parts map[digest.Digest]int64 // unpacking: bytes read of each layer
	last  time.Time
}

func newProgressReport(name string, tell func(container.Progress)) *progressReport {
	if tell == nil {
		tell = func(container.Progress) {}
	}
	return &progressReport{tell: tell, now: container.Progress{Ref: name}}
}

func (r *progressReport) phase(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Phase = name
	r.tell(r.now)
}

// download watches the store while layers arrive, until the returned function
// is called. Bytes of an earlier attempt count as done.
func (r *progressReport) download(ctx context.Context, store content.Store, layers []ocispec.Descriptor) (stop func()) {
	layers = distinct(layers)
	r.mu.Lock()
	r.now = container.Progress{Ref: r.now.Ref, Phase: phaseDownloading, Layers: len(layers), Total: sum(layers)}
	r.mu.Unlock()

	look := func() {
		var done int64
		finished := 0
		for _, layer := range layers {
			if info, err := store.Info(ctx, layer.Digest); err == nil {
				done += info.Size
				finished++
				continue
			}
			done += ingested(ctx, store, layer)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		// A layer whose content was wrong begins again; what was told stays told.
		r.now.Done, r.now.LayersDone = max(r.now.Done, done), max(r.now.LayersDone, finished)
		r.tell(r.now)
	}
	look()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				look()
				return
			case <-ticker.C:
				look()
			}
		}
	}()
	return func() { close(end); <-ended }
}

func (r *progressReport) unpack(layers []ocispec.Descriptor) {
	layers = distinct(layers)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts = map[digest.Digest]int64{}
	r.now = container.Progress{Ref: r.now.Ref, Phase: phaseUnpacking, Layers: len(layers), Total: sum(layers)}
	r.tell(r.now)
}

// unpacking is called often, with how much of a layer was read so far.
func (r *progressReport) unpacking(layer digest.Digest, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(layer, n)
	if time.Since(r.last) >= progressEvery {
		r.last = time.Now()
		r.tell(r.now)
	}
}

func (r *progressReport) unpackedLayer(layer digest.Digest, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(layer, size)
	r.now.LayersDone = min(r.now.LayersDone+1, r.now.Layers)
	r.tell(r.now)
}

func (r *progressReport) add(layer digest.Digest, n int64) {
	if more := n - r.parts[layer]; more > 0 {
		r.parts[layer] = n
		r.now.Done += more
	}
}

func (r *progressReport) done(size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Phase, r.now.Done, r.now.Total, r.now.LayersDone = phaseDone, size, size, r.now.Layers
	r.tell(r.now)
}

// distinct are the layers without repetitions: an image may name one twice.
func distinct(layers []ocispec.Descriptor) []ocispec.Descriptor {
	seen := map[digest.Digest]bool{}
	var list []ocispec.Descriptor
	for _, layer := range layers {
		if !seen[layer.Digest] {
			seen[layer.Digest] = true
			list = append(list, layer)
		}
	}
	return list
}

func sum(layers []ocispec.Descriptor) int64 {
	var total int64
	for _, layer := range layers {
		total += layer.Size
	}
	return total
}
