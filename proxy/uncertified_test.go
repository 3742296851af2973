package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"tarima/proxy/certs"
	"tarima/proxy/routes"
)

// While a name has no certificate a visitor is told so by HTTP, with the
// reason; afterwards he is sent to HTTPS.
func TestNoCertificateYet(t *testing.T) {
	up := upstreamServer(t, echo())
	var directory string
	r := start(t, func(c *Config) {
		c.Nameservers, c.PublicHTTPPort = []string{nameServer(t)}, port(t, c.HTTP[0])
		directory, c.ACMERoots, _ = pebble(t, port(t, c.HTTP[0]), port(t, c.HTTPS[0]), c.Nameservers[0])
	})
	s := one(1, address(up), routes.Ready)
	s.TLS = routes.TLS{Mode: "acme", Email: "ana@escuela.test", Directory: directory}
	lost := s.Hosts[0]
	lost.Name = "lost.test"
	s.Hosts = append(s.Hosts, lost)
	r.put(s)
	until(t, "one certificate and one failure", func() bool {
		p := phases(r)
		return p["lms.test"].Phase == certs.Valid && p["lost.test"].Phase == certs.Failed
	})
	plain := func(name, accept string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.http+"/courses?a=b", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = name
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, page := plain("lost.test", "text/html")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Location") != "" {
		t.Errorf("%s, %v", resp.Status, resp.Header)
	}
	for _, text := range []string{"does not lead here yet", "todavía no lleva hasta aquí"} {
		if !strings.Contains(page, text) {
			t.Errorf("%q is not on the page: %s", text, page)
		}
	}
	if resp, text := plain("lost.test", "*/*"); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, `"uncertified.dns"`) {
		t.Errorf("a program is told %s %s", resp.Status, text)
	}
	if resp, _ := plain("lms.test", "text/html"); resp.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("with a certificate: %s", resp.Status)
	}
}
