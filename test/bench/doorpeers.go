package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tarima/proxy"
	"tarima/proxy/routes"
)

// doorUser is who every proxy runs as: none of them needs to be root here,
// and Caddy as root would touch the host's trust stores.
const doorUser = 65534 // nobody

// doorUpstream is the address of the application server. Everything is in a
// network of the benchmark's own, so ports are never taken.
const doorUpstream = "127.0.0.1:9000"

// contender is one proxy beside the others.
type contender struct {
	name   string
	https  string
	dir    string
	cmd    *exec.Cmd
	ended  chan struct{}
	input  io.Closer
	static bool // it serves files
}

// program starts a part of the benchmark and reads the first line it tells
// into answer; nil: it tells nothing.
func program(dir string, answer any, args ...string) (*contender, error) {
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &contender{dir: dir, cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})} //nolint:gosec // the benchmark's own
	c.cmd.Dir, c.cmd.Stderr = dir, log
	c.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "PEBBLE_VA_NOSLEEP=1"}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: doorUser, Gid: doorUser, NoSetGroups: true}}
	if c.input, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	var output io.Reader
	if answer == nil {
		c.cmd.Stdout = log
	} else if output, err = c.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w; test/setup bench installs what is missing", args[0], err)
	}
	if answer != nil {
		line, rerr := bufio.NewReader(output).ReadBytes('\n')
		if err = json.Unmarshal(line, answer); err != nil {
			err = fmt.Errorf("%s: it did not start (%w): %s", strings.Join(args, " "), errors.Join(rerr, err), lastLines(filepath.Join(dir, "log")))
		}
	}
	go func() {
		_ = c.cmd.Wait() // how it ends is in its log
		close(c.ended)
	}()
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *contender) stop() error {
	_ = c.input.Close()                       // one that waits for its end ends
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-c.ended:
		return nil
	case <-time.After(10 * time.Second):
	}
	// A proxy that drains slow clients: they are ours, and nobody waits.
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // a session of its own
	select {
	case <-c.ended:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("%s (process %d) does not end", c.name, c.cmd.Process.Pid)
	}
}

// tree are its processes.
func (c *contender) tree() ([]processInfo, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	all := []processInfo{}
	for _, p := range table {
		if p.pid == c.cmd.Process.Pid || p.parent == c.cmd.Process.Pid {
			all = append(all, p)
		}
	}
	return all, nil
}

// cpu is what its processes have used so far, in seconds.
func (c *contender) cpu() (float64, error) {
	all, err := c.tree()
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, p := range all {
		sum += p.cpu
	}
	return sum, nil
}

// memory is the PSS of its processes in KiB.
func (c *contender) memory() (float64, error) {
	all, err := c.tree()
	if err != nil {
		return 0, err
	}
	sum, err := total(all)
	return sum / 1024, err
}

// doorFolder makes a folder of the proxies' user.
func (d *door) folder(name string) (string, error) {
	dir := filepath.Join(d.root, name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	return dir, os.Chown(dir, doorUser, doorUser)
}

func write(path, text string) error {
	return errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chown(path, doorUser, doorUser))
}

// certificate writes an ECDSA P-256 certificate for localhost, as Tarima's own
// authority makes them.
func (d *door) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, authority)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	crt := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return errors.Join(
		write(filepath.Join(d.root, "crt.pem"), crt), write(filepath.Join(d.root, "key.pem"), secret),
		write(filepath.Join(d.root, "both.pem"), crt+secret))
}

const nginxConfig = `
daemon off; worker_processes 2; worker_rlimit_nofile 16384;
pid DIR/pid; error_log DIR/error.log warn;
events { worker_connections 16000; }
http {
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_timeout 60s; keepalive_requests 100000000; http2_max_concurrent_streams 128;
  client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
  client_max_body_size 0;
  types { text/html html; application/javascript js; } default_type application/octet-stream;
  upstream application { server UPSTREAM; keepalive 64; keepalive_requests 100000000; }
  server {
    listen ADDRESS ssl http2; server_name localhost;
    ssl_certificate ROOT/crt.pem; ssl_certificate_key ROOT/key.pem; ssl_session_cache shared:s:4m;
    ssl_protocols TLSv1.2 TLSv1.3;
    location /static/ { root ROOT; }
    location / {
      proxy_pass http://application; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;
      proxy_request_buffering off;
    }
  }
}
`

const haproxyConfig = `
global
  nbthread 2
  maxconn 8000
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 60s
frontend door
  bind ADDRESS ssl crt ROOT/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2
  http-request set-header X-Forwarded-Proto https
  option forwardfor
  default_backend application
backend application
  server one UPSTREAM
`

const caddyConfig = `
{
  admin off
  auto_https off
  skip_install_trust
  persist_config off
  grace_period 1s
  log {
    level ERROR
  }
}
https://localhost:PORT {
  bind 127.0.0.1
  tls ROOT/crt.pem ROOT/key.pem
  handle /static/* {
    root * ROOT
    file_server
  }
  handle {
    reverse_proxy UPSTREAM {
      transport http {
        keepalive_idle_conns_per_host 256
      }
    }
  }
}
`

// peers, in their order. Each may be started and stopped any number of times.
var doorPeers = []struct {
	name, address, config string
	static                bool
	command               func(d *door, config string) []string
}{
	{"nginx", "127.0.0.1:8441", nginxConfig, true, func(_ *door, c string) []string { return []string{"/usr/sbin/nginx", "-c", c} }},
	{"HAProxy", "127.0.0.1:8442", haproxyConfig, false, func(_ *door, c string) []string { return []string{"/usr/sbin/haproxy", "-db", "-f", c} }},
	{"Caddy", "127.0.0.1:8443", caddyConfig, true, func(d *door, c string) []string {
		return []string{filepath.Join(d.root, "caddy-program"), "run", "--config", c, "--adapter", "caddyfile"}
	}},
}

// startPeer starts a peer by its name and waits for its first page.
func (d *door) startPeer(name string) (*contender, error) {
	for _, p := range doorPeers {
		if p.name != name {
			continue
		}
		dir, err := d.folder(strings.ToLower(name))
		if err != nil {
			return nil, err
		}
		_, port, err := net.SplitHostPort(p.address)
		if err != nil {
			return nil, err
		}
		config := filepath.Join(dir, "config")
		text := strings.NewReplacer("DIR", dir, "ROOT", d.root, "UPSTREAM", d.application, "ADDRESS", p.address, "PORT", port).Replace(p.config)
		if err := write(config, text); err != nil {
			return nil, err
		}
		c, err := program(dir, nil, p.command(d, config)...)
		if err != nil {
			return nil, err
		}
		c.name, c.https, c.static = name, p.address, p.static
		if err := d.firstPage(c); err != nil {
			return nil, errors.Join(err, c.stop())
		}
		return c, nil
	}
	return nil, fmt.Errorf("no peer %q", name)
}

const (
	ourAddress = "127.0.0.1:8444"
	ourName    = "Tarima"
)

// startOurs starts our proxy with its routes and waits for its first page.
func (d *door) startOurs(args ...string) (*contender, error) {
	dir, err := d.folder("tarima")
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(filepath.Join(d.root, "static"), filepath.Join(dir, "static")); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	args = append([]string{filepath.Join(d.root, "bench-door"), "proxy", "-root", dir, "-https", ourAddress}, args...)
	c, err := program(dir, &struct{ Ready bool }{}, args...)
	if err != nil {
		return nil, err
	}
	c.name, c.https, c.static = ourName, ourAddress, true
	if err := d.route(dir, d.snapshot()); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	if err := d.firstPage(c); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// route tells our proxy its routes.
func (d *door) route(dir string, s routes.Snapshot) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ack, err := proxy.NewClient(filepath.Join(dir, "proxy.sock")).Put(ctx, s)
	if err == nil && ack.Error != "" {
		err = errors.New(ack.Error)
	}
	return err
}

// page asks for one and wants the status.
func page(c *http.Client, url string, status int) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != status {
		err = fmt.Errorf("%s: answer %s", url, resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// visitor finds localhost at an address and opens a connection each time.
func visitor(address string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig:   &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}, //nolint:gosec // the benchmark's own proxies
		DisableKeepAlives: true,
	}}
}

func (d *door) firstPage(c *contender) error {
	client := visitor(c.https)
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := page(client, "https://localhost"+d.firstPath, http.StatusOK)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s shows no page: %w: %s", c.name, err, lastLines(filepath.Join(c.dir, "log")))
		}
		time.Sleep(time.Millisecond)
	}
}
