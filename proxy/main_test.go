package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tarima/proxy/routes"
)

func TestMain(m *testing.M) {
	// The tests that kill an upstream run this binary as the upstream.
	if address := os.Getenv("PROXY_TEST_UPSTREAM"); address != "" {
		upstreamProcess(address)
		return
	}
	if cfg := os.Getenv("PROXY_TEST_SUCCESSOR"); cfg != "" {
		os.Exit(successorProcess(cfg))
	}
	goleak.VerifyTestMain(m,
		// The test authority's validator and certmagic's limiter of orders,
		// both kept for the life of the process.
		goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"))
}

// running is a proxy with real sockets.
type running struct {
	t      testing.TB
	cfg    Config
	http   string // address
	https  string
	client *Client
	access *lines
	logs   *lines
	stop   func() error
}

// lines collects what a logger writes.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func listenLocal(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// start runs a proxy on loopback until the test ends.
func start(t testing.TB, change ...func(*Config)) *running {
	t.Helper()
	plain, secure := listenLocal(t), listenLocal(t)
	r := &running{t: t, http: plain.Addr().String(), https: secure.Addr().String(), access: &lines{}, logs: &lines{}}
	dir := t.TempDir()
	ready := make(chan struct{})
	var once sync.Once
	r.cfg = Config{
		HTTP: []string{r.http}, HTTPS: []string{r.https}, Listeners: []net.Listener{plain, secure},
		Dir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "proxy.sock"),
		Logger:    slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		AccessLog: r.access, Grace: 5 * time.Second,
		Notify: func(state string) {
			if strings.HasPrefix(state, "READY=1") {
				once.Do(func() { close(ready) })
			}
		},
	}
	for _, c := range change {
		c(&r.cfg)
	}
	r.client = NewClient(r.cfg.Socket)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, r.cfg) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		r.client.close()
		return <-ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("proxy ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of the proxy:\n%s", r.logs)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("proxy did not start: %v", err)
	}
	return r
}

func (r *running) put(s routes.Snapshot) {
	r.t.Helper()
	if ack, err := r.client.Put(context.Background(), s); err != nil || ack.Error != "" {
		r.t.Fatalf("put: %+v, %v", ack, err)
	}
}

// get asks over HTTPS with a browser's Accept unless the header says else.
func (r *running) get(client *http.Client, url string, header ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(client, req, header...)
}

func (r *running) do(client *http.Client, req *http.Request, header ...string) (*http.Response, string) {
	r.t.Helper()
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: body: %v", req.Method, req.URL, err)
	}
	return resp, string(data)
}

// logged is the access log of all that was answered by now: its lines come in
// their order, and are written together.
func (r *running) logged() string {
	r.t.Helper()
	mark := "/mark/" + rand.Text()
	req, err := http.NewRequest(http.MethodGet, "http://"+r.http+mark, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = resp.Body.Close()
	until(r.t, "a line in the access log", func() bool { return strings.Contains(r.access.String(), mark) })
	return r.access.String()
}

func (r *running) pool() *x509.CertPool {
	r.t.Helper()
	root, err := os.ReadFile(filepath.Join(r.cfg.Dir, "ca", "ca.pem"))
	if err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		r.t.Fatal("ca.pem holds no certificate")
	}
	return pool
}

// browser trusts the proxy's authority and finds every name at the proxy. It
// follows no redirects.
func (r *running) browser(h2 bool) *http.Client {
	r.t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := r.https
			if strings.HasSuffix(address, ":80") {
				to = r.http
			}
			var d net.Dialer
			return d.DialContext(ctx, network, to)
		},
		TLSClientConfig: &tls.Config{RootCAs: r.pool()},
		Protocols:       protocols, DisableCompression: true, MaxIdleConnsPerHost: 64,
	}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// upstreamServer answers with what it saw.
func upstreamServer(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func echo() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(seen{Method: r.Method, URI: r.RequestURI, Host: r.Host, Header: r.Header, Body: len(body)})
	})
}

type seen struct {
	Method, URI, Host string
	Header            http.Header
	Body              int
}

func address(s *httptest.Server) string { return s.Listener.Addr().String() }

// one host, lms.test, of the service lms.
func one(generation uint64, upstream string, state routes.State) routes.Snapshot {
	return routes.Snapshot{
		Schema: routes.Schema, Generation: generation, TLS: routes.TLS{Mode: "local"},
		Page: routes.Page{SiteName: "Escuela de Prueba", Contact: "ayuda@escuela.test", Language: "es"},
		Hosts: []routes.Host{{
			Name: "lms.test", Site: "default", Service: "lms", Upstream: upstream, State: state,
		}},
	}
}

// until polls a condition that another goroutine or process brings about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// raw writes bytes to an address and returns all that comes back until the
// other side closes or is quiet after an answer.
func raw(t testing.TB, conn net.Conn, request string) string {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return fmt.Sprintf("write: %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Sprintf("closed: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.Status + "\n" + string(body)
}

func (r *running) tryTLS(name string, protocols ...string) (*tls.Conn, error) {
	return tls.Dial("tcp", r.https, &tls.Config{RootCAs: r.pool(), ServerName: name, NextProtos: protocols})
}

func (r *running) dialTLS(name string, protocols ...string) *tls.Conn {
	r.t.Helper()
	c, err := r.tryTLS(name, protocols...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")
