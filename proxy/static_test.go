package proxy

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tarima/proxy/routes"
)

func TestStaticFiles(t *testing.T) {
	base := t.TempDir()
	static := filepath.Join(base, "static")
	for name, text := range map[string]string{
		"secret": "secret", "static/outside": "outside", "static/mfe/authoring/index.html": "<p>index",
		"static/mfe/authoring/app.3f9a77c2.js": "js", "static/mfe/authoring/sub/index.html": "<p>sub", "static/mfe/authoring/.hidden": "hidden",
	} {
		file := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../../secret", filepath.Join(static, "mfe/authoring/link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(static, "mfe/authoring/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, func(c *Config) { c.StaticDir = func(string) string { return static } })
	s := one(1, "", routes.Hold)
	s.Hosts[0].Rules = []routes.Rule{
		{Path: "/authoring/", Root: "mfe/authoring", SPA: true},
		{Path: "/plain/", Root: "mfe/authoring"},
		{Path: "/none/", Root: "none"},
		{Path: "/exact.js", Root: "mfe/authoring"},
	}
	r.put(s)
	browser := r.browser(true)
	for _, c := range []struct {
		path, body, cache string
		status            int
	}{
		{"/authoring/", "<p>index", "no-cache", 200},
		{"/authoring/course/1", "<p>index", "no-cache", 200},
		{"/authoring/app.3f9a77c2.js", "js", "public, max-age=31536000, immutable", 200},
		{"/plain/sub/", "<p>sub", "no-cache", 200},
		{"/plain/nothing", "", "no-store", 404},
		{"/plain/.hidden", "", "no-store", 404},
		{"/plain/link", "", "no-store", 404},
		{"/plain/pipe", "", "no-store", 404},
		{"/plain/..%2foutside", "", "no-store", 400},
		{"/plain/%2e%2e/%2e%2e/outside", "", "no-store", 400},
		{"/plain//app.3f9a77c2.js", "js", "public, max-age=31536000, immutable", 200},
		{"/plain/%2fetc/passwd", "", "no-store", 404},
		{"/none/x", "", "no-store", 404},
		{"/exact.js", "", "no-store", 404},
	} {
		resp, body := r.get(browser, "https://lms.test"+c.path)
		if resp.StatusCode != c.status || c.status == 200 && body != c.body || resp.Header.Get("Cache-Control") != c.cache {
			t.Errorf("%s: %s %q, Cache-Control %q", c.path, resp.Status, body, resp.Header.Get("Cache-Control"))
		}
		if strings.Contains(body, "secret") || strings.Contains(body, "outside") || strings.Contains(body, "hidden") {
			t.Errorf("%s gave %q", c.path, body)
		}
	}
	resp, _ := r.get(browser, "https://lms.test/authoring/")
	if resp, _ := r.get(browser, "https://lms.test/authoring/", "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != http.StatusNotModified {
		t.Errorf("asked again: %s", resp.Status)
	}
	if resp, body := r.get(browser, "https://lms.test/authoring/", "Range", "bytes=3-"); resp.StatusCode != http.StatusPartialContent || body != "index" {
		t.Errorf("range: %s %q", resp.Status, body)
	}
	req, _ := http.NewRequest(http.MethodPost, "https://lms.test/authoring/", strings.NewReader("x"))
	if resp, _ := r.do(browser, req); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}
