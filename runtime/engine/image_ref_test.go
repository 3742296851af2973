package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

var (
	someDigest  = "sha256:" + strings.Repeat("a", 64)
	otherDigest = "sha256:" + strings.Repeat("b", 64)
)

func TestParseRef(t *testing.T) {
	for _, test := range []struct{ ref, pinned, name, source, host string }{
		{"redis", "", "docker.io/library/redis:latest", "docker.io/library/redis:latest", "docker.io"},
		{"redis:7", "", "docker.io/library/redis:7", "docker.io/library/redis:7", "docker.io"},
		{"overhangio/openedx:20.0.0", "", "docker.io/overhangio/openedx:20.0.0", "docker.io/overhangio/openedx:20.0.0", "docker.io"},
		{"index.docker.io/redis", "", "docker.io/library/redis:latest", "docker.io/library/redis:latest", "docker.io"},
		{"ghcr.io/a/b/c:1", "", "ghcr.io/a/b/c:1", "ghcr.io/a/b/c:1", "ghcr.io"},
		{"localhost:5000/a", "", "localhost:5000/a:latest", "localhost:5000/a:latest", "localhost:5000"},
		{"[::1]:5000/a", "", "[::1]:5000/a:latest", "[::1]:5000/a:latest", "[::1]:5000"},
		{"redis:7", someDigest, "docker.io/library/redis:7", "docker.io/library/redis@" + someDigest, "docker.io"},
		{"redis:7@" + someDigest, someDigest, "docker.io/library/redis:7", "docker.io/library/redis@" + someDigest, "docker.io"},
		{"redis@" + someDigest, "", "docker.io/library/redis@" + someDigest, "docker.io/library/redis@" + someDigest, "docker.io"},
	} {
		got, err := parseRef(test.ref, test.pinned)
		if err != nil {
			t.Errorf("%s: %v", test.ref, err)
			continue
		}
		if got.name() != test.name || got.source() != test.source || got.host != test.host {
			t.Errorf("%s is %s from %s at %s, want %s from %s at %s", test.ref, got.name(), got.source(), got.host, test.name, test.source, test.host)
		}
	}
	for _, wrong := range [][2]string{
		{"", ""}, {"A", ""}, {someDigest[7:], ""}, {"redis", "latest"}, {"redis", "md5:aa"}, {"redis@" + otherDigest, someDigest}, {"a//b", ""}, {"redis:", ""},
	} {
		if _, err := parseRef(wrong[0], wrong[1]); !errors.Is(err, ErrImageRef) {
			t.Errorf("%q pinned %q gives %v, want ErrImageRef", wrong[0], wrong[1], err)
		}
	}
}

// What a reference is read as reads as itself.
func FuzzParseRef(f *testing.F) {
	for _, seed := range []string{"redis", "redis:7", "a.b:5000/c/d:e@" + someDigest, "localhost/x", "UPPER", "::", "a@b", "[::1]/x"} {
		f.Add(seed, "")
		f.Add(seed, someDigest)
	}
	f.Fuzz(func(t *testing.T, ref, pinned string) {
		parsed, err := parseRef(ref, pinned)
		if err != nil {
			if !errors.Is(err, ErrImageRef) {
				t.Fatalf("error is not an ErrImageRef: %v", err)
			}
			return
		}
		if parsed.tag == "" && parsed.digest == "" {
			t.Fatalf("%q is read as %+v, which names no image", ref, parsed)
		}
		if parsed.digest != "" && parsed.digest.Validate() != nil {
			t.Fatalf("%q is read with the digest %q", ref, parsed.digest)
		}
		again, err := parseRef(parsed.String(), "")
		if err != nil || again != parsed {
			t.Fatalf("%q is read as %s, and that as %s (%v)", ref, parsed, again, err)
		}
	})
}

func TestParseCredentials(t *testing.T) {
	for _, test := range []struct {
		name, content, host, user, secret string
		fails                             bool
	}{
		{name: "nothing", content: `{}`, host: "a.test"},
		{name: "auth", content: `{"auths":{"a.test":{"auth":"dTpwOnc="}}}`, host: "a.test", user: "u", secret: "p:w"},
		{name: "user and password", content: `{"auths":{"a.test:5000":{"username":"u","password":"p"}}}`, host: "a.test:5000", user: "u", secret: "p"},
		{name: "address", content: `{"auths":{"https://a.test/v1/":{"username":"u","password":"p"}}}`, host: "a.test", user: "u", secret: "p"},
		{name: "docker hub", content: `{"auths":{"https://index.docker.io/v1/":{"username":"u","password":"p"}}}`, host: "registry-1.docker.io", user: "u", secret: "p"},
		{name: "docker hub by short name", content: `{"auths":{"docker.io":{"username":"u","password":"p"}}}`, host: "registry-1.docker.io", user: "u", secret: "p"},
		{name: "token", content: `{"auths":{"a.test":{"auth":"dTpw","identitytoken":"tok"}}}`, host: "a.test", user: "", secret: "tok"},
		{name: "other host", content: `{"auths":{"a.test":{"username":"u","password":"p"}}}`, host: "a.test.evil.test"},
		{name: "other port", content: `{"auths":{"a.test":{"username":"u","password":"p"}}}`, host: "a.test:8443"},
		{name: "empty entry", content: `{"auths":{"a.test":{}}}`, host: "a.test"},
		{name: "helper of this host", content: `{"credHelpers":{"a.test":"pass"}}`, host: "a.test", fails: true},
		{name: "helper of another host", content: `{"credHelpers":{"b.test":"pass"}}`, host: "a.test"},
		{name: "store", content: `{"credsStore":"desktop"}`, host: "a.test", fails: true},
		{name: "store, but written down", content: `{"credsStore":"desktop","auths":{"a.test":{"username":"u","password":"p"}}}`, host: "a.test", user: "u", secret: "p"},
	} {
		known, err := parseCredentials([]byte(test.content))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		user, secret, err := known.lookup(test.host)
		if user != test.user || secret != test.secret || (err != nil) != test.fails {
			t.Errorf("%s: login is %q, %q with error %v", test.name, user, secret, err)
		}
	}
	for _, wrong := range []string{"", "[]", `{"auths":[]}`, `{"auths":{"a":{"auth":"%%"}}}`, `{"auths":{"a":{"auth":"bm9jb2xvbg=="}}}`, `{"auths":{"a":{"password":7}}}`} {
		if _, err := parseCredentials([]byte(wrong)); err == nil {
			t.Errorf("%s is accepted", wrong)
		}
	}
}

func TestCredentialsFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, make([]byte, maxCredentials+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readCredentials(path); !errors.Is(err, ErrCredentials) {
		t.Errorf("error is %v, want ErrCredentials", err)
	}
}

// No error of a credentials file tells what is in it.
func FuzzParseCredentials(f *testing.F) {
	for _, seed := range []string{`{"auths":{"a.test":{"auth":"dTpw"}}}`, `{"auths":{"x":{"auth":"topsecret"}}}`, `{"auths":{"x":{"password":"topsecret"}}`, `topsecret`, `{"auths":{"x":{"auth":["topsecret"]}}}`, `{"auths":{"x":{"identitytoken":"topsecret"}},"credsStore":"s"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		known, err := parseCredentials(content)
		if err != nil {
			if strings.Contains(err.Error(), "topsecret") {
				t.Fatalf("the error tells a secret: %v", err)
			}
			return
		}
		for host := range known.logins {
			if _, secret, err := known.lookup(host); err != nil || secret == "" {
				t.Fatalf("login of %q is lost: %v", host, err)
			}
		}
	})
}

func TestImagesConfig(t *testing.T) {
	for _, wrong := range []ImagesConfig{
		{Credentials: "relative.json"},
		{Mirrors: map[string][]string{"": {"https://m.test"}}},
		{Mirrors: map[string][]string{"https://docker.io/": {"https://m.test"}}},
		{Mirrors: map[string][]string{"docker.io": {"m.test"}}},
		{Mirrors: map[string][]string{"docker.io": {"ftp://m.test"}}},
		{Mirrors: map[string][]string{"docker.io": {"https://m.test/?x=topsecret"}}},
		{Mirrors: map[string][]string{"docker.io": {"https://ana:topsecret@m.test"}}},
		{Mirrors: map[string][]string{"docker.io": {"https://ana:topsecret@m.test:port"}}},
		{Attempts: -1},
		{Stall: -time.Second},
	} {
		_, err := wrong.withDefaults()
		if err == nil {
			t.Errorf("%+v is accepted", wrong)
		} else if strings.Contains(err.Error(), "ana") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	cfg, err := ImagesConfig{Reserve: -1}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Attempts == 0 || cfg.Backoff == 0 || cfg.MaxWait == 0 || cfg.Stall == 0 || cfg.Parallel == 0 || cfg.Reserve != 0 {
		t.Errorf("defaults are %+v", cfg)
	}
}

func TestPlainHTTP(t *testing.T) {
	cfg := ImagesConfig{PlainHTTP: []string{"registry.lan", "other.lan:5000"}}
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.9.9.9": true, "[::1]:5000": true,
		"registry.lan": true, "registry.lan:8080": true, "other.lan:5000": true, "other.lan": false,
		"docker.io": false, "10.0.0.1:5000": false, "localhost.evil.test": false, "127.0.0.1.evil.test": false,
	} {
		if got := cfg.plainHTTP(host); got != want {
			t.Errorf("plain http to %s is %v, want %v", host, got, want)
		}
	}
}

func TestRecordList(t *testing.T) {
	ref, err := parseRef("redis:7", someDigest)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ref.exact(digest.Digest(someDigest)), "docker.io/library/redis@"+someDigest; got != want {
		t.Errorf("exact name is %s, want %s", got, want)
	}
	if !tagged(ref.name()) || tagged(ref.exact(ref.digest)) {
		t.Error("names by tag and by digest are mixed up")
	}
}
