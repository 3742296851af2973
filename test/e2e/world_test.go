//go:build e2e

// Package e2e does on a real machine what a user would do, and breaks things in
// every way that a site must survive. All tests share one whole site: they run
// one after the other, and each leaves it ready.
package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/test/registry"
)

// The one site of all tests.
const (
	host      = "campus.localhost"
	studio    = "studio.campus.localhost"
	httpPort  = "18080"
	httpsPort = "18443"
)

// world is a site under test and the processes that make it.
type world struct {
	root     string
	binary   string
	registry string
	server   *registry.Server
	network  netns.NsHandle // of its own; 0: the tests' own
	daemon   *process
	proxy    *process
	client   *control.Client
	title    string // the site's name
}

var (
	site *world
	// random moments come from here; its seed is printed and can be given
	// again with TARIMA_E2E_SEED.
	dice *rand.Rand
	full = os.Getenv("TARIMA_E2E_FULL") != ""
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the end-to-end tests start containers: run them as root")
		return 1
	}
	if os.Getenv(insideEnv) == "" {
		return inside()
	}
	if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, "loopback of the tests' network:", err)
		return 1
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TARIMA_E2E_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			fmt.Fprintln(os.Stderr, "TARIMA_E2E_SEED:", err)
			return 1
		}
	}
	fmt.Printf("seed: TARIMA_E2E_SEED=%d\n", seed)
	dice = rand.New(rand.NewPCG(seed, 0))

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var err error
	if site, err = newWorld(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer site.destroy()
	before := time.Now()
	if err := site.waitReady(ctx, 10*time.Minute); err != nil {
		fmt.Fprintln(os.Stderr, "the site did not come up:", err)
		site.dump(os.Stderr)
		return 1
	}
	fmt.Printf("the site is ready after %s\n", time.Since(before).Round(time.Second))
	code := m.Run()
	if code != 0 {
		site.dump(os.Stderr)
	}
	return code
}

// newWorld starts the one site that all tests share.
func newWorld(ctx context.Context) (*world, error) {
	w, err := emptyWorld(ctx, "/var/lib/tarima-e2e", 0)
	if err != nil {
		return nil, err
	}
	if err := w.writeSiteFile(""); err != nil {
		return nil, err
	}
	if err := w.startProxy(); err != nil {
		return nil, err
	}
	return w, w.startDaemon()
}

// emptyWorld is a folder and a registry in a network, in which nothing runs yet.
func emptyWorld(ctx context.Context, root string, network netns.NsHandle) (*world, error) {
	top, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	w := &world{title: "Campus Tarima", root: root, network: network, binary: filepath.Join(top, "bin", "tarima")}
	if other := os.Getenv("TARIMA_E2E_BINARY"); other != "" {
		w.binary = other // one with a mechanism switched off, see test/mutation
	}
	images := filepath.Join(top, "dist", "images")
	for _, need := range []string{w.binary, filepath.Join(top, "bin", "runc"), images} {
		if _, err := os.Stat(need); err != nil {
			return nil, fmt.Errorf("%w; make build images makes it", err)
		}
	}
	w.client = control.NewClient(filepath.Join(w.root, "run"))
	w.destroy() // what a test run that was killed left
	if err := os.MkdirAll(w.root, 0o711); err != nil {
		return nil, err
	}
	w.server = &registry.Server{Dirs: []string{images}}
	if _, err := w.server.Names(); err != nil {
		return nil, err
	}
	var listener net.Listener
	err = w.inside(func() (err error) {
		listener, err = registry.Listen(ctx, "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, err
	}
	w.registry = listener.Addr().String()
	go func() {
		if err := http.Serve(listener, w.server); err != nil && !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(os.Stderr, "registry:", err)
		}
	}()
	return w, nil
}

// siteFile is the site file with more tables behind it.
func (w *world) siteFile(more string) string {
	return fmt.Sprintf(`[site]
host = %q
name = %q
contact = "hello@campus.localhost"
release = "campus"

[proxy]
http = "127.0.0.1:%s"
https = "127.0.0.1:%s"
hold = "5s"

[network]
range4 = "10.214.0.0/24"

[size]
memory = "8GB"

[images.mirrors]
"registry.test" = ["http://%s"]

%s`, host, w.title, httpPort, httpsPort, w.registry, more)
}

func (w *world) writeSiteFile(more string) error { return w.write(w.siteFile(more)) }

func (w *world) write(siteFile string) error {
	return os.WriteFile(filepath.Join(w.root, "tarima.toml"), []byte(siteFile), 0o644)
}

func (w *world) status(t *testing.T) supervisor.SiteStatus {
	t.Helper()
	s, err := w.client.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func service(s supervisor.SiteStatus, name string) supervisor.ServiceStatus {
	for _, one := range s.Services {
		if one.Name == name {
			return one
		}
	}
	return supervisor.ServiceStatus{}
}

func (w *world) waitReady(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	var last error
	for time.Now().Before(deadline) {
		s, err := w.client.Status(ctx)
		switch {
		case err != nil:
			last = err
		case s.Overall == supervisor.OverallReady:
			if last = w.atRest(ctx, s); last == nil {
				return nil
			}
		default:
			last = errors.New(notReady(s))
		}
		if w.daemon != nil && !w.daemon.alive() {
			return fmt.Errorf("the daemon has ended; last: %w", last)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("not ready after %s: %w", patience, last)
}

// atRest says what is still to come in a site that is ready: one that serves
// may wait with a replacement for a job.
func (w *world) atRest(ctx context.Context, s supervisor.SiteStatus) error {
	for _, one := range s.Services {
		if one.State == supervisor.StateReady && one.Why != "" {
			return fmt.Errorf("%s: %s", one.Name, one.Why)
		}
	}
	plan, err := w.client.Plan(ctx, nil)
	if err == nil && len(plan.Steps) > 0 {
		err = fmt.Errorf("to be done: %v", plan.Steps)
	}
	return err
}

func notReady(s supervisor.SiteStatus) string {
	text := "site is " + string(s.Overall)
	for _, one := range s.Services {
		if one.State != supervisor.StateReady {
			text += fmt.Sprintf("; %s %s: %s", one.Name, one.State, one.Why)
		}
	}
	for _, job := range s.Jobs {
		if job.State != record.JobSucceeded {
			text += fmt.Sprintf("; job %s %s: %s %s", job.Name, job.State, job.Why, job.Message)
		}
	}
	return text + "; " + strings.Join(s.Trouble, "; ")
}

func (w *world) mustBeReady(t *testing.T) supervisor.SiteStatus {
	t.Helper()
	if err := w.waitReady(context.Background(), 4*time.Minute); err != nil {
		t.Fatal(err)
	}
	return w.status(t)
}

// pids of all services that run.
func pids(s supervisor.SiteStatus) map[string]int {
	all := map[string]int{}
	for _, one := range s.Services {
		all[one.Name] = one.PID
	}
	return all
}

// samePids fails when another service than those named has another process.
func samePids(t *testing.T, before, after supervisor.SiteStatus, but ...string) {
	t.Helper()
	now := pids(after)
	for name, pid := range pids(before) {
		if !slices.Contains(but, name) && now[name] != pid {
			t.Errorf("%s was touched: process %d became %d", name, pid, now[name])
		}
	}
}

// events after a sequence number.
func (w *world) events(t *testing.T, after uint64) []record.Event {
	t.Helper()
	var all []record.Event
	for {
		some, err := w.client.Events(context.Background(), after, 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
		after = some[len(some)-1].Seq
	}
}

func (w *world) lastSeq(t *testing.T) uint64 {
	t.Helper()
	all := w.events(t, 0)
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].Seq
}

// browser is a visitor who trusts the site's own authority.
func (w *world) browser() (*http.Client, error) {
	pem, err := os.ReadFile(filepath.Join(w.root, "proxy", "ca", "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("ca.pem holds no certificate")
	}
	var dialer net.Dialer
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots},
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "tcp", "127.0.0.1:"+httpsPort)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// get asks the site as a browser would.
func (w *world) get(ctx context.Context, host, path string) (int, string, error) {
	client, err := w.browser()
	if err != nil {
		return 0, "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+":"+httpsPort+path, nil)
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Accept", "text/html")
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// eventually waits until check returns nil.
func eventually(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// dump shows what a person would look at.
func (w *world) dump(out io.Writer) {
	for _, args := range [][]string{{"status"}, {"events", "-n", "60"}} {
		cmd := w.tarima(context.Background(), append([]string{"--lang", "en"}, args...)...)
		text, _ := cmd.CombinedOutput() // the exit code says how the site is
		fmt.Fprintf(out, "\n== tarima %s\n%s", strings.Join(args, " "), text)
	}
	for _, name := range []string{"daemon.log", "proxy.log"} {
		data, err := os.ReadFile(filepath.Join(w.root, "log", name))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(out, "\n== last lines of %s\n%s\n", name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}
