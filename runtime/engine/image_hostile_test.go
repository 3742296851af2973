package engine_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"tarima/runtime/engine"
)

// tamper puts an image under library/app:1 whose manifest and configuration
// were changed as plain JSON. Their digests are right.
func (s *source) tamper(t *testing.T, image v1.Image, manifest, config func(map[string]any)) {
	t.Helper()
	s.put(t, "library/app:1", image)
	blob := func(content []byte) (digest string, size int) {
		hash, _, err := v1.SHA256(strings.NewReader(string(content)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, "blobs", "sha256", hash.Hex), content, 0o600); err != nil {
			t.Fatal(err)
		}
		return hash.String(), len(content)
	}
	changed := func(raw []byte, change func(map[string]any)) []byte {
		var document map[string]any
		if err := json.Unmarshal(raw, &document); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(document)
		}
		raw, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	rawConfig, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	rawManifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	configDigest, configSize := blob(changed(rawConfig, config))
	content := changed(rawManifest, func(document map[string]any) {
		entry := document["config"].(map[string]any)
		entry["digest"], entry["size"] = configDigest, configSize
		if manifest != nil {
			manifest(document)
		}
	})
	digest, size := blob(content)
	path := filepath.Join(s.dir, "index.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw = changed(raw, func(document map[string]any) {
		entry := document["manifests"].([]any)[0].(map[string]any)
		entry["digest"], entry["size"] = digest, size
	})
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func firstOf(document map[string]any, list string) map[string]any {
	return document[list].([]any)[0].(map[string]any)
}

// Documents that no honest registry sends are refused, whatever they say.
func TestHostileDocuments(t *testing.T) {
	for _, test := range []struct {
		name             string
		manifest, config func(map[string]any)
		want             error
	}{
		{"as it was", nil, nil, nil},
		{"layer digest", func(m map[string]any) { firstOf(m, "layers")["digest"] = "x" }, nil, engine.ErrCorruptImage},
		{"layer digest of another kind", func(m map[string]any) { firstOf(m, "layers")["digest"] = "md5:00" }, nil, engine.ErrCorruptImage},
		{"path as layer digest", func(m map[string]any) { firstOf(m, "layers")["digest"] = "sha256:../../etc/passwd" }, nil, engine.ErrCorruptImage},
		{"no layer digest", func(m map[string]any) { delete(firstOf(m, "layers"), "digest") }, nil, engine.ErrCorruptImage},
		{"layer without size", func(m map[string]any) { firstOf(m, "layers")["size"] = 0 }, nil, engine.ErrCorruptImage},
		{"negative layer size", func(m map[string]any) { firstOf(m, "layers")["size"] = -5 }, nil, engine.ErrCorruptImage},
		{"wrong layer size", func(m map[string]any) { firstOf(m, "layers")["size"] = 100 }, nil, engine.ErrCorruptImage},
		{"layer shorter than said", func(m map[string]any) { firstOf(m, "layers")["size"] = 1 << 20 }, nil, engine.ErrCorruptImage},
		{"layer of an exbibyte", func(m map[string]any) { firstOf(m, "layers")["size"] = 1 << 60 }, nil, engine.ErrCorruptImage},
		{"layer larger than the disk", func(m map[string]any) { firstOf(m, "layers")["size"] = 1 << 40 }, nil, engine.ErrNoSpace},
		{"layer type", func(m map[string]any) { firstOf(m, "layers")["mediaType"] = "application/x-shell" }, nil, engine.ErrCorruptImage},
		{"configuration as layer", func(m map[string]any) { m["layers"] = []any{m["config"], firstOf(m, "layers")} }, nil, engine.ErrCorruptImage},
		{"layers missing", func(m map[string]any) { m["layers"] = []any{} }, nil, engine.ErrCorruptImage},
		{"layers of another type", func(m map[string]any) { m["layers"] = "none" }, nil, engine.ErrCorruptImage},
		{"no configuration", func(m map[string]any) { delete(m, "config") }, nil, engine.ErrCorruptImage},
		{"diff ids", nil, func(c map[string]any) { c["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{"x", "y"}} }, engine.ErrCorruptImage},
		{"wrong diff ids", nil, func(c map[string]any) {
			zero := "sha256:" + strings.Repeat("0", 64)
			c["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{zero, zero}}
		}, engine.ErrCorruptImage},
		{"configuration of another type", nil, func(c map[string]any) { c["rootfs"] = 7 }, engine.ErrCorruptImage},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSource(t)
			image := s.add(t, "library/app:1", 1<<12, 2)
			s.tamper(t, image, test.manifest, test.config)
			e := imageEngine(t, nil)
			_, err := e.Pull(t.Context(), s.host+"/library/app:1", "", nil)
			if !errors.Is(err, test.want) {
				t.Fatalf("error is %v, want %v", err, test.want)
			}
			wantImage(t, e, s.host+"/library/app:1", "", test.want == nil)
			prune(t, e, s.host+"/library/app:1")
			wantNoLeftovers(t, e)
		})
	}
}

// An image cannot make the host ask addresses of the image's choice.
func TestForeignAddressesAreNotAsked(t *testing.T) {
	var asked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer elsewhere.Close()
	s := newSource(t)
	image := s.add(t, "library/app:1", 1<<12, 2)
	s.tamper(t, image, func(m map[string]any) { firstOf(m, "layers")["urls"] = []string{elsewhere.URL + "/x"} }, nil)
	e := imageEngine(t, nil)
	pullImage(t, e, s.host+"/library/app:1", "")
	if n := asked.Load(); n != 0 {
		t.Errorf("another host was asked %d times", n)
	}
}

// What a redirect's address carries is a key to the content and appears in no
// error.
func TestRedirectSecrets(t *testing.T) {
	dead, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := dead.Addr().String()
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	s := newSource(t)
	s.add(t, "library/app:1", 1<<12, 1)
	for _, to := range []string{"http://" + address, ""} {
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/blobs/") {
				s.ServeHTTP(w, r)
				return
			}
			if r.URL.RawQuery == "" {
				http.Redirect(w, r, to+r.URL.Path+"?X-Signature=topsecret", http.StatusTemporaryRedirect)
				return
			}
			w.WriteHeader(http.StatusForbidden)
		}))
		defer front.Close()
		e := imageEngine(t, nil)
		_, err = e.Pull(t.Context(), strings.TrimPrefix(front.URL, "http://")+"/library/app:1", "", nil)
		if err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("error is %v, want one without the redirect's query", err)
		}
	}
}
