package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"tarima/proxy/certs"
	"tarima/proxy/routes"
)

// nameServer says that every name under .test is here, but those that begin
// with "lost" do not exist.
func nameServer(t *testing.T) string {
	t.Helper()
	l := listenLocal(t) // the authority asks over TCP, the proxy over UDP
	packets, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		switch question := q.Question[0]; {
		case strings.HasPrefix(question.Name, "lost"):
			m.Rcode = dns.RcodeNameError
		case question.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   net.IPv4(127, 0, 0, 1),
			})
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{Listener: l, Handler: handler}, {PacketConn: packets, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return l.Addr().String()
}

// pebble runs an ACME authority. It asks for challenges at the given ports.
func pebble(t *testing.T, httpPort, tlsPort int, names string) (directory string, itself, issued *x509.CertPool) {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	logger := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(logger, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	validator := va.New(logger, httpPort, tlsPort, true, names, store)
	front := wfe.New(logger, store, validator, authority, []string{"pebble.test"}, true, false, 1, 1)
	s := httptest.NewTLSServer(front.Handler())
	t.Cleanup(s.Close)
	itself = x509.NewCertPool()
	itself.AddCert(s.Certificate())
	issued = x509.NewCertPool()
	issued.AddCert(authority.GetRootCert(0).Cert)
	return s.URL + wfe.DirectoryPath, itself, issued
}

func port(t *testing.T, address string) int {
	t.Helper()
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func phases(r *running) map[string]certs.State {
	state, err := r.client.State(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	all := map[string]certs.State{}
	for _, c := range state.Certificates {
		all[c.Name] = c
	}
	return all
}

func TestACME(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"both challenges":  func(*Config) {},
		"TLS-ALPN-01 only": func(c *Config) { c.HTTP = nil },
	} {
		t.Run(name, func(t *testing.T) {
			up := upstreamServer(t, echo())
			var directory string
			var issued *x509.CertPool
			r := start(t, func(c *Config) {
				c.Nameservers, c.PublicHTTPPort = []string{nameServer(t)}, port(t, c.HTTP[0])
				directory, c.ACMERoots, issued = pebble(t, port(t, c.HTTP[0]), port(t, c.HTTPS[0]), c.Nameservers[0])
				change(c)
			})
			s := one(1, address(up), routes.Ready)
			s.TLS = routes.TLS{Mode: "acme", Email: "ana@escuela.test", Directory: directory}
			for _, name := range []string{"cms.test", "lost.test"} {
				h := s.Hosts[0]
				h.Name = name
				s.Hosts = append(s.Hosts, h)
			}
			r.put(s)

			// Until the certificate is there, the local authority stands in.
			if phases(r)["lms.test"].Phase != certs.Valid {
				if resp, _ := r.get(r.browser(true), "https://lms.test/"); resp.StatusCode != http.StatusOK {
					t.Errorf("stand-in: %s", resp.Status)
				}
			}
			// A name that fails says why and does not hold up the others.
			until(t, "certificates of two names and a failure of the third", func() bool {
				p := phases(r)
				return p["lms.test"].Phase == certs.Valid && p["cms.test"].Phase == certs.Valid && p["lost.test"].Phase == certs.Failed
			})
			if p := phases(r)["lost.test"]; p.LastError == "" {
				t.Errorf("failure without a reason: %+v", p)
			}
			serials := map[string]string{}
			serve := func(r *running, name string) string {
				t.Helper()
				c, err := tls.Dial("tcp", r.https, &tls.Config{RootCAs: issued, ServerName: name})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				defer func() { _ = c.Close() }()
				return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
			}
			for _, name := range []string{"lms.test", "cms.test"} {
				serials[name] = serve(r, name)
			}
			if c, err := tls.Dial("tcp", r.https, &tls.Config{RootCAs: issued, ServerName: "stranger.test"}); err == nil {
				_ = c.Close()
				t.Error("a stranger's name is served")
			}
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}

			// The next process has them without asking, and a damaged one is
			// asked for again.
			crt, err := filepath.Glob(filepath.Join(r.cfg.Dir, "acme/certificates/*/cms.test/cms.test.crt"))
			if err != nil || len(crt) != 1 {
				t.Fatalf("certificate on disk: %q, %v", crt, err)
			}
			if err := os.WriteFile(crt[0], nil, 0o600); err != nil {
				t.Fatal(err)
			}
			key, err := os.Stat(strings.TrimSuffix(crt[0], ".crt") + ".key")
			if err != nil || key.Mode().Perm() != 0o600 {
				t.Errorf("mode of a key: %v, %v", key.Mode(), err)
			}
			again := start(t, func(c *Config) {
				for _, l := range c.Listeners {
					_ = l.Close()
				}
				c.Listeners, c.HTTP, c.HTTPS = nil, r.cfg.HTTP, r.cfg.HTTPS
				c.Dir, c.ACMERoots = r.cfg.Dir, r.cfg.ACMERoots
				c.Nameservers, c.PublicHTTPPort = r.cfg.Nameservers, r.cfg.PublicHTTPPort
			})
			again.https = r.https
			if serve(again, "lms.test") != serials["lms.test"] {
				t.Error("a good certificate was ordered again")
			}
			until(t, "the damaged certificate is replaced", func() bool { return phases(again)["cms.test"].Phase == certs.Valid })
			if serve(again, "cms.test") == serials["cms.test"] {
				t.Error("the same certificate although its file was emptied")
			}
		})
	}
}
