package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarima/proxy/routes"
)

// minted is a certificate with its key, as somebody brings it.
type minted struct {
	cert *x509.Certificate
	key  any
}

func mint(t *testing.T, by *minted, change func(*x509.Certificate)) *minted {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return mintWith(t, key, &key.PublicKey, by, change)
}

func mintWith(t *testing.T, key, public any, by *minted, change func(*x509.Certificate)) *minted {
	t.Helper()
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(60 * day), BasicConstraintsValid: true,
	}
	change(template)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &minted{cert, key}
}

func (m *minted) keyPEM(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func chainOf(all ...*minted) string {
	var b strings.Builder
	for _, m := range all {
		b.Write(pemBytes("CERTIFICATE", m.cert.Raw))
	}
	return b.String()
}

func authorityNamed(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject, c.IsCA, c.KeyUsage = pkix.Name{CommonName: name}, true, x509.KeyUsageCertSign
	}
}

func forNames(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

func TestImportChecks(t *testing.T) {
	root := mint(t, nil, authorityNamed("School Root"))
	middle := mint(t, root, authorityNamed("School Middle"))
	leaf := mint(t, middle, forNames("lms.own.test", "*.campus.own.test"))
	other := mint(t, middle, forNames("lms.own.test"))
	old := mint(t, middle, func(c *x509.Certificate) {
		c.DNSNames, c.NotBefore, c.NotAfter = []string{"lms.own.test"}, time.Now().Add(-90*day), time.Now().Add(-day)
	})
	early := mint(t, middle, func(c *x509.Certificate) {
		c.DNSNames, c.NotBefore = []string{"lms.own.test"}, time.Now().Add(3*day)
	})
	mail := mint(t, middle, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"lms.own.test"}, []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
	})
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := mintWith(t, weakKey, &weakKey.PublicKey, middle, forNames("lms.own.test"))
	nameless := mint(t, middle, func(c *x509.Certificate) { c.Subject.CommonName = "lms.own.test" })
	trusted := x509.NewCertPool()
	trusted.AddCert(root.cert)
	locked := "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAo=\n-----END ENCRYPTED PRIVATE KEY-----\n"
	key := leaf.keyPEM(t)
	for name, c := range map[string]struct {
		host, chain, key string
		roots            *x509.CertPool
		want             string // "": taken
	}{
		"whole chain":          {"lms.own.test", chainOf(leaf, middle, root), key, nil, ""},
		"root known here":      {"lms.own.test", chainOf(leaf, middle), key, trusted, ""},
		"a wildcard's name":    {"*.campus.own.test", chainOf(leaf, middle, root), key, nil, ""},
		"a name below it":      {"a.campus.own.test", chainOf(leaf, middle, root), key, nil, ""},
		"text around":          {"lms.own.test", "Bag Attributes\n" + chainOf(leaf) + "more\n" + chainOf(middle, root), "text\n" + key, nil, ""},
		"another wildcard":     {"*.own.test", chainOf(leaf, middle, root), key, nil, "not for *.own.test but for lms.own.test"},
		"two below a wildcard": {"a.b.campus.own.test", chainOf(leaf, middle, root), key, nil, "not for a.b.campus.own.test"},
		"another name":         {"cms.own.test", chainOf(leaf, middle, root), key, nil, "not for cms.own.test but for lms.own.test, *.campus.own.test"},
		"no name":              {"lms.own.test", chainOf(nameless, middle, root), nameless.keyPEM(t), nil, "it is for no name"},
		"middle missing":       {"lms.own.test", chainOf(leaf, root), key, nil, `is not signed by certificate 2 ("School Root") but by "School Middle"`},
		"chain missing":        {"lms.own.test", chainOf(leaf), key, trusted, `the certificate of "School Middle"`},
		"root missing":         {"lms.own.test", chainOf(leaf, middle), key, nil, `the certificate of "School Root"`},
		"wrong order":          {"lms.own.test", chainOf(root, middle, leaf), key, nil, "the order is wrong"},
		"an authority":         {"lms.own.test", chainOf(root), root.keyPEM(t), nil, "authority's certificate"},
		"key of another":       {"lms.own.test", chainOf(leaf, middle, root), other.keyPEM(t), nil, "does not belong"},
		"key locked":           {"lms.own.test", chainOf(leaf, middle, root), locked, nil, "password"},
		"no key":               {"lms.own.test", chainOf(leaf, middle, root), "", nil, "no private key"},
		"swapped":              {"lms.own.test", key, chainOf(leaf), nil, "swapped"},
		"no certificate":       {"lms.own.test", "hello", key, nil, "no certificate"},
		"rubbish inside":       {"lms.own.test", string(pemBytes("CERTIFICATE", []byte("rubbish"))), key, nil, "certificate 1 cannot be read"},
		"run out":              {"lms.own.test", chainOf(old, middle, root), old.keyPEM(t), nil, "ran out on"},
		"not yet":              {"lms.own.test", chainOf(early, middle, root), early.keyPEM(t), nil, "clock"},
		"for mail":             {"lms.own.test", chainOf(mail, middle, root), mail.keyPEM(t), nil, "not made for web servers"},
		"weak key":             {"lms.own.test", chainOf(weak, middle, root), weak.keyPEM(t), nil, "1024 bits"},
		"huge":                 {"lms.own.test", strings.Repeat("x", maxPEM+1), key, nil, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := checkPair(c.host, routes.CertificatePair{Chain: c.chain, Key: routes.Secret(c.key)}, c.roots, time.Now())
			if c.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, ErrImport) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q in it", err, c.want)
			}
			for line := range strings.Lines(c.key) {
				if line = strings.TrimSpace(line); len(line) > 30 && !strings.HasPrefix(line, "-") && err != nil && strings.Contains(err.Error(), line) {
					t.Error("a part of the key is in the error")
				}
			}
		})
	}
}

func FuzzImport(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\nMAo=\n-----END PRIVATE KEY-----\n")
	f.Add("", "-----BEGIN EC PARAMETERS-----\nMAo=\n-----END EC PARAMETERS-----\n")
	f.Add("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----", "x")
	f.Fuzz(func(t *testing.T, chain, key string) {
		c, err := checkPair("lms.own.test", routes.CertificatePair{Chain: chain, Key: routes.Secret(key)}, nil, time.Now())
		if err == nil && (c == nil || c.Leaf == nil) {
			t.Error("neither a certificate nor an error")
		}
		if err != nil && !errors.Is(err, ErrImport) {
			t.Errorf("error %v", err)
		}
	})
}

func ask(t *testing.T, k *Keeper, name string) *x509.Certificate {
	t.Helper()
	c, err := k.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	if c == nil {
		return nil
	}
	return c.Leaf
}

// An imported certificate is served to every name that it is for, outlives a
// restart, is warned of ahead of its end, and gives way when it has run out.
func TestImported(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		root := mint(t, nil, func(c *x509.Certificate) { authorityNamed("School Root")(c); c.NotAfter = time.Now().Add(3650 * day) })
		leaf := mint(t, root, forNames("lms.own.test", "cms.own.test", "stranger.test"))
		var mu sync.Mutex
		var warned []State
		open := func() *Keeper {
			k, err := Open(Config{Dir: dir, Logger: quiet(), Changed: func(s State) {
				mu.Lock()
				defer mu.Unlock()
				if s.Warning != "" {
					warned = append(warned, s)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			k.Set(routes.TLS{Mode: ModeLocal}, []string{"lms.own.test", "cms.own.test", "mfe.own.test"})
			return k
		}
		k := open()
		pair := routes.CertificatePair{Chain: chainOf(leaf, root), Key: routes.Secret(leaf.keyPEM(t))}
		if _, err := k.Import("nobody.test", pair); !errors.Is(err, ErrUnknownName) {
			t.Errorf("another name: %v", err)
		}
		s, err := k.Import("lms.own.test", pair)
		if err != nil || s.Origin != routes.OriginImported || s.Phase != Valid {
			t.Fatalf("%+v, %v", s, err)
		}
		served := func(k *Keeper) {
			t.Helper()
			for name, own := range map[string]bool{"lms.own.test": true, "cms.own.test": true, "mfe.own.test": false} {
				if got := ask(t, k, name).Equal(leaf.cert); got != own {
					t.Errorf("%s: own %v", name, got)
				}
			}
			if ask(t, k, "stranger.test") != nil {
				t.Error("a name that is not this server's is served")
			}
		}
		served(k)
		if _, err := k.Renew(t.Context(), "lms.own.test"); !errors.Is(err, ErrNotHere) {
			t.Errorf("renewal: %v", err)
		}
		out, err := k.Export("cms.own.test")
		if err != nil || out != (routes.CertificatePair{Chain: pair.Chain, Key: pair.Key, Origin: routes.OriginImported}) {
			t.Errorf("export: %v", err)
		}
		// A wrong one changes nothing.
		if _, err := k.Import("lms.own.test", routes.CertificatePair{Chain: pair.Chain}); err == nil {
			t.Error("without a key")
		}
		info, err := os.Stat(filepath.Join(dir, "own", "lms.own.test.json"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("file: %v, %v", info, err)
		}
		k.Close()
		k = open()
		served(k)
		<-time.After(58 * day)
		served(k)
		mu.Lock()
		if len(warned) != len(warnAhead)-1 || !strings.Contains(warned[0].Warning, "runs out on") {
			t.Errorf("%d warnings: %+v", len(warned), warned)
		}
		mu.Unlock()
		<-time.After(3 * day)
		for _, name := range []string{"lms.own.test", "cms.own.test"} {
			if c := ask(t, k, name); c == nil || c.Equal(leaf.cert) {
				t.Errorf("%s: the one that has run out is served", name)
			}
		}
		if err := k.Forget("lms.own.test"); err != nil {
			t.Error(err)
		}
		if err := k.Forget("lms.own.test"); !errors.Is(err, ErrNotHere) {
			t.Errorf("forgotten twice: %v", err)
		}
		k.Close()
	})
}

func TestDamagedImportIsSetAside(t *testing.T) {
	dir := t.TempDir()
	root := mint(t, nil, authorityNamed("School Root"))
	leaf := mint(t, root, forNames("lms.own.test"))
	o, err := openOwn(dir, nil, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := o.put("lms.own.test", routes.CertificatePair{Chain: chainOf(leaf, root), Key: routes.Secret(leaf.keyPEM(t))}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lms.own.test.json"), make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err = openOwn(dir, nil, quiet()); err != nil {
		t.Fatal(err)
	}
	if _, c, _ := o.find("lms.own.test"); c != nil {
		t.Error("served")
	}
	if aside, _ := filepath.Glob(filepath.Join(dir, "*"+badMark+"*")); len(aside) != 1 {
		t.Errorf("set aside: %q", aside)
	}
}

// With a certificate of one's own nothing is ordered for the name; without it,
// again.
func TestImportedInsteadOfOrdered(t *testing.T) {
	t.Parallel()
	h, p, _ := oneAuthority(t, "instead.test", pebbleOptions{})
	root := mint(t, nil, authorityNamed("School Root"))
	leaf := mint(t, root, forNames("lms.instead.test"))
	h.keeper.Set(routes.TLS{Mode: ModeLocal}, []string{"lms.instead.test"})
	if _, err := h.keeper.Import("lms.instead.test", routes.CertificatePair{Chain: chainOf(leaf, root), Key: routes.Secret(leaf.keyPEM(t)), Origin: routes.OriginFile}); err != nil {
		t.Fatal(err)
	}
	h.keeper.Set(acmeAt(p), []string{"lms.instead.test", "cms.instead.test"})
	h.phase("cms.instead.test", Valid)
	if s := h.state("lms.instead.test"); s.Origin != routes.OriginFile || p.orders() != 1 {
		t.Errorf("%d orders, %+v", p.orders(), s)
	}
	if err := h.keeper.Forget("lms.instead.test"); err != nil {
		t.Fatal(err)
	}
	h.until("an order for the name", func() bool { return h.state("lms.instead.test").Origin == routes.OriginACME })
	out, err := h.keeper.Export("lms.instead.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair([]byte(out.Chain), []byte(out.Key)); err != nil {
		t.Errorf("exported: %v", err)
	}
}

func TestNoCertificatesAtAll(t *testing.T) {
	k, err := Open(Config{Dir: t.TempDir(), Logger: quiet(), Changed: func(State) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if added := k.Set(routes.TLS{Mode: ModeNone}, []string{"lms.none.test"}); len(added) != 0 {
		t.Errorf("added %q", added)
	}
	if ask(t, k, "lms.none.test") != nil || len(k.States()) != 0 {
		t.Errorf("states %+v", k.States())
	}
	if _, err := k.Renew(t.Context(), "lms.none.test"); !errors.Is(err, ErrNotHere) {
		t.Errorf("renewal: %v", err)
	}
}

// The root is renewed in time with the same key and name, so that those who
// imported the old one go on.
func TestRootRenewal(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k, err := Open(Config{Dir: dir, Logger: quiet(), Changed: func(State) {}})
		if err != nil {
			t.Fatal(err)
		}
		k.Set(routes.TLS{Mode: ModeLocal}, []string{"lms.root.test"})
		old := k.authority.Root()
		// As if it had been made nine years ago.
		aged, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(9), Subject: old.Subject, NotBefore: time.Now().Add(-9 * 365 * day), NotAfter: time.Now().Add(366 * day),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}, old, old.PublicKey, k.authority.signer)
		if err != nil {
			t.Fatal(err)
		}
		agedRoot, err := x509.ParseCertificate(aged)
		if err != nil {
			t.Fatal(err)
		}
		k.authority.mu.Lock()
		k.authority.root = agedRoot
		k.authority.mu.Unlock()
		<-time.After(2 * day)
		fresh := k.authority.Root()
		if fresh.Equal(agedRoot) || fresh.Subject.String() != old.Subject.String() {
			t.Fatalf("root until %s", fresh.NotAfter)
		}
		for name, root := range map[string]*x509.Certificate{"old": agedRoot, "new": fresh} {
			pool := x509.NewCertPool()
			pool.AddCert(root)
			if _, err := ask(t, k, "lms.root.test").Verify(x509.VerifyOptions{Roots: pool, DNSName: "lms.root.test", CurrentTime: time.Now()}); err != nil {
				t.Errorf("with the %s root: %v", name, err)
			}
		}
		k.Close()
		again := open(t, filepath.Join(dir, "ca"))
		if !again.Root().Equal(fresh) {
			t.Error("the new root does not last")
		}
	})
}
