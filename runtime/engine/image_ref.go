package engine

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// imageRef is a reference that was read as Docker reads one: "redis" is
// docker.io/library/redis:latest.
type imageRef struct {
	repository string        // with host: docker.io/library/redis
	host       string        // docker.io
	tag        string        // "" when only a digest was given
	digest     digest.Digest // "" when none was given
}

// parseRef reads ref. pinned, when not empty, is the digest that the image must
// have.
func parseRef(ref, pinned string) (imageRef, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return imageRef{}, fmt.Errorf("%w: %q: %w; want name, name:tag or name@sha256:digest", ErrImageRef, ref, err)
	}
	parsed := imageRef{repository: named.Name(), host: reference.Domain(named)}
	if tagged, ok := named.(reference.Tagged); ok {
		parsed.tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		parsed.digest = digested.Digest()
	}
	if pinned != "" {
		want, err := digest.Parse(pinned)
		if err != nil {
			return imageRef{}, fmt.Errorf("%w: pinned digest %q of %s: %w", ErrImageRef, pinned, ref, err)
		}
		if parsed.digest != "" && parsed.digest != want {
			return imageRef{}, fmt.Errorf("%w: %s is pinned to %s", ErrImageRef, ref, pinned)
		}
		parsed.digest = want
	}
	if parsed.tag == "" && parsed.digest == "" {
		parsed.tag = "latest"
	}
	return parsed, nil
}

// String is the normalised form of what was asked for, with the digest when it
// is fixed.
func (r imageRef) String() string {
	text := r.repository
	if r.tag != "" {
		text += ":" + r.tag
	}
	if r.digest != "" {
		text += "@" + r.digest.String()
	}
	return text
}

// name is what people call the image: with a tag, or by digest when there is
// no tag.
func (r imageRef) name() string {
	if r.tag == "" {
		return r.exact(r.digest)
	}
	return r.repository + ":" + r.tag
}

// exact names the image of that digest for ever, whatever the tag moves to.
func (r imageRef) exact(d digest.Digest) string { return r.repository + "@" + d.String() }

// source is what to ask the registry for. A digest wins over a tag: the tag
// may have moved.
func (r imageRef) source() string {
	if r.digest != "" {
		return r.exact(r.digest)
	}
	return r.name()
}
