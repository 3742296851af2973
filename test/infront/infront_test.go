//go:build e2e

// Package infront runs the web servers that may stand in front of Tarima, real
// ones with the configuration that the documentation gives.
package infront

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/proxy"
	"tarima/proxy/routes"
)

const host = "learn.example.org"

// visitor is an address of this machine that is not the web server's own.
const visitor = "127.0.0.7"

// page is what the application saw of a request.
type page struct {
	Method, URI, Host, Client, Proto, Port string
	Bytes                                  int64
}

func application(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Upgrade") != "":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	case r.URL.Path == "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	default:
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_ = json.NewEncoder(w).Encode(page{
			Method: r.Method, URI: r.RequestURI, Host: r.Host, Client: r.Header.Get("X-Forwarded-For"),
			Proto: r.Header.Get("X-Forwarded-Proto"), Port: r.Header.Get("X-Forwarded-Port"), Bytes: n,
		})
	}
}

// world is a proxy with tls = "none" and a folder for a web server.
type world struct {
	dir         string // readable for all
	http, https string // addresses of the web server
	certificate string
	key         string
	pool        *x509.CertPool
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func newWorld(t *testing.T, change ...func(*proxy.Config, *routes.Snapshot)) *world {
	t.Helper()
	dir := t.TempDir()
	// The web servers' own user has to come this far.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{dir: dir, http: free(t), https: free(t), certificate: dir + "/fullchain.pem", key: dir + "/privkey.pem", pool: x509.NewCertPool()}
	w.certify(t)
	up := httptest.NewServer(http.HandlerFunc(application))
	t.Cleanup(up.Close)
	ready := make(chan struct{})
	logs, err := os.Create(dir + "/proxy.log")
	if err != nil {
		t.Fatal(err)
	}
	cfg := proxy.Config{
		HTTP: []string{"unix:" + w.socket()}, UnixGroup: "www-data", Dir: dir + "/state", Socket: dir + "/control.sock",
		Logger: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Grace:  time.Second,
		Notify: func(state string) {
			if strings.HasPrefix(state, "READY=1") {
				close(ready)
			}
		},
	}
	snapshot := routes.Snapshot{Schema: routes.Schema, Generation: 1, TLS: routes.TLS{Mode: "none"}, Hosts: []routes.Host{{
		Name: host, Site: "default", Service: "lms", Upstream: up.Listener.Addr().String(), State: routes.Ready,
	}}}
	for _, c := range change {
		c(&cfg, &snapshot)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- proxy.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("proxy: %v", err)
		}
		if t.Failed() {
			data, _ := os.ReadFile(dir + "/proxy.log")
			t.Logf("log of the proxy:\n%s", data)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("proxy: %v", err)
	}
	if ack, err := proxy.NewClient(cfg.Socket).Put(ctx, snapshot); err != nil || ack.Error != "" {
		t.Fatalf("%+v, %v", ack, err)
	}
	return w
}

func (w *world) socket() string { return w.dir + "/door.sock" }

// certify makes a certificate as an authority of one's own would.
func (w *world) certify(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		w.certificate: {Type: "CERTIFICATE", Bytes: der},
		w.key:         {Type: "PRIVATE KEY", Bytes: secret},
	} {
		// Caddy reads them without root's rights; they are of no value.
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	w.pool.AddCert(leaf)
}

// documented is the block of a language in the documentation, with this
// world's places in place of the usual ones.
func (w *world) documented(t *testing.T, language string) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/behind-a-web-server.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(data), "```"+language+"\n")
	block, _, closed := strings.Cut(rest, "\n```")
	if !found || !closed {
		t.Fatalf("no %s in the documentation", language)
	}
	for from, to := range map[string]string{
		"/run/tarima-proxy/door.sock":                           w.socket(),
		"/etc/letsencrypt/live/learn.example.org/fullchain.pem": w.certificate,
		"/etc/letsencrypt/live/learn.example.org/privkey.pem":   w.key,
	} {
		if language != "caddyfile" && !strings.Contains(block, from) {
			t.Fatalf("%s is not in the block for %s", from, language)
		}
		block = strings.ReplaceAll(block, from, to)
	}
	return block
}

func (w *world) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// run a web server in the foreground until the test ends.
func (w *world) run(t *testing.T, stop syscall.Signal, name string, args ...string) {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: test/setup e2e installs it", err)
	}
	var out bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, &out, &out
	cmd.Env = append(os.Environ(), "HOME="+w.dir, "XDG_DATA_HOME="+w.dir+"/data", "XDG_CONFIG_HOME="+w.dir+"/config")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(stop)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, out.String())
		}
	})
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.Dial("tcp", w.https)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended:\n%s", name, out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v", name, err)
		}
	}
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// dialer connects as the visitor.
func dialer(ctx context.Context, _, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(visitor)}}
	return d.DialContext(ctx, "tcp", "127.0.0.1:"+port(address))
}

func (w *world) browser(t *testing.T, h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{DialContext: dialer, TLSClientConfig: &tls.Config{RootCAs: w.pool}, Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// check what a visitor needs.
func (w *world) check(t *testing.T) {
	site := "https://" + host + ":" + port(w.https)
	for _, h2 := range []bool{false, true} {
		browser := w.browser(t, h2)
		for _, c := range []struct {
			name, method, path string
			size               int64
		}{
			{"page", http.MethodGet, "/courses/course-v1:Org+C1+R/a%2Fb?q=a;b&c=%C3%B1", 0},
			{"upload", http.MethodPost, "/import", 30 << 20},
		} {
			t.Run(fmt.Sprintf("%s, h2 %v", c.name, h2), func(t *testing.T) {
				req, err := http.NewRequest(c.method, site+c.path, io.LimitReader(zeros{}, c.size))
				if err != nil {
					t.Fatal(err)
				}
				if req.ContentLength = c.size; c.size == 0 {
					req.Body = nil
				}
				req.Header.Set("X-Forwarded-For", "6.6.6.6")
				resp, err := browser.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				var got page
				if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
					t.Fatalf("%s: %v", resp.Status, err)
				}
				want := page{
					Method: c.method, URI: c.path, Host: host + ":" + port(w.https), Client: visitor, Proto: "https", Port: port(w.https), Bytes: c.size,
				}
				if got != want {
					t.Errorf("the application saw\n%+v, want\n%+v", got, want)
				}
			})
		}
		t.Run(fmt.Sprintf("events, h2 %v", h2), func(t *testing.T) {
			resp, err := browser.Get(site + "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			first := make([]byte, 9)
			if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "data: 1\n\n" {
				t.Errorf("%q, %v", first, err)
			}
		})
	}
	t.Run("redirect", func(t *testing.T) {
		resp, err := w.browser(t, false).Get("http://" + host + ":" + port(w.http) + "/a?b=c")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		// The web server's, once; the page behind it is none, see above.
		if to := regexp.MustCompile(`:\d+/`).ReplaceAllString(resp.Header.Get("Location"), "/"); resp.StatusCode/100 != 3 || to != "https://"+host+"/a?b=c" {
			t.Errorf("%s to %q", resp.Status, resp.Header.Get("Location"))
		}
	})
	t.Run("websocket", func(t *testing.T) {
		plain, err := dialer(t.Context(), "tcp", w.https)
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(plain, &tls.Config{RootCAs: w.pool, ServerName: host, NextProtos: []string{"http/1.1"}})
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: "+host+":"+port(w.https)+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", resp, err)
		}
		frame := "\x81\x85\x00\x00\x00\x00hello"
		_, _ = io.WriteString(c, frame)
		got := make([]byte, len(frame))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != frame {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// haproxy in front of TLS tells the visitor by the PROXY protocol, which the
// checks of its own have to use as well.
func TestHAProxy(t *testing.T) {
	for _, version := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(version, func(t *testing.T) {
			door := free(t)
			w := newWorld(t, func(c *proxy.Config, s *routes.Snapshot) {
				c.HTTP, c.HTTPS, c.ProxyProtocol = nil, []string{door}, true
				s.TLS.Mode = "local"
				s.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
			})
			w.run(t, syscall.SIGTERM, "haproxy", "-db", "-f", w.write(t, "haproxy.cfg", `
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend visitors
    bind `+w.https+`
    default_backend tarima
backend tarima
    server one `+door+` `+version+` check inter 200ms fall 1
`))
			root, err := os.ReadFile(filepath.Join(w.dir, "state", "ca", "ca.pem"))
			if err != nil || !w.pool.AppendCertsFromPEM(root) {
				t.Fatalf("the proxy's authority: %v", err)
			}
			for _, h2 := range []bool{false, true} {
				resp, err := w.browser(t, h2).Get("https://" + host + ":" + port(w.https) + "/")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				var got page
				if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
					t.Fatalf("%s: %v", resp.Status, err)
				}
				if got.Client != visitor || got.Proto != "https" || got.Port != port(w.https) {
					t.Errorf("the application saw %+v", got)
				}
			}
			// HAProxy's checks are taken as well, or it would send nobody.
			if data, _ := os.ReadFile(w.dir + "/proxy.log"); bytes.Contains(data, []byte("is refused")) {
				t.Errorf("something was refused:\n%s", data)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestNginx(t *testing.T) {
	w := newWorld(t)
	block := regexp.MustCompile(`(?m)^\s*listen \[::\].*\n`).ReplaceAllString(w.documented(t, "nginx"), "")
	block = strings.NewReplacer("listen 80;", "listen "+w.http+";", "listen 443 ", "listen "+w.https+" ").Replace(block)
	w.run(t, syscall.SIGTERM, "nginx", "-p", w.dir, "-e", "stderr", "-c", w.write(t, "nginx.conf", `
daemon off;
user www-data;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events { worker_connections 256; }
http {
access_log off;
client_body_temp_path `+w.dir+`/body;
proxy_temp_path `+w.dir+`/temp;
fastcgi_temp_path `+w.dir+`/temp;
uwsgi_temp_path `+w.dir+`/temp;
scgi_temp_path `+w.dir+`/temp;
`+block+"\n}\n"))
	w.check(t)
}

func TestApache(t *testing.T) {
	w := newWorld(t)
	block := strings.NewReplacer("<VirtualHost *:80>", "<VirtualHost "+w.http+">", "<VirtualHost *:443>", "<VirtualHost "+w.https+">").Replace(w.documented(t, "apache"))
	modules := ""
	for _, m := range []string{
		"mpm_event", "authz_core", "ssl", "http2", "headers", "rewrite", "proxy", "proxy_http", "proxy_wstunnel", "socache_shmcb",
	} {
		modules += "LoadModule " + m + "_module /usr/lib/apache2/modules/mod_" + m + ".so\n"
	}
	w.run(t, syscall.SIGTERM, "apache2", "-D", "FOREGROUND", "-d", w.dir, "-f", w.write(t, "apache.conf", modules+`
ServerName localhost
PidFile `+w.dir+`/apache.pid
DefaultRuntimeDir `+w.dir+`
Mutex file:`+w.dir+` default
User www-data
Group www-data
ErrorLog /dev/stderr
Listen `+w.http+`
Listen `+w.https+"\n"+block+"\n"))
	w.check(t)
}

func TestCaddy(t *testing.T) {
	w := newWorld(t)
	block := strings.Replace(w.documented(t, "caddyfile"), "learn.example.org, studio.learn.example.org, apps.learn.example.org {",
		host+" {\n    bind 127.0.0.1\n    tls "+w.certificate+" "+w.key, 1)
	config := w.write(t, "Caddyfile", "{\n    admin off\n    skip_install_trust\n    http_port "+port(w.http)+"\n    https_port "+port(w.https)+"\n}\n"+block+"\n")
	for _, d := range []string{"data", "config"} {
		if err := os.Mkdir(filepath.Join(w.dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(w.dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	// Never as root: it would put an authority of its own into the system's
	// trust store.
	w.run(t, syscall.SIGQUIT, "setpriv", "--reuid", "www-data", "--regid", "www-data", "--clear-groups", "caddy", "run", "--config", config, "--adapter", "caddyfile")
	w.check(t)
}
