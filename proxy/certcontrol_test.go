package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"tarima/proxy/routes"
)

// ownCertificate is signed by itself.
func ownCertificate(t *testing.T, names ...string) (routes.CertificatePair, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return routes.CertificatePair{
		Chain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:   routes.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}, pool
}

func TestCertificatesOverTheControlSocket(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	ctx := context.Background()
	code := func(err error) string {
		t.Helper()
		var p *CertificateProblem
		if !errors.As(err, &p) {
			t.Fatalf("no problem: %v", err)
		}
		return p.Code
	}
	states, err := r.client.Certificates(ctx)
	if err != nil || len(states) != 1 || states[0].Name != "lms.test" || states[0].Origin != routes.OriginLocal {
		t.Fatalf("%+v, %v", states, err)
	}
	serial := func(pool *x509.CertPool) string {
		t.Helper()
		c, err := tls.Dial("tcp", r.https, &tls.Config{RootCAs: pool, ServerName: "lms.test"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial(r.pool())
	if _, err := r.client.RenewCertificate(ctx, "lms.test"); err != nil || serial(r.pool()) == before {
		t.Errorf("renewal: %v", err)
	}
	if findings, err := r.client.CheckCertificate(ctx, "lms.test"); err != nil || len(findings) != 1 {
		t.Errorf("check: %+v, %v", findings, err)
	}
	pair, pool := ownCertificate(t, "lms.test")
	if _, err := r.client.ImportCertificate(ctx, "cms.test", pair); code(err) != CodeNotFound {
		t.Errorf("another name: %v", err)
	}
	wrong, _ := ownCertificate(t, "cms.test")
	if _, err := r.client.ImportCertificate(ctx, "lms.test", wrong); code(err) != CodeInvalid || !strings.Contains(err.Error(), "not for lms.test but for cms.test") {
		t.Errorf("a wrong certificate: %v", err)
	}
	state, err := r.client.ImportCertificate(ctx, "lms.test", pair)
	if err != nil || state.Origin != routes.OriginImported || serial(pool) != "7" {
		t.Fatalf("%+v, %v", state, err)
	}
	if origins, err := r.client.ImportedCertificates(ctx); err != nil || origins["lms.test"] != routes.OriginImported {
		t.Errorf("%v, %v", origins, err)
	}
	if _, err := r.client.RenewCertificate(ctx, "lms.test"); code(err) != CodeConflict {
		t.Errorf("renewal of an imported one: %v", err)
	}
	out, err := r.client.ExportCertificate(ctx, "lms.test")
	if err != nil || out.Chain != pair.Chain || out.Key != pair.Key {
		t.Errorf("export: %v", err)
	}
	// The chain alone comes without the key.
	var chain routes.CertificatePair
	if err := r.client.certificate(ctx, http.MethodGet, "lms.test", "/chain", nil, &chain); err != nil || chain.Chain != pair.Chain || chain.Key != "" {
		t.Errorf("chain: %v", err)
	}
	if strings.Contains(r.logs.String(), string(pair.Key)[40:80]) {
		t.Error("the key is in the log")
	}
	if err := r.client.ForgetCertificate(ctx, "lms.test"); err != nil {
		t.Error(err)
	}
	if serial(r.pool()) == "7" {
		t.Error("forgotten and served")
	}
	// The socket takes no nonsense.
	if _, _, err := r.client.send(ctx, http.MethodPut, "/v1/certificates/lms.test", []byte("{")); err != nil {
		t.Error(err)
	}
	if status, _, err := r.client.send(ctx, http.MethodPut, "/v1/certificates/lms.test", make([]byte, maxPairBytes+1)); err != nil || status != http.StatusUnprocessableEntity {
		t.Errorf("too much: %d, %v", status, err)
	}
}

// A visitor resumes a TLS session with the next process.
func TestSessionsOutliveARestart(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	sessions := tls.NewLRUClientSessionCache(4)
	visit := func(address string) bool {
		t.Helper()
		c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: r.pool(), ServerName: "lms.test", ClientSessionCache: sessions, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if answer := raw(t, c, "GET / HTTP/1.1\r\nHost: lms.test\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(answer, "200") {
			t.Fatalf("answer %q", answer)
		}
		return c.ConnectionState().DidResume
	}
	if visit(r.https) || !visit(r.https) {
		t.Fatal("the second visit alone resumes")
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	again := start(t, func(c *Config) { c.Dir = r.cfg.Dir })
	again.put(one(2, address(up), routes.Ready))
	if !visit(again.https) {
		t.Error("not resumed after a restart")
	}
}
