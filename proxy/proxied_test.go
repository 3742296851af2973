package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/proxy/routes"
)

// asked sends one request over an open connection and returns what the
// upstream saw.
func asked(t *testing.T, c net.Conn, header ...string) (seen, string) {
	t.Helper()
	head := "GET /page HTTP/1.1\r\nHost: lms.test\r\nConnection: close\r\n"
	for i := 0; i+1 < len(header); i += 2 {
		head += header[i] + ": " + header[i+1] + "\r\n"
	}
	status, body, _ := strings.Cut(raw(t, c, head+"\r\n"), "\n")
	var s seen
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		return s, status
	}
	return s, status
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const (
	v1Header = "PROXY TCP4 192.0.2.7 198.51.100.1 54321 443\r\n"
	v2Header = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0f" + "\xc0\x00\x02\x08\xc6\x33\x64\x01\xd4\x31\x01\xbb" + "\x04\x00\x00"
	v2Local  = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

func TestProxyProtocol(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t, func(c *Config) {
		c.ProxyProtocol, c.Trusted, c.Limits.HeadTimeout = true, []netip.Prefix{loopback}, time.Second
	})
	r.put(one(1, address(up), routes.Ready))
	for name, c := range map[string]struct{ header, client, port string }{
		"v1":           {v1Header, "192.0.2.7", "443"},
		"v2":           {v2Header, "192.0.2.8", "443"},
		"health check": {v2Local, "127.0.0.1", fmt.Sprint(portIn(r.https))},
		"v1 unknown":   {"PROXY UNKNOWN\r\n", "127.0.0.1", fmt.Sprint(portIn(r.https))},
	} {
		t.Run(name, func(t *testing.T) {
			for _, protocol := range []string{"http/1.1", "h2"} {
				conn := dial(t, "tcp", r.https)
				if _, err := io.WriteString(conn, c.header); err != nil {
					t.Fatal(err)
				}
				secure := tls.Client(conn, &tls.Config{RootCAs: r.pool(), ServerName: "lms.test", NextProtos: []string{protocol}})
				browser := http.Client{Transport: onlyConn(secure, protocol)}
				defer browser.CloseIdleConnections()
				// The client behind the balancer is believed no more than any other.
				_, body := r.get(&browser, "https://lms.test/page", "X-Forwarded-For", "6.6.6.6")
				var s seen
				if err := json.Unmarshal([]byte(body), &s); err != nil {
					t.Fatalf("%v: %s", err, body)
				}
				want := c.client
				if want == "127.0.0.1" {
					want = "6.6.6.6" // the balancer itself speaks
				}
				if got := s.Header.Get("X-Forwarded-For"); got != want {
					t.Errorf("%s: client %q, want %q", protocol, got, want)
				}
				if got := s.Header.Get("X-Forwarded-Port"); want == c.client && got != c.port {
					t.Errorf("%s: port %q, want %q", protocol, got, c.port)
				}
			}
		})
	}
	t.Run("in the log", func(t *testing.T) {
		until(t, "the client in the access log", func() bool { return strings.Contains(r.access.String(), `"client":"192.0.2.7"`) })
	})
	for name, header := range map[string]string{
		"without a header": "GET / HTTP/1.1\r\nHost: lms.test\r\n\r\n",
		"malformed":        "PROXY TCP4 a b c d\r\n",
		"never finished":   "PROXY TCP4 192.0.2.7",
		"silent":           "",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, "tcp", r.http)
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, header)
			if data, err := io.ReadAll(c); len(data) > 0 || isTimeout(err) {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	if c := dial(t, "tcp", r.http); c.Close() != nil {
		t.Error("a check of the port")
	}
	until(t, "the refusal is told", func() bool {
		return strings.Contains(r.logs.String(), "did not begin with a PROXY protocol header")
	})
}

// onlyConn is a transport that has this connection alone.
func onlyConn(c net.Conn, protocol string) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(protocol != "h2")
	protocols.SetHTTP2(protocol == "h2")
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if t, ok := c.(*tls.Conn); ok {
				if err := t.HandshakeContext(ctx); err != nil {
					return nil, err
				}
			}
			return c, nil
		},
		Protocols: protocols,
	}
}

// Only who is trusted may tell of others, and the administrator is told of
// those who try.
func TestProxyProtocolOfStrangers(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		why    string
	}{
		"not trusted":  {func(c *Config) { c.ProxyProtocol = true }, "not among the trusted networks"},
		"switched off": {func(c *Config) { c.Trusted = []netip.Prefix{loopback} }, "not switched on"},
	} {
		t.Run(name, func(t *testing.T) {
			up := upstreamServer(t, echo())
			r := start(t, c.change, func(c *Config) { c.HTTPS = nil })
			r.put(one(1, address(up), routes.Ready))
			for _, header := range []string{v1Header, v2Header} {
				if _, status := asked(t, headed{dial(t, "tcp", r.http), header}); !strings.HasPrefix(status, "closed") {
					t.Errorf("answer %q", status)
				}
			}
			if !strings.Contains(r.logs.String(), "a PROXY protocol header is refused") || !strings.Contains(r.logs.String(), c.why) {
				t.Error("nothing in the log")
			}
			// An ordinary client is served.
			if s, status := asked(t, dial(t, "tcp", r.http)); s.Header.Get("X-Forwarded-For") != "127.0.0.1" {
				t.Errorf("%s %+v", status, s)
			}
		})
	}
}

// headed sends a header ahead of the first bytes, in the same packet.
type headed struct {
	net.Conn
	header string
}

func (h headed) Write(p []byte) (int, error) {
	_, err := h.Conn.Write(append([]byte(h.header), p...))
	return len(p), err
}

func TestConnectionLimitsOfRealClients(t *testing.T) {
	r := start(t, func(c *Config) {
		c.ProxyProtocol, c.Trusted, c.Limits.ConnectionsPerAddr = true, []netip.Prefix{loopback}, 2
	})
	r.put(one(1, "127.0.0.1:1", routes.Ready))
	open := func(client string) (net.Conn, string) {
		c := dial(t, "tcp", r.http)
		_, _ = fmt.Fprintf(c, "PROXY TCP6 %s 2001:db8:ffff::1 1 80\r\nGET / HTTP/1.1\r\nHost: lms.test\r\n\r\n", client)
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return c, "closed"
		}
		return c, line
	}
	first, line := open("2001:db8::1")
	if !strings.Contains(line, "308") {
		t.Fatalf("first: %q", line)
	}
	// One subscriber has a whole /64.
	if _, line := open("2001:db8::2"); !strings.Contains(line, "308") {
		t.Errorf("second: %q", line)
	}
	if _, line := open("2001:db8::3"); line != "closed" {
		t.Errorf("third: %q", line)
	}
	// The balancer itself is not one client.
	for i := range 5 {
		if _, line := open(fmt.Sprintf("2001:db8:%d::1", i+1)); !strings.Contains(line, "308") {
			t.Errorf("another client: %q", line)
		}
	}
	_ = first.Close()
	until(t, "a place after one was given back", func() bool { _, line := open("2001:db8::4"); return line != "closed" })
}

// Trusted networks change with the routes, for connections that are open too.
func TestTrustedOfTheRoutes(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t, func(c *Config) { c.HTTPS = nil })
	s := one(1, address(up), routes.Ready)
	r.put(s)
	browser := r.browser(false)
	client := func() string {
		_, body := r.get(browser, "http://lms.test/", "X-Forwarded-For", "6.6.6.6, 10.1.1.1")
		var s seen
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		return s.Header.Get("X-Forwarded-For")
	}
	for _, c := range []struct {
		trusted []netip.Prefix
		client  string
	}{
		{nil, "127.0.0.1"},
		{[]netip.Prefix{loopback}, "10.1.1.1"},
		{[]netip.Prefix{loopback, netip.MustParsePrefix("10.0.0.0/8")}, "6.6.6.6"},
		{[]netip.Prefix{netip.MustParsePrefix("::/0")}, "127.0.0.1"},
	} {
		s.Generation++
		s.Trusted = c.trusted
		r.put(s)
		if got := client(); got != c.client {
			t.Errorf("with %v: client %q, want %q", c.trusted, got, c.client)
		}
	}
	s.Generation++
	for _, wrong := range [][]netip.Prefix{{netip.Prefix{}}, {netip.MustParsePrefix("::ffff:10.0.0.0/104")}, make([]netip.Prefix, maxTrusted+1)} {
		s.Trusted = wrong
		if ack, err := r.client.Put(t.Context(), s); err == nil && ack.Error == "" {
			t.Errorf("%d networks are taken", len(wrong))
		}
	}
}

// behind is a snapshot for a web server in front that ends TLS.
func behind(generation uint64, upstream string) routes.Snapshot {
	s := one(generation, upstream, routes.Ready)
	s.TLS.Mode = "none"
	return s
}

func TestBehindAWebServer(t *testing.T) {
	up := upstreamServer(t, echo())
	path := filepath.Join(t.TempDir(), "door.sock")
	r := start(t, func(c *Config) { c.HTTPS, c.HTTP = nil, append(c.HTTP, unixScheme+path) })
	r.put(behind(1, address(up)))
	for _, c := range []struct {
		name                string
		header              []string
		client, proto, port string
	}{
		{"nothing said", nil, "", "https", "443"},
		{"all said", []string{"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "https", "X-Forwarded-Port", "8443"}, "192.0.2.7", "https", "8443"},
		{"port of the host", []string{"Host", "lms.test:8443", "X-Forwarded-Proto", "https"}, "", "https", "8443"},
		{"plain in front: no loop", []string{"X-Forwarded-Proto", "http"}, "", "http", "80"},
		{"two proxies in a row", []string{"X-Forwarded-Proto", "http, https", "X-Forwarded-For", "192.0.2.7, 192.0.2.9"}, "192.0.2.9", "https", "443"},
	} {
		for network, to := range map[string]string{"unix": path, "tcp": r.http} {
			t.Run(c.name+" over "+network, func(t *testing.T) {
				request, header := "lms.test", c.header
				if len(header) > 0 && header[0] == "Host" {
					request, header = header[1], header[2:]
				}
				head := "GET /page HTTP/1.1\r\nHost: " + request + "\r\nConnection: close\r\n"
				for i := 0; i+1 < len(header); i += 2 {
					head += header[i] + ": " + header[i+1] + "\r\n"
				}
				_, body, _ := strings.Cut(raw(t, dial(t, network, to), head+"\r\n"), "\n")
				var s seen
				if err := json.Unmarshal([]byte(body), &s); err != nil {
					t.Fatalf("%v: %s", err, body)
				}
				client := c.client
				if client == "" && network == "tcp" {
					client = "127.0.0.1"
				}
				got := []string{s.Header.Get("X-Forwarded-For"), s.Header.Get("X-Forwarded-Proto"), s.Header.Get("X-Forwarded-Port")}
				if want := []string{client, c.proto, c.port}; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%q, want %q", got, want)
				}
			})
		}
	}
	// Who asks for the health of the proxy from outside gets the site.
	if got := raw(t, dial(t, "unix", path), "GET /-/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "200") {
		t.Errorf("health: %q", got)
	}
	if got := raw(t, dial(t, "unix", path), "GET /-/healthz HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "404") {
		t.Errorf("health from outside: %q", got)
	}
	// Only file permissions let somebody in.
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestUnixDoor(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "door.sock")
	l, err := listenUnix(path, 0o660, "nogroup")
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroup("nogroup")
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(group.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // others pass through
		t.Fatal(err)
	}
	for id, admitted := range map[uint32]bool{uint32(gid): true, 64_001: false} {
		c := exec.Command("/usr/bin/python3", "-c", "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])", path)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 64_000, Gid: id}}
		if out, err := c.CombinedOutput(); (err == nil) != admitted || err != nil && !strings.Contains(string(out), "Permission denied") {
			t.Errorf("group %d: %v\n%s", id, err, out)
		}
	}
	if _, err := listenUnix(path, 0o660, ""); !errors.Is(err, ErrInUse) {
		t.Errorf("a living one: %v", err)
	}
	_ = l.Close()
	if l, err = listenUnix(path, 0o600, ""); err != nil {
		t.Errorf("a dead one: %v", err)
	} else {
		_ = l.Close()
	}
	if _, err := listenUnix(filepath.Join(dir, "new"), 0o660, "no-such-group"); err == nil || !strings.Contains(err.Error(), "no-such-group") {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "new")); err == nil {
		t.Error("a socket is left behind after an error")
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(file, 0o660, ""); err == nil {
		t.Error("a file was taken for a socket")
	}
	if data, _ := os.ReadFile(file); string(data) != "kept" {
		t.Error("a file was lost")
	}
	for _, a := range []string{"unix:", "unix:door.sock", "unix:/run/../door.sock", "unix:/" + strings.Repeat("x", 107), "localhost"} {
		c := Config{HTTP: []string{a}, Dir: "d", Socket: "s"}
		if err := c.complete(); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", a, err)
		}
	}
}

// A socket whose file is gone is of no use to the next process; one whose file
// is there is taken over.
func TestUnixDoorIsInherited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "door.sock")
	for range 2 {
		l, err := listenUnix(path, 0o660, "")
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, func(c *Config) {
			c.HTTP, c.HTTPS, c.Listeners = []string{unixScheme + path}, nil, []net.Listener{l}
		})
		if strings.Contains(r.logs.String(), "fits no configured address") {
			t.Error("it is not taken over")
		}
		if got := raw(t, dial(t, "unix", path), "GET /-/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "200") {
			t.Errorf("%q", got)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	}
	l, err := listenUnix(path, 0o660, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	start(t, func(c *Config) { c.HTTP, c.HTTPS, c.Listeners = []string{unixScheme + path}, nil, []net.Listener{l} })
	if got := raw(t, dial(t, "unix", path), "GET /-/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "200") {
		t.Errorf("%q", got)
	}
}
