package openedx

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"

	"tarima/supervisor/site"
)

// testSecrets gives the same secret for the same name, each time.
func testSecrets(t testing.TB) SecretFunc {
	t.Helper()
	key, err := os.ReadFile("testdata/jwt-test-only.pem")
	if err != nil {
		t.Fatal(err)
	}
	return func(name string, _ func() (string, error)) (string, error) {
		switch name {
		case SecretJWT:
			return string(key), nil
		case SecretMeilisearchUID:
			return "00000000-0000-4000-8000-000000000000", nil
		}
		sum := sha256.Sum256([]byte("test " + name))
		return "secret-" + name[:4] + "-" + hex.EncodeToString(sum[:12]), nil
	}
}

// testHost is a small server.
func testHost() site.Host { return site.Host{Memory: 8 * site.GiB, Cores: 2} }

// testInput is a complete input; change edits the file before its defaults.
func testInput(t testing.TB, change func(*site.Config)) Input {
	t.Helper()
	var c site.Config
	c.Site.Host = "learn.example.org"
	c.Site.Name = "Escuela de Música"
	c.Site.Language = "es-419"
	c.Site.Release = "campus"
	c.Proxy.TLS = site.TLSLocal
	if change != nil {
		change(&c)
	}
	c = site.Defaults(c, testHost())
	return Input{
		Site: "default", Config: c, Generation: 1, Secrets: testSecrets(t),
		Dirs: Dirs{Config: "/var/lib/tarima/sites/default/config", Data: "/var/lib/tarima/sites/default/data"},
	}
}

func mustBuild(t testing.TB, in Input) Plan {
	t.Helper()
	plan, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func fileOf(t testing.TB, p Plan, path string) []byte {
	t.Helper()
	for _, f := range p.Files {
		if f.Path == path {
			return f.Content
		}
	}
	t.Fatalf("no file %s in the plan", path)
	return nil
}
