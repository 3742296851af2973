//go:build e2e

// Package door attacks and loads the public door: the proxy as it is shipped,
// in a process of its own, on the loopback.
package door

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarima/proxy"
	"tarima/proxy/routes"
	"tarima/test/host"
)

// target is a proxy in a process of its own.
type target struct {
	t           testing.TB
	dir         string
	http, https string // addresses
	static      string // folder of the site's static files
	state       string // folder of the proxy's own
	socket      string
	client      *proxy.Client
	process     *exec.Cmd
	said        *record
}

// record is what a process says.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// built is the path of a program in bin.
func built(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: make e2e builds it", err)
	}
	return path
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// shipped starts "tarima proxy".
func shipped(t testing.TB) *target {
	d := newTarget(t)
	d.static, d.state = filepath.Join(d.dir, "sites", "default", "static"), filepath.Join(d.dir, "proxy")
	d.socket = filepath.Join(d.dir, "run", "proxy", "routes.sock")
	d.begin(built(t, "tarima"), "proxy", "--root", d.dir, "--http", d.http, "--https", d.https)
	return d
}

// wide starts the proxy with room for so many connections, all of them of one
// address if need be, whatever the machine's size.
func wide(t testing.TB, connections int) *target {
	d := newTarget(t)
	d.static, d.state, d.socket = filepath.Join(d.dir, "static"), filepath.Join(d.dir, "state"), filepath.Join(d.dir, "proxy.sock")
	d.begin(built(t, "bench-door"), "proxy", "-root", d.dir, "-http", d.http, "-https", d.https, "-connections", strconv.Itoa(connections))
	return d
}

func newTarget(t testing.TB) *target {
	t.Helper()
	return &target{t: t, dir: t.TempDir(), http: freePort(t), https: freePort(t), said: &record{}}
}

func (d *target) begin(program string, args ...string) {
	d.t.Helper()
	d.process = exec.Command(program, args...)
	d.process.Stdout, d.process.Stderr = d.said, d.said
	// Successors are its children and end with the group.
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if p := d.pid(); p > 0 && d.process.ProcessState == nil {
			_ = syscall.Kill(p, syscall.SIGTERM)
		}
		ended := make(chan struct{})
		go func() { _ = d.process.Wait(); close(ended) }()
		eventually(d.t, "the proxy ends", func() bool { return d.pid() == 0 })
		_ = syscall.Kill(-d.process.Process.Pid, syscall.SIGKILL)
		<-ended
		if said := d.said.String(); strings.Contains(said, "panic") || strings.Contains(said, "fatal error") {
			d.t.Error("the proxy panicked")
		}
		if d.t.Failed() {
			said := d.said.String()
			d.t.Logf("the proxy said:\n%s", said[max(0, len(said)-8000):])
		}
	})
	d.client = proxy.NewClient(d.socket)
	eventually(d.t, "the proxy is there", func() bool { return d.pid() != 0 })
}

// pid of the process that answers; 0: none.
func (d *target) pid() int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	state, err := d.client.State(ctx)
	if err != nil {
		return 0
	}
	return state.PID
}

func (d *target) put(s routes.Snapshot) {
	d.t.Helper()
	if ack, err := d.client.Put(context.Background(), s); err != nil || ack.Error != "" {
		d.t.Fatalf("routes: %+v, %v", ack, err)
	}
}

// site is one host, lms.test.
func site(generation uint64, upstream string) routes.Snapshot {
	return routes.Snapshot{
		Schema: routes.Schema, Generation: generation, TLS: routes.TLS{Mode: "local"},
		Page:  routes.Page{SiteName: "Escuela de Prueba", Language: "es"},
		Hosts: []routes.Host{{Name: "lms.test", Site: "default", Service: "lms", Upstream: upstream, State: routes.Ready}},
	}
}

func application(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// gauge is a figure of the proxy, as for Prometheus.
func (d *target) gauge(name string) float64 {
	d.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.socket)
	}}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	resp, err := client.Get("http://proxy/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "tarima_proxy_"+name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				d.t.Fatal(err)
			}
			return n
		}
	}
	d.t.Fatalf("no figure %s", name)
	return 0
}

// pss of the proxy in bytes.
func (d *target) pss() int64 {
	d.t.Helper()
	n, err := host.PSS(d.process.Process.Pid)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

func (d *target) trust() *tls.Config {
	d.t.Helper()
	root, err := os.ReadFile(filepath.Join(d.state, "ca", "ca.pem"))
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(root) {
		d.t.Fatalf("no root certificate: %v", err)
	}
	return &tls.Config{RootCAs: pool, ServerName: "lms.test"}
}

// local is an address of this machine to come from.
func local(n int) *net.TCPAddr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+n/250), byte(1+n%250))}
}

// browser comes from an address of its own.
func (d *target) browser(h2 bool, from int) *http.Client {
	d.t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			dialer := net.Dialer{LocalAddr: local(from)}
			return dialer.DialContext(ctx, network, d.https)
		},
		TLSClientConfig: d.trust(), Protocols: protocols, DisableCompression: true, MaxIdleConnsPerHost: 64,
	}
	d.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// page asks, and wants the answer to be 200 and these words.
func page(browser *http.Client, url, want string) error {
	resp, err := browser.Get(url)
	return isPage(resp, err, want)
}

func isPage(resp *http.Response, err error, want string) error {
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != want) {
		err = fmt.Errorf("%s, %d bytes: %.60q", resp.Status, len(body), body)
	}
	return err
}

// eventually polls what another process brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// crowd are visitors who do one thing after another until they are stopped.
type crowd struct {
	stop context.CancelFunc
	ctx  context.Context
	wait sync.WaitGroup

	mu     sync.Mutex
	ok     map[string]int
	failed map[string][]string
}

func newCrowd(t testing.TB) *crowd {
	c := &crowd{ok: map[string]int{}, failed: map[string][]string{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	t.Cleanup(func() { c.stop(); c.wait.Wait() })
	return c
}

func (c *crowd) join(n int, what string, do func() error) {
	for range n {
		c.wait.Go(func() {
			for c.ctx.Err() == nil {
				err := do()
				c.mu.Lock()
				if err != nil {
					c.failed[what] = append(c.failed[what], err.Error())
				} else {
					c.ok[what]++
				}
				c.mu.Unlock()
			}
		})
	}
}

// answered is how often all together were, and how often not.
func (c *crowd) answered() (ok, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.ok {
		ok += n
	}
	for _, all := range c.failed {
		failed += len(all)
	}
	return ok, failed
}

// goOn waits for so many further answers.
func (c *crowd) goOn(t testing.TB, n int) {
	t.Helper()
	before, _ := c.answered()
	eventually(t, "answers", func() bool { ok, failed := c.answered(); return failed > 0 || ok >= before+n })
}

// end wants that nothing failed.
func (c *crowd) end(t testing.TB) {
	t.Helper()
	c.stop()
	c.wait.Wait()
	t.Logf("answered: %v", c.ok)
	for what, all := range c.failed {
		t.Errorf("%s: %d failed, the first with: %s", what, len(all), all[0])
	}
}
