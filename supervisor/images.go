package supervisor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

const (
	pullRetryBase = 5 * time.Second
	pullRetryCap  = 5 * time.Minute
)

// pinned joins a reference to a digest. A reference that names one stays.
func pinned(ref, digest string) string {
	if strings.Contains(ref, "@") {
		return ref
	}
	return ref + "@" + digest
}

// pull looks whether an image is here at its pinned digest, and brings it here
// otherwise.
func (s *Supervisor) pull(ref, forWhom string, now time.Time) {
	image := s.images[ref]
	image.Pulling, image.Progress = true, PullProgress{Phase: "looking"}
	if _, digest, ok := strings.Cut(ref, "@"); ok {
		image.Digest = digest
	}
	digest := image.Digest
	s.images[ref] = image
	s.begin("image "+ref, Operation{Action: ActionPull, Deadline: now.Add(pullDeadline)}, false, func(ctx context.Context) func() {
		here, err := s.cfg.Engine.HasImage(ctx, ref, digest)
		if err == nil && here {
			return func() { s.pulled(ref, forWhom, container.Image{Digest: digest}, false, nil) }
		}
		got, err := s.cfg.Engine.Pull(ctx, ref, digest, func(p container.Progress) { s.progress(ref, p) })
		if err == nil && got.Digest != "" {
			rec := record.Image{Ref: ref, Digest: got.Digest, Size: got.Size, At: time.Now()}
			// Without a record the next start could bring another image.
			if err = s.cfg.Store.SetImage(s.cfg.Site, rec); err != nil {
				err = fmt.Errorf("store: the digest of %s cannot be kept: %w", ref, err)
			}
		}
		return func() { s.pulled(ref, forWhom, got, true, err) }
	})
}

func (s *Supervisor) progress(ref string, p container.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	image := s.images[ref]
	image.Progress = PullProgress{Phase: p.Phase, Done: p.Done, Total: p.Total}
	s.images[ref] = image
}

func (s *Supervisor) pulled(ref, forWhom string, got container.Image, came bool, err error) {
	if s.ctx.Err() != nil {
		return
	}
	image := s.images[ref]
	image.Pulling = false
	if err != nil {
		image.Failures++
		image.Why = err.Error()
		wait := pullRetryCap
		if image.Failures < 10 {
			wait = min(pullRetryBase<<(image.Failures-1), pullRetryCap)
		}
		image.RetryAt = time.Now().Add(wait)
		s.images[ref] = image
		s.tell(record.PullFailed, forWhom, ref+": "+image.Why, time.Now())
		return
	}
	image = ImageState{Present: true, Digest: image.Digest}
	if got.Digest != "" {
		image.Digest = got.Digest
	}
	s.images[ref] = image
	if came {
		s.tell(record.Pulled, forWhom, pinned(ref, image.Digest), time.Now())
	}
}

// pin keeps the digest of an image that was brought here by other means (an
// archive), as soon as a container of it tells.
func (s *Supervisor) pin(ref, running string) {
	_, digest, ok := strings.Cut(running, "@")
	image := s.images[ref]
	if !ok || image.Digest != "" {
		return
	}
	image.Digest = digest
	s.images[ref] = image
	rec := record.Image{Ref: ref, Digest: digest, At: time.Now()}
	s.begin("pin "+ref, Operation{Action: ActionPull, Deadline: time.Now().Add(removeDeadline)}, false, func(context.Context) func() {
		err := s.cfg.Store.SetImage(s.cfg.Site, rec)
		return func() {
			if err != nil {
				s.trouble("store", "store: the digest of "+ref+" cannot be kept: "+err.Error())
			}
		}
	})
}
