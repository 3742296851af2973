package engine_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"tarima/runtime/container"
	"tarima/runtime/engine"
	"tarima/test/registry"
)

func TestPull(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 1<<18, 3)
	e := imageEngine(t, nil)
	ref := s.host + "/library/app:1"
	wantImage(t, e, ref, "", false)

	var seen recorder
	got, err := e.Pull(t.Context(), ref, "", seen.note)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	if got.Ref != ref || got.Digest != digestOf(t, image) || got.Size < size {
		t.Errorf("pulled %+v, want %s with digest %s and at least %d bytes", got, ref, digestOf(t, image), size)
	}
	wantImage(t, e, ref, "", true)
	wantImage(t, e, ref, got.Digest, true)
	wantImage(t, e, ref, "sha256:"+strings.Repeat("0", 64), false)
	wantNoLeftovers(t, e)

	order := []string{"resolving", "downloading", "unpacking", "done"}
	at := 0
	var before container.Progress
	for _, p := range seen.list {
		if p.Ref != ref {
			t.Fatalf("progress names %q", p.Ref)
		}
		for at < len(order) && order[at] != p.Phase {
			at++
		}
		if at == len(order) {
			t.Fatalf("phase %q is out of order in %+v", p.Phase, seen.list)
		}
		if p.Phase == before.Phase && (p.Done < before.Done || p.LayersDone < before.LayersDone) {
			t.Errorf("progress goes back from %+v to %+v", before, p)
		}
		if p.Total > 0 && p.Done > p.Total || p.LayersDone > p.Layers {
			t.Errorf("progress is beyond its end: %+v", p)
		}
		before = p
	}
	if before.Phase != "done" || before.Layers != 3 || before.LayersDone != 3 || before.Done != before.Total || before.Total != got.Size {
		t.Errorf("the last progress is %+v", before)
	}
	for _, phase := range []string{"downloading", "unpacking"} {
		whole := false
		for _, p := range seen.list {
			whole = whole || p.Phase == phase && p.Done == size && p.LayersDone == 3
		}
		if !whole {
			t.Errorf("phase %s never tells that all of %d bytes are done", phase, size)
		}
	}
}

// What is here with the pinned digest needs no registry.
func TestPullOfWhatIsHere(t *testing.T) {
	s := newSource(t)
	s.add(t, "library/app:1", 1<<16, 2)
	e := imageEngine(t, nil)
	first := pullImage(t, e, s.host+"/library/app:1", "")
	s.Forget()
	if again := pullImage(t, e, s.host+"/library/app:1", first.Digest); again.Digest != first.Digest || again.Ref != first.Ref || again.Size != first.Size {
		t.Errorf("second pull gives %+v, want %+v", again, first)
	}
	if n := len(s.Requests()); n != 0 {
		t.Errorf("the registry was asked %d times, want none", n)
	}
	pullImage(t, e, s.host+"/library/app:1", "")
	if s.Bytes() != 0 {
		t.Errorf("%d bytes of layers were downloaded again", s.Bytes())
	}
}

// A tag that has moved does not change what a pinned reference gives.
func TestPinned(t *testing.T) {
	s := newSource(t)
	old := digestOf(t, s.add(t, "library/app:1", 1<<16, 1))
	new := digestOf(t, s.add(t, "library/app:1", 1<<16, 1))
	e := imageEngine(t, nil)
	ref := s.host + "/library/app:1"

	if got := pullImage(t, e, ref, old); got.Digest != old || got.Ref != ref {
		t.Errorf("pinned pull gives %+v, want digest %s", got, old)
	}
	if got := pullImage(t, e, ref+"@"+old, ""); got.Digest != old {
		t.Errorf("reference with digest gives %s, want %s", got.Digest, old)
	}
	if got := pullImage(t, e, ref, ""); got.Digest != new {
		t.Errorf("pull by tag gives %s, want %s", got.Digest, new)
	}
	wantImage(t, e, ref, old, true) // still here by its digest
	absent := "sha256:" + strings.Repeat("0", 64)
	if _, err := e.Pull(t.Context(), ref, absent, nil); !errors.Is(err, engine.ErrImageNotFound) {
		t.Errorf("a digest that is nowhere gives %v, want ErrImageNotFound", err)
	}
	if _, err := e.Pull(t.Context(), ref+"@"+new, old, nil); !errors.Is(err, engine.ErrImageRef) {
		t.Errorf("two different digests give %v, want ErrImageRef", err)
	}
}

// Names without a host are Docker Hub's, and its mirror is told so.
func TestDockerHubNames(t *testing.T) {
	s := newSource(t)
	want := digestOf(t, s.add(t, "library/app:latest", 1<<14, 1))
	e := imageEngine(t, func(c *engine.Config) {
		c.Images.Mirrors = map[string][]string{"docker.io": {"http://" + s.host}}
	})
	for _, ref := range []string{"app", "library/app", "docker.io/app:latest", "index.docker.io/library/app", "app@" + want} {
		got := pullImage(t, e, ref, "")
		if got.Digest != want || !strings.HasPrefix(got.Ref, "docker.io/library/app") {
			t.Errorf("%s gives %+v, want %s of docker.io/library/app", ref, got, want)
		}
	}
	for _, r := range s.Requests() {
		if r.Namespace != "docker.io" {
			t.Errorf("request %+v does not name the registry that is mirrored", r)
		}
	}
}

func TestMirrors(t *testing.T) {
	upstream, failing := newSource(t), newSource(t)
	image := upstream.add(t, "library/app:1", 1<<16, 2)
	failing.put(t, "library/app:1", image)
	refused := newSource(t).host // no image, so it answers 404

	for _, fault := range []*registry.Fault{
		{Status: http.StatusInternalServerError},
		{Status: http.StatusTooManyRequests, RetryAfter: "3600"},
		{Status: http.StatusForbidden},
		{Kind: registry.Blob, Status: http.StatusNotFound},
		{Kind: registry.Blob, Status: http.StatusServiceUnavailable},
	} {
		remove := failing.Inject(fault)
		e := imageEngine(t, func(c *engine.Config) {
			c.Images.Mirrors = map[string][]string{upstream.host: {
				"http://127.0.0.1:1", "http://" + refused, "http://" + failing.host,
			}}
		})
		if got := pullImage(t, e, upstream.host+"/library/app:1", ""); got.Digest != digestOf(t, image) {
			t.Errorf("with a mirror that does %+v the pull gives %s", fault.Status, got.Digest)
		}
		remove()
	}

	// A mirror that works is all that is asked.
	upstream.Forget()
	e := imageEngine(t, func(c *engine.Config) {
		c.Images.Mirrors = map[string][]string{upstream.host: {"http://" + failing.host}}
	})
	pullImage(t, e, upstream.host+"/library/app:1", "")
	if n := len(upstream.Requests()); n != 0 {
		t.Errorf("the registry was asked %d times although its mirror works", n)
	}
}

func TestCredentials(t *testing.T) {
	for _, scheme := range []string{"basic", "token"} {
		t.Run(scheme, func(t *testing.T) {
			s := newSource(t)
			s.User, s.Password, s.Scheme = "ana", "the:secret", scheme
			s.add(t, "library/app:1", 1<<14, 1)
			file := filepath.Join(t.TempDir(), "config.json")
			e := imageEngine(t, func(c *engine.Config) { c.Images.Credentials = file })
			ref := s.host + "/library/app:1"

			for _, try := range []struct {
				name, content string
				want          error
			}{
				{"no file", "", engine.ErrCredentials},
				{"rubbish", "{", engine.ErrCredentials},
				{"not base64", `{"auths":{"` + s.host + `":{"auth":"the:secret"}}}`, engine.ErrCredentials},
				{"helper", `{"credsStore":"desktop"}`, engine.ErrCredentials},
				{"nothing for this host", `{"auths":{"other.example":{"username":"ana","password":"the:secret"}}}`, engine.ErrUnauthorized},
				{"wrong password", `{"auths":{"` + s.host + `":{"username":"ana","password":"wrong-secret"}}}`, engine.ErrUnauthorized},
				{"auth", `{"auths":{"http://` + s.host + `/v2/":{"auth":"YW5hOnRoZTpzZWNyZXQ="}}}`, nil},
				{"user and password", `{"auths":{"` + s.host + `":{"username":"ana","password":"the:secret"}}}`, nil},
			} {
				if try.content != "" {
					if err := os.WriteFile(file, []byte(try.content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				_, err := e.Pull(t.Context(), ref, "", nil)
				if !errors.Is(err, try.want) {
					t.Errorf("%s: error is %v, want %v", try.name, err, try.want)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: the error tells a secret: %v", try.name, err)
				}
			}
		})
	}
}

// A registry's trouble ends in the right error after a bounded number of
// requests, or is overcome.
func TestRegistryFaults(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault *registry.Fault
		want  error
		most  int // requests of the kind that the fault meets; 0: any number
	}{
		{"no such image", &registry.Fault{Kind: registry.Manifest, Status: 404}, engine.ErrImageNotFound, 4},
		{"forbidden", &registry.Fault{Kind: registry.Manifest, Status: 403}, engine.ErrUnauthorized, 4},
		{"unauthorized", &registry.Fault{Kind: registry.Manifest, Status: 401}, engine.ErrUnauthorized, 4},
		{"rate limit", &registry.Fault{Kind: registry.Manifest, Status: 429}, engine.ErrRateLimited, 3},
		{"rate limit for hours", &registry.Fault{Kind: registry.Manifest, Status: 429, RetryAfter: "21600"}, engine.ErrRateLimited, 1},
		{"rate limit at a layer", &registry.Fault{Kind: registry.Blob, Status: 429}, engine.ErrRateLimited, 0},
		{"rate limit that passes", &registry.Fault{Kind: registry.Blob, Status: 429, RetryAfter: "0", Times: 2}, nil, 0},
		{"failure", &registry.Fault{Kind: registry.Manifest, Status: 500}, engine.ErrRegistry, 3},
		{"bad gateway at a layer", &registry.Fault{Kind: registry.Blob, Status: 502}, engine.ErrRegistry, 0},
		{"failure that passes", &registry.Fault{Status: 503, Times: 2}, nil, 0},
		{"missing layer", &registry.Fault{Kind: registry.Blob, Status: 404}, engine.ErrImageNotFound, 0},
		{"cut before the first byte", &registry.Fault{Kind: registry.Blob, CutAfter: -1, Times: 1}, nil, 0},
		{"range ignored after a cut", &registry.Fault{Kind: registry.Blob, NoRange: true}, nil, 0},
		{"wrong content once", &registry.Fault{Kind: registry.Blob, Corrupt: true, Times: 1}, nil, 0},
		{"wrong content", &registry.Fault{Kind: registry.Blob, Corrupt: true}, engine.ErrCorruptImage, 0},
		{"wrong manifest", &registry.Fault{Kind: registry.Manifest, Method: "GET", Corrupt: true}, engine.ErrCorruptImage, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSource(t)
			s.add(t, "library/app:1", 1<<16, 3)
			s.Inject(test.fault)
			e := imageEngine(t, nil)
			_, err := e.Pull(t.Context(), s.host+"/library/app:1", "", nil)
			if !errors.Is(err, test.want) {
				t.Fatalf("error is %v, want %v", err, test.want)
			}
			met := 0
			for _, r := range s.Requests() {
				if test.fault.Kind == r.Kind && (test.fault.Method == "" || test.fault.Method == r.Method) {
					met++
				}
			}
			if test.most > 0 && met > test.most {
				t.Errorf("the registry was asked %d times, want at most %d", met, test.most)
			}
			wantImage(t, e, s.host+"/library/app:1", "", test.want == nil)
			if test.want == nil {
				wantNoLeftovers(t, e)
			}
		})
	}
}

// An unreachable registry is named in the error.
func TestUnreachableRegistry(t *testing.T) {
	e := imageEngine(t, nil)
	_, err := e.Pull(t.Context(), "127.0.0.1:1/app:1", "", nil)
	if !errors.Is(err, engine.ErrRegistry) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("error is %v, want ErrRegistry that names the host", err)
	}
}

// A line that breaks every 100,000 bytes brings the image without loading a
// byte twice.
func TestResumeAfterCuts(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 1<<20, 1)
	digest, size := layerOf(t, image, 0)
	s.Inject(&registry.Fault{Digest: digest, CutAfter: 100_000})
	e := imageEngine(t, nil)
	pullImage(t, e, s.host+"/library/app:1", "")

	requests := s.blobRequests(digest)
	if want := int(size/100_000) + 1; len(requests) < want {
		t.Errorf("%d requests for %d bytes, want at least %d", len(requests), size, want)
	}
	var sent int64
	for i, r := range requests {
		sent += r.Bytes
		if i > 0 && r.Range == "" {
			t.Errorf("request %d begins from the first byte", i)
		}
	}
	if sent != size {
		t.Errorf("%d bytes were sent for a layer of %d", sent, size)
	}
	wantNoLeftovers(t, e)
}

// Connections that end before anything came are tried again, but not for ever.
func TestCutsWithoutProgress(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 1<<16, 1)
	digest, _ := layerOf(t, image, 0)
	s.Inject(&registry.Fault{Digest: digest, CutAfter: -1})
	e := imageEngine(t, nil)
	_, err := e.Pull(t.Context(), s.host+"/library/app:1", "", nil)
	if !errors.Is(err, engine.ErrRegistry) {
		t.Errorf("error is %v, want ErrRegistry", err)
	}
	// The reader of the resolver connects four times for each of the three attempts.
	if n := len(s.blobRequests(digest)); n < 3 || n > 12 {
		t.Errorf("the layer was asked for %d times, want 3 to 12", n)
	}
}

// The stall is a second long: a busy machine may well take some hundredths of one to send the first byte, and then there is nothing to go on from.
func TestStalledConnection(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 1<<18, 1)
	digest, size := layerOf(t, image, 0)
	s.Inject(&registry.Fault{Digest: digest, StallAfter: 100_000, Times: 1})
	e := imageEngine(t, func(c *engine.Config) { c.Images.Stall = time.Second })
	pullImage(t, e, s.host+"/library/app:1", "")
	if s.Bytes() < size {
		t.Errorf("%d bytes were sent for a layer of %d", s.Bytes(), size)
	}
	// Requests are told when they end, and the stalled one may end last.
	first := 0
	for _, r := range s.blobRequests(digest) {
		if r.Range == "" {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d requests begin from the first byte, want the first alone: %+v", first, s.blobRequests(digest))
	}
}

// A cancelled pull says so and goes on where it was.
func TestCancelAndResume(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 4<<20, 1)
	digest, size := layerOf(t, image, 0)
	remove := s.Inject(&registry.Fault{Digest: digest, StallAfter: 3 << 20})
	e := imageEngine(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := e.Pull(ctx, s.host+"/library/app:1", "", func(p container.Progress) {
		if p.Phase == "downloading" && p.Done > 1<<19 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v, want context.Canceled", err)
	}
	remove()
	if err := e.Collect(t.Context()); err != nil { // must not take what came
		t.Fatal(err)
	}
	s.forget(t, digest)
	pullImage(t, e, s.host+"/library/app:1", "")
	requests := s.blobRequests(digest)
	if len(requests) != 1 || requests[0].Range == "" || requests[0].Bytes >= size {
		t.Errorf("second pull asked %+v, want the rest of %d bytes", requests, size)
	}
	wantNoLeftovers(t, e)
}

// Close ends a pull, and the next engine goes on with it.
func TestCloseDuringPull(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 4<<20, 1)
	digest, size := layerOf(t, image, 0)
	remove := s.Inject(&registry.Fault{Digest: digest, StallAfter: 3 << 20})
	cfg := eitherConfig(t)
	e, err := engine.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	came, pulled := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		_, err := e.Pull(t.Context(), s.host+"/library/app:1", "", func(p container.Progress) {
			if p.Phase == "downloading" && p.Done > 1<<19 {
				once.Do(func() { close(came) })
			}
		})
		pulled <- err
	}()
	select {
	case <-came:
	case err := <-pulled:
		t.Fatalf("the pull ended before it was closed: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-pulled; !errors.Is(err, engine.ErrClosed) {
		t.Errorf("the pull ended with %v, want ErrClosed", err)
	}
	if _, err := e.Pull(t.Context(), s.host+"/library/app:1", "", nil); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("a pull after Close gives %v, want ErrClosed", err)
	}
	remove()
	s.forget(t, digest)
	e = openImageEngine(t, cfg)
	pullImage(t, e, s.host+"/library/app:1", "")
	if requests := s.blobRequests(digest); len(requests) != 1 || requests[0].Bytes >= size {
		t.Errorf("the next engine asked %+v, want the rest of %d bytes", requests, size)
	}
}

func TestConcurrentPulls(t *testing.T) {
	s := newSource(t)
	image := s.add(t, "library/app:1", 1<<18, 2)
	s.put(t, "library/app:2", image) // the same layers under another name
	e := imageEngine(t, nil)
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			ref := s.host + "/library/app:" + []string{"1", "2"}[i%2]
			if _, err := e.Pull(t.Context(), ref, "", nil); err != nil {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	group.Wait()
	for at := range 2 {
		digest, size := layerOf(t, image, at)
		var sent int64
		for _, r := range s.blobRequests(digest) {
			sent += r.Bytes
		}
		if sent != size {
			t.Errorf("layer %d of %d bytes was sent as %d", at, size, sent)
		}
	}
	wantNoLeftovers(t, e)
}

func TestPlatforms(t *testing.T) {
	s := newSource(t)
	here := s.add(t, "library/here:1", 1<<12, 1)
	other := withConfig(t, here, func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	s.put(t, "library/other:1", other)
	index := func(images ...v1.Image) v1.ImageIndex {
		list := v1.ImageIndex(empty.Index)
		for _, image := range images {
			config, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			list = mutate.AppendManifests(list, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
		}
		return list
	}
	both := index(other, here)
	for name, list := range map[string]v1.ImageIndex{"library/both:1": both, "library/none:1": index(other)} {
		if err := registry.AddIndex(s.dir, "docker.io/"+name, list); err != nil {
			t.Fatal(err)
		}
	}
	e := imageEngine(t, nil)
	for _, name := range []string{"other", "none"} {
		s.Forget()
		_, err := e.Pull(t.Context(), s.host+"/library/"+name+":1", "", nil)
		if !errors.Is(err, engine.ErrPlatform) || !strings.Contains(err.Error(), "linux/") {
			t.Errorf("%s: error is %v, want ErrPlatform that names this machine", name, err)
		}
		layer, _ := layerOf(t, here, 0)
		if len(s.blobRequests(layer)) > 0 {
			t.Errorf("%s: a layer was downloaded in vain", name)
		}
	}
	got := pullImage(t, e, s.host+"/library/both:1", "")
	if got.Digest != digestOf(t, both) {
		t.Errorf("an index is pinned as %s, want its own digest %s", got.Digest, digestOf(t, both))
	}
	wantImage(t, e, s.host+"/library/both:1", got.Digest, true)
}

// Requests to hosts that are not loopback go through the proxy of the
// environment, and those that NO_PROXY names do not.
func TestProxyVariables(t *testing.T) {
	proxy := newSource(t) // answers absolute addresses as a proxy does
	image := proxy.add(t, "library/app:1", 1<<14, 1)
	t.Setenv("HTTP_PROXY", "http://"+proxy.host)
	t.Setenv("NO_PROXY", "direct.invalid")
	e := imageEngine(t, func(c *engine.Config) {
		c.Images.PlainHTTP = []string{"registry.invalid", "direct.invalid"}
		c.Images.Attempts = 1
	})
	if got := pullImage(t, e, "registry.invalid/library/app:1", ""); got.Digest != digestOf(t, image) {
		t.Errorf("through the proxy came %s", got.Digest)
	}
	proxy.Forget()
	if _, err := e.Pull(t.Context(), "direct.invalid/library/app:1", "", nil); !errors.Is(err, engine.ErrRegistry) {
		t.Errorf("a host without proxy gives %v, want ErrRegistry", err)
	}
	if n := len(proxy.Requests()); n != 0 {
		t.Errorf("the proxy was asked %d times for a host of NO_PROXY", n)
	}
}

// Plain http to a host that is not loopback is never tried unasked.
func TestNoPlainHTTPUnasked(t *testing.T) {
	proxy := newSource(t)
	proxy.add(t, "library/app:1", 1<<12, 1)
	t.Setenv("HTTP_PROXY", "http://"+proxy.host)
	e := imageEngine(t, func(c *engine.Config) { c.Images.Attempts = 1 })
	if _, err := e.Pull(t.Context(), "registry.invalid/library/app:1", "", nil); !errors.Is(err, engine.ErrRegistry) {
		t.Errorf("error is %v, want ErrRegistry", err)
	}
	if n := len(proxy.Requests()); n != 0 {
		t.Errorf("%d requests went out in plain http", n)
	}
}

func TestWrongReferences(t *testing.T) {
	e := imageEngine(t, nil)
	for _, ref := range []string{"", "UPPER", "a b", "app:", "app@sha256:1", "http://host/app", "-/-"} {
		if _, err := e.Pull(t.Context(), ref, "", nil); !errors.Is(err, engine.ErrImageRef) {
			t.Errorf("%q: error is %v, want ErrImageRef", ref, err)
		}
	}
	if _, err := e.Pull(t.Context(), "app", "sha256:short", nil); !errors.Is(err, engine.ErrImageRef) {
		t.Errorf("wrong pin: error is %v, want ErrImageRef", err)
	}
}
