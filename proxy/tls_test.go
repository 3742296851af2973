package proxy

import (
	"bytes"
	"crypto/tls"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarima/proxy/routes"
)

func TestCurlTrustsTheExportedRoot(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	_, port, err := net.SplitHostPort(r.https)
	if err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) (string, error) {
		args = append([]string{
			"--silent", "--show-error", "--max-time", "20", "--noproxy", "*",
			"--resolve", "lms.test:" + port + ":127.0.0.1", "--resolve", "other.test:" + port + ":127.0.0.1",
		}, args...)
		var out bytes.Buffer
		cmd := exec.Command("curl", args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	root := filepath.Join(r.cfg.Dir, "ca", "ca.pem")
	for _, version := range []string{"--http1.1", "--http2"} {
		if out, err := curl(version, "--cacert", root, "https://lms.test:"+port+"/"); err != nil || !strings.Contains(out, `"Method":"GET"`) {
			t.Errorf("%s: %v: %s", version, err, out)
		}
	}
	if out, err := curl("https://lms.test:" + port + "/"); err == nil {
		t.Errorf("trusted without the root: %s", out)
	}
	if out, err := curl("--insecure", "https://other.test:"+port+"/"); err == nil {
		t.Errorf("an unknown name was served: %s", out)
	}
}

func TestTLSVersions(t *testing.T) {
	r := start(t)
	r.put(one(1, "127.0.0.1:1", routes.Ready))
	dial := func(cfg *tls.Config) (tls.ConnectionState, error) {
		cfg.RootCAs, cfg.ServerName = r.pool(), "lms.test"
		c, err := tls.Dial("tcp", r.https, cfg)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState(), nil
	}
	if _, err := dial(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if _, err := dial(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}); err == nil {
		t.Error("CBC is spoken")
	}
	if s, err := dial(&tls.Config{NextProtos: []string{"h2"}}); err != nil || s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != "h2" {
		t.Errorf("%+v, %v", s.NegotiatedProtocol, err)
	}
	// A name that is taken away is not served any more.
	s := one(2, "127.0.0.1:1", routes.Ready)
	s.Hosts[0].Name = "new.test"
	r.put(s)
	if _, err := dial(&tls.Config{}); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("error %v", err)
	}
}
