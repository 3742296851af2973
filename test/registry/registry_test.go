package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"tarima/test/registry"
)

// client has a time-out, so that a server that hangs fails a test.
var client = &http.Client{Timeout: time.Minute}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server with one image of two layers under the name
// docker.io/library/app:1 and returns its host:port.
func serve(t *testing.T, server *registry.Server) (host string, image v1.Image) {
	t.Helper()
	image, err := registry.Random(1<<16, 2, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "app")
	if err := registry.Add(dir, "docker.io/library/app:1", image); err != nil {
		t.Fatal(err)
	}
	server.Dirs = append(server.Dirs, filepath.Dir(dir))
	ts := httptest.NewServer(server)
	t.Cleanup(ts.Close)
	t.Cleanup(client.CloseIdleConnections)
	return strings.TrimPrefix(ts.URL, "http://"), image
}

func firstLayer(t *testing.T, image v1.Image) (digest string, content []byte) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	content, err = io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return hash.String(), content
}

func get(t *testing.T, url, byteRange string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

// A client that is not ours pulls the whole image, by tag and by digest.
func TestServesToAForeignClient(t *testing.T) {
	host, image := serve(t, &registry.Server{})
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{host + "/library/app:1", host + "/library/app@" + want.String()} {
		parsed, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Image(parsed, remote.WithContext(t.Context()))
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		if err := validate.Image(got); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestNamesAndTags(t *testing.T) {
	server := &registry.Server{}
	host, _ := serve(t, server)
	other, err := registry.Random(1024, 1, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: other})
	if err := registry.AddIndex(filepath.Join(server.Dirs[0], "tool"), "docker.io/example/tool:2", index); err != nil {
		t.Fatal(err)
	}
	names, err := server.Names()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(names, " "), "example/tool:2 library/app:1"; got != want {
		t.Errorf("names are %q, want %q", got, want)
	}
	_, body, err := get(t, "http://"+host+"/v2/library/app/tags/list", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(body), `{"name":"library/app","tags":["1"]}`; got != want {
		t.Errorf("tag list is %s, want %s", got, want)
	}
	resp, _, err := get(t, "http://"+host+"/v2/example/tool/manifests/2", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := resp.Header.Get("Content-Type"), "application/vnd.oci.image.index.v1+json"; got != want {
		t.Errorf("content type is %q, want %q", got, want)
	}
}

// A name that moves to a new image leaves the old one reachable by digest.
func TestNameMoves(t *testing.T) {
	server := &registry.Server{}
	host, old := serve(t, server)
	oldDigest, err := old.Digest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := registry.Random(1024, 1, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.Add(filepath.Join(server.Dirs[0], "app"), "docker.io/library/app:1", image); err != nil {
		t.Fatal(err)
	}
	newDigest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	resp, _, err := get(t, "http://"+host+"/v2/library/app/manifests/1", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Docker-Content-Digest"); got != newDigest.String() {
		t.Errorf("tag gives %s, want the new image %s", got, newDigest)
	}
	resp, _, err = get(t, "http://"+host+"/v2/library/app/manifests/"+oldDigest.String(), "")
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the old image gives %s, want it still there by digest", resp.Status)
	}
}

func TestMissing(t *testing.T) {
	host, _ := serve(t, &registry.Server{})
	absent := "sha256:" + strings.Repeat("0", 64)
	for _, path := range []string{
		"/v2/library/app/manifests/2", "/v2/nothing/manifests/1", "/v2/library/app/manifests/" + absent,
		"/v2/library/app/blobs/" + absent, "/v2/library/app/blobs/..%2f..%2findex.json", "/v2/nothing/tags/list", "/other", "/v2/x",
	} {
		resp, _, err := get(t, "http://"+host+path, "")
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s gives %s, want 404", path, resp.Status)
		}
	}
}

func TestReadOnly(t *testing.T) {
	host, _ := serve(t, &registry.Server{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+host+"/v2/library/app/manifests/1", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a push gives %s, want 405", resp.Status)
	}
}

func TestConflictingNamesAreAnError(t *testing.T) {
	server := &registry.Server{}
	_, _ = serve(t, server)
	image, err := registry.Random(1024, 1, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.Add(filepath.Join(server.Dirs[0], "copy"), "docker.io/library/app:1", image); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Names(); err == nil {
		t.Error("two images under one name are no error")
	}
}

func TestAuthentication(t *testing.T) {
	for _, scheme := range []string{"basic", "token"} {
		t.Run(scheme, func(t *testing.T) {
			host, _ := serve(t, &registry.Server{User: "ana", Password: "right", Scheme: scheme})
			ref, err := name.ParseReference(host + "/library/app:1")
			if err != nil {
				t.Fatal(err)
			}
			for password, ok := range map[string]bool{"right": true, "wrong": false} {
				_, err := remote.Image(ref, remote.WithContext(t.Context()),
					remote.WithAuth(&authn.Basic{Username: "ana", Password: password}))
				if (err == nil) != ok {
					t.Errorf("password %q: error is %v, want success %v", password, err, ok)
				}
			}
			if _, err := remote.Image(ref, remote.WithContext(t.Context())); err == nil {
				t.Error("no credentials suffice")
			}
		})
	}
}

func TestFaults(t *testing.T) {
	server := &registry.Server{}
	host, image := serve(t, server)
	digest, content := firstLayer(t, image)
	url := "http://" + host + "/v2/library/app/blobs/" + digest

	t.Run("range", func(t *testing.T) {
		resp, body, err := get(t, url, "bytes=1000-")
		if err != nil || resp.StatusCode != http.StatusPartialContent || string(body) != string(content[1000:]) {
			t.Errorf("got %d bytes, %v; want the rest of the content", len(body), err)
		}
	})
	t.Run("range ignored", func(t *testing.T) {
		defer server.Inject(&registry.Fault{Kind: registry.Blob, NoRange: true})()
		resp, body, err := get(t, url, "bytes=1000-")
		if err != nil || resp.StatusCode != http.StatusOK || len(body) != len(content) {
			t.Errorf("got %d bytes, %v; want all of the content", len(body), err)
		}
	})
	t.Run("status then served", func(t *testing.T) {
		defer server.Inject(&registry.Fault{Status: http.StatusTooManyRequests, RetryAfter: "7", Times: 1})()
		resp, _, err := get(t, url, "")
		if err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "7" {
			t.Errorf("first request: %v, %v; want 429 with Retry-After", resp, err)
		}
		resp, _, err = get(t, url, "")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("second request: %v, %v; want 200", resp, err)
		}
	})
	t.Run("cut", func(t *testing.T) {
		defer server.Inject(&registry.Fault{Digest: digest, CutAfter: 5000})()
		_, body, err := get(t, url, "")
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 5000 {
			t.Errorf("got %d bytes and %v; want 5000 and an unexpected end", len(body), err)
		}
	})
	t.Run("cut before the first byte", func(t *testing.T) {
		defer server.Inject(&registry.Fault{Digest: digest, CutAfter: -1})()
		resp, body, err := get(t, url, "")
		if resp == nil || resp.StatusCode != http.StatusOK || !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 0 {
			t.Errorf("got %d bytes and %v; want the answer's head and an unexpected end", len(body), err)
		}
	})
	t.Run("corrupt", func(t *testing.T) {
		defer server.Inject(&registry.Fault{Kind: registry.Blob, Corrupt: true})()
		_, body, err := get(t, url, "")
		if err != nil || len(body) != len(content) || body[0] != ^content[0] || string(body[1:]) != string(content[1:]) {
			t.Errorf("content is not what it should be with one byte inverted: %v", err)
		}
	})
	t.Run("rate", func(t *testing.T) {
		defer server.Inject(&registry.Fault{Kind: registry.Blob, Rate: 1 << 20})()
		_, body, err := get(t, url, "")
		if err != nil || string(body) != string(content) {
			t.Errorf("a slow answer is not whole: %v", err)
		}
	})
	t.Run("stall ends with the client", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer server.Inject(&registry.Fault{Kind: registry.Blob, StallAfter: 1000, Reached: cancel})()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v, want the cancellation", err)
		}
	})
}

func TestCounts(t *testing.T) {
	server := &registry.Server{}
	host, image := serve(t, server)
	digest, _ := firstLayer(t, image)
	if _, _, err := get(t, "http://"+host+"/v2/library/app/blobs/"+digest, "bytes=10-19"); err != nil {
		t.Fatal(err)
	}
	got := server.Requests()
	want := registry.Request{Method: "GET", Kind: registry.Blob, Repository: "library/app", Reference: digest, Range: "bytes=10-19", Status: 206, Bytes: 10}
	if len(got) != 1 || got[0] != want {
		t.Errorf("requests are %+v, want %+v", got, want)
	}
	if server.Bytes() != 10 {
		t.Errorf("%d bytes were counted, want 10", server.Bytes())
	}
	server.Forget()
	if got := server.Requests(); len(got) != 0 {
		t.Errorf("forgotten requests are still there: %+v", got)
	}
}

func TestListenRefusesOtherAddresses(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "nonsense"} {
		if l, err := registry.Listen(t.Context(), address); err == nil {
			l.Close()
			t.Errorf("%q was accepted", address)
		}
	}
}

func TestServeEnds(t *testing.T) {
	listener, err := registry.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- (&registry.Server{}).Serve(ctx, listener) }()
	if _, _, err := get(t, fmt.Sprintf("http://%s/v2/", listener.Addr()), ""); err != nil {
		t.Errorf("ping: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve ended with %v", err)
	}
}

func TestLayoutErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, index := range []string{"", "{", `{"manifests":[{"digest":"sha256:00","annotations":{"io.containerd.image.name":"example/UPPER:1"}}]}`} {
		if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (&registry.Server{Dirs: []string{dir}}).Names(); err == nil {
			t.Errorf("index %q is no error", index)
		}
	}
}

func TestParseFault(t *testing.T) {
	for _, text := range []string{"", "kind=blob", "status=9999", "kind=layer,status=500", "cut=-1", "times=x,status=500", "what=1", "digest=abc,status=404", "delay=fast"} {
		if _, err := registry.ParseFault(text); !errors.Is(err, registry.ErrFault) {
			t.Errorf("%q: error is %v, want ErrFault", text, err)
		}
	}
	fault, err := registry.ParseFault("kind=blob, status=429, retry-after=2, times=3, skip=1")
	if err != nil {
		t.Fatal(err)
	}
	if fault.Kind != registry.Blob || fault.Status != 429 || fault.RetryAfter != "2" || fault.Times != 3 || fault.Skip != 1 {
		t.Errorf("fault is %+v", fault)
	}
}

func FuzzParseFault(f *testing.F) {
	for _, seed := range []string{"kind=blob,status=429", "cut=1,times=2", "corrupt", "delay=1s,rate=10", ",,=,", "status=500,status=x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fault, err := registry.ParseFault(text)
		if (fault == nil) != (err != nil) {
			t.Fatalf("%q gives fault %v and error %v", text, fault, err)
		}
	})
}
