package main

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"tarima/proxy"
	"tarima/runtime/container"
	"tarima/store"
	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/openedx"
	"tarima/supervisor/site"
)

// emptyEngine has no containers and starts none: what the door says of a site
// does not depend on them.
type emptyEngine struct{ supervisor.Engine }

func (emptyEngine) List(context.Context, string) ([]container.Status, error) { return nil, nil }

func (emptyEngine) Events(ctx context.Context) <-chan container.Event {
	c := make(chan container.Event)
	go func() { <-ctx.Done(); close(c) }()
	return c
}

func (emptyEngine) HasImage(context.Context, string, string) (bool, error) {
	return false, io.ErrUnexpectedEOF
}

func (emptyEngine) Pull(context.Context, string, string, func(container.Progress)) (container.Image, error) {
	return container.Image{}, io.ErrUnexpectedEOF
}

func (emptyEngine) Usage(context.Context, string) ([]container.Usage, error) { return nil, nil }

// noNetwork is never ready.
type noNetwork struct{ supervisor.Network }

func (noNetwork) Apply(context.Context, container.Topology) error { return io.ErrUnexpectedEOF }

// TestDoorOfASiteFile brings a site file through every part up to a visitor:
// parsed, built, put by the supervisor over the proxy's socket, and asked for
// over HTTPS.
func TestDoorOfASiteFile(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "app "+r.Host+" "+r.URL.Path)
	}))
	t.Cleanup(app.Close)
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("clave"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, []byte("ana:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := parseSiteFile("tarima.toml", []byte(`
[site]
host = "learn.test"
[proxy]
hsts = "1h"
closed = true
hold = "0s"
[proxy.redirects]
"www.test" = "learn.test"
[proxy.auth."studio.learn.test"]
users = "`+users+`"
[proxy.headers."apps.learn.test"]
X-Own = "yes"
[proxy.limits.login]
burst = 2
every = "1h"
[proxy.block]
paths = ["/old/"]
[proxy.apps.blog]
host = "blog.test"
address = "`+app.Listener.Addr().String()+`"
[proxy.apps.notes]
host = "learn.test"
paths = ["/notes/"]
address = "`+app.Listener.Addr().String()+`"
rewrite = "/"
`))
	if err != nil {
		t.Fatal(err)
	}
	ask, s := serveDoor(t, dir, config)
	for _, c := range []struct {
		what, method, url string
		status            int
		header, value     string
		body              string
	}{
		{"redirect", "GET", "https://www.test/a?b", 308, "Location", "https://learn.test/a?b", ""},
		{"blocked", "GET", "https://learn.test/wp-login.php", 404, "Strict-Transport-Security", "max-age=3600", ""},
		{"blocked by the file", "GET", "https://learn.test/old/x", 404, "", "", ""},
		{"robots", "GET", "https://apps.learn.test/robots.txt", 200, "X-Own", "yes", "Disallow: /"},
		{"LMS that does not run", "GET", "https://learn.test/", 503, "X-Robots-Tag", "noindex, nofollow", ""},
		{"password", "GET", "https://studio.learn.test/", 401, "WWW-Authenticate", `Basic realm="studio.learn.test", charset="UTF-8"`, ""},
		{"with it", "GET", "https://ana:clave@studio.learn.test/", 503, "", "", ""},
		{"application", "GET", "https://blog.test/x", 200, "", "", "app blog.test /x"},
		{"path of one", "GET", "https://learn.test/notes/x", 200, "", "", "app learn.test /x"},
		{"login", "POST", "https://learn.test/login_ajax", 503, "", "", ""},
		{"login again", "POST", "https://learn.test/api/user/v2/account/login_session/", 503, "", "", ""},
		{"login too often", "POST", "https://learn.test/login_ajax", 429, "Retry-After", "3", ""},
	} {
		resp, body := ask(c.method, c.url)
		if resp.StatusCode != c.status || !strings.Contains(body, c.body) || !strings.HasPrefix(resp.Header.Get(c.header), c.value) {
			t.Errorf("%s: %s, %s: %q, %s", c.what, resp.Status, c.header, resp.Header.Get(c.header), body)
		}
	}
	// Closed for maintenance by the daemon, and open again.
	if err := s.Maintain(t.Context(), record.Maintenance{Hosts: []string{"blog.test"}, Pass: "a-pass-of-this-test"}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the closed page", func() bool { resp, _ := ask("GET", "https://blog.test/x"); return resp.StatusCode == 503 })
	if resp, _ := ask("GET", "https://blog.test/-/pass/a-pass-of-this-test"); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("the pass: %s", resp.Status)
	}
	if err := s.Maintain(t.Context(), record.Maintenance{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the open site", func() bool { resp, _ := ask("GET", "https://blog.test/x"); return resp.StatusCode == 200 })
}

// serveDoor runs a proxy and a supervisor of that site, and returns how to ask.
func serveDoor(t *testing.T, dir string, config site.Config) (func(method, url string) (*http.Response, string), *supervisor.Supervisor) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(t.Context(), store.Config{Dir: filepath.Join(dir, "store"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	run := func(f func(context.Context) error) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- f(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	socket := filepath.Join(dir, "routes.sock")
	run(func(ctx context.Context) error {
		return proxy.Run(ctx, proxy.Config{
			HTTP: []string{listeners[0].Addr().String()}, HTTPS: []string{listeners[1].Addr().String()}, PublicPort: 443,
			Listeners: listeners, Dir: filepath.Join(dir, "proxy"), Socket: socket, Logger: log,
			Hold: proxy.Hold{Timeout: holdTime(config)},
		})
	})
	router := proxy.NewClient(socket)
	s, err := supervisor.New(supervisor.Config{
		Site: defaultSite, Engine: emptyEngine{}, Network: noNetwork{}, Store: st, Router: router, Logger: log,
		Prefix4: config.Network.Range4, Resolvers: func() ([]netip.Addr, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	door, err := doorSecrets(config)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := openedx.Build(openedx.Input{
		Site: defaultSite, Config: config, Door: door, Dirs: openedx.Dirs{Config: filepath.Join(dir, "config"), Data: filepath.Join(dir, "data")},
		Secrets: func(name string, generate func() (string, error)) (string, error) {
			return st.Secret(defaultSite, name, generate)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), plan.Desired, record.Applied{Generation: 1, SiteFile: []byte("x"), Release: config.Site.Release}); err != nil {
		t.Fatal(err)
	}
	run(s.Run)

	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, listeners[1].Addr().String())
		},
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the test's own proxy; certificates are tried elsewhere
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method, url string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return &http.Response{Status: err.Error(), Header: http.Header{}}, ""
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	waitFor(t, "the routes", func() bool { resp, _ := ask("GET", "https://blog.test/"); return resp.StatusCode == 200 })
	return ask, s
}

// waitFor polls a condition that another goroutine brings about.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}
