package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"tarima/proxy/routes"
)

// browser3 speaks HTTP/3 alone.
func (r *running) browser3() *http.Client {
	r.t.Helper()
	transport := &http3.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: r.pool()},
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, r.https, tc, qc)
		},
	}
	r.t.Cleanup(func() { _ = transport.Close() })
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func TestHTTP3(t *testing.T) {
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			_, _ = io.Copy(w, &zeros{left: 5 << 20})
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		default:
			echo().ServeHTTP(w, r)
		}
	}))
	r := start(t, func(c *Config) { c.HTTP3 = true })
	s := one(1, address(up), routes.Ready)
	s.Hosts[0].MaxBody = 8 << 20
	r.put(s)
	until(t, "it is announced", func() bool {
		resp, _ := r.get(r.browser(true), "https://lms.test/")
		return resp.Header.Get("Alt-Svc") == fmt.Sprintf(`h3=":%d"; ma=3600`, portIn(r.https))
	})
	browser := r.browser3()
	resp, body := r.get(browser, "https://lms.test/page?a;b", "X-Forwarded-For", "6.6.6.6", "X_Forwarded_For", "6.6.6.6")
	if resp.ProtoMajor != 3 || resp.StatusCode != http.StatusOK || resp.Header.Get("Alt-Svc") != "" {
		t.Errorf("%s %s %v", resp.Proto, resp.Status, resp.Header)
	}
	for _, want := range []string{`"X-Forwarded-For":["127.0.0.1"]`, `"X-Forwarded-Proto":["https"]`, `"URI":"/page?a;b"`, `"Host":"lms.test"`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
	if strings.Contains(body, "6.6.6.6") {
		t.Errorf("a client's word about itself: %s", body)
	}
	if _, body := r.get(browser, "https://lms.test/big"); len(body) != 5<<20 {
		t.Errorf("%d bytes", len(body))
	}
	for size, status := range map[int]int{6 << 20: http.StatusOK, 9 << 20: http.StatusRequestEntityTooLarge} {
		req, _ := http.NewRequest(http.MethodPost, "https://lms.test/upload", bytes.NewReader(make([]byte, size)))
		if resp, body := r.do(browser, req); resp.StatusCode != status || status == http.StatusOK && !strings.Contains(body, fmt.Sprintf(`"Body":%d`, size)) {
			t.Errorf("%d bytes: %s %.200s", size, resp.Status, body)
		}
	}
	if resp, body := r.get(browser, "https://lms.test/empty"); resp.StatusCode != http.StatusNoContent || body != "" {
		t.Errorf("%s %q", resp.Status, body)
	}
	if _, err := browser.Get("https://unknown.test/"); err == nil {
		t.Error("a name that is not ours has a certificate")
	}
	// A drain ends streams of events here too.
	resp, err := browser.Get("https://lms.test/events")
	if err != nil {
		t.Fatal(err)
	}
	s.Generation, s.Hosts[0].State = 2, routes.Draining
	r.put(s)
	if rest, err := io.ReadAll(resp.Body); string(rest) != "data: 1\n\n" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	_ = resp.Body.Close()
	if info, err := os.Stat(filepath.Join(r.cfg.Dir, quicKeyFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// Slow bodies are cut as those of the other protocols, and limits are the same.
func TestHTTP3Limits(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t, func(c *Config) {
		c.HTTP3, c.Limits.Stall, c.Limits.ConnectionsPerAddr = true, 300*time.Millisecond, 2
	})
	r.put(one(1, address(up), routes.Ready))
	until(t, "it serves", func() bool { return strings.Contains(r.logs.String(), "http=3") })
	body, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	go func() { _, _ = feed.Write([]byte("x")) }()
	req, _ := http.NewRequest(http.MethodPost, "https://lms.test/", body)
	first := r.browser3()
	resp, err := first.Do(req)
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%s", resp.Status)
		}
	}
	// Two connections of one address, the third is refused.
	r.get(first, "https://lms.test/")
	r.get(r.browser3(), "https://lms.test/")
	third := r.browser3()
	third.Timeout = 20 * time.Second
	if _, err := third.Get("https://lms.test/"); err == nil {
		t.Error("a third connection")
	}
}

// Without the wish there is no UDP socket.
func TestHTTP3IsOff(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	if resp, _ := r.get(r.browser(true), "https://lms.test/"); resp.Header.Get("Alt-Svc") != "" {
		t.Errorf("announced: %v", resp.Header)
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: portIn(r.https)})
	if err != nil {
		t.Fatalf("the port is taken: %v", err)
	}
	_ = c.Close()
}

// The successor takes the UDP socket over when its predecessor has finished
// the requests in flight.
func TestHTTP3Handover(t *testing.T) {
	release := make(chan struct{})
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	}))
	handover := make(chan struct{}, 1)
	r := start(t, func(c *Config) {
		c.HTTP3, c.Handover = true, handover
		c.Successor = own(t, &running{http: c.HTTP[0], https: c.HTTPS[0], cfg: *c})
	})
	r.put(one(1, address(up), routes.Ready))
	t.Cleanup(func() {
		if p := r.pid(); p != 0 && p != os.Getpid() {
			_ = syscall.Kill(p, syscall.SIGTERM)
			until(t, "the successor is gone", func() bool { return syscall.Kill(p, 0) != nil || zombie(p) })
		}
	})
	until(t, "it serves", func() bool { return strings.Contains(r.logs.String(), "http=3") })
	old := r.browser3()
	slow := make(chan error, 1)
	go func() {
		resp, err := old.Get("https://lms.test/slow")
		slow <- answered(resp, err, "ok")
	}()
	until(t, "it is inside", func() bool {
		s, err := r.client.State(t.Context())
		return err == nil && len(s.Services) == 1 && s.Services[0].Inside == 1
	})
	handover <- struct{}{}
	until(t, "a successor answers", func() bool { p := r.pid(); return p != 0 && p != os.Getpid() })
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("in flight: %v", err)
	}
	until(t, "the successor serves HTTP/3", func() bool {
		browser := r.browser3()
		browser.Timeout = 2 * time.Second
		resp, err := browser.Get("https://lms.test/")
		return answered(resp, err, "ok") == nil
	})
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

func TestHTTP3PortInUse(t *testing.T) {
	taken := listenLocal(t)
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: portOf(taken.Addr())})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	dir := t.TempDir()
	err = Run(t.Context(), Config{
		HTTPS: []string{taken.Addr().String()}, Listeners: []net.Listener{taken}, HTTP3: true,
		Dir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "sock"),
	})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "UDP") {
		t.Errorf("%v", err)
	}
}
