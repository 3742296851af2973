package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func leaf(t *testing.T, a *Authority, name string) *x509.Certificate {
	t.Helper()
	c, err := a.Certificate(name)
	if err != nil || c == nil {
		t.Fatalf("certificate of %s: %v, %v", name, c, err)
	}
	return c.Leaf
}

func TestLeavesVerify(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	added := a.SetNames([]string{"lms.test", "10.1.2.3", "2001:db8::1", strings.Repeat("a", 60) + ".test"})
	if len(added) != 4 {
		t.Errorf("added %q", added)
	}
	pemData, err := os.ReadFile(filepath.Join(dir, RootFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pemData) {
		t.Fatal("no certificate in the root file")
	}
	for _, name := range added {
		l := leaf(t, a, name)
		host := name
		if net.ParseIP(name) != nil {
			host = "[" + name + "]"
		}
		if _, err := l.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if key, ok := l.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: key %T", name, l.PublicKey)
		}
		if l.IsCA || time.Until(l.NotAfter) > leafLife || time.Until(l.NotAfter) < leafLife-time.Minute {
			t.Errorf("%s: CA %v until %s", name, l.IsCA, l.NotAfter)
		}
	}
	if _, err := leaf(t, a, "lms.test").Verify(x509.VerifyOptions{Roots: roots, DNSName: "other.test"}); err == nil {
		t.Error("valid for another name")
	}
	info, err := os.Stat(filepath.Join(dir, rootKey))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v %v", info.Mode(), err)
	}
}

func TestUnknownNamesGetNone(t *testing.T) {
	a := open(t, t.TempDir())
	a.SetNames([]string{"lms.test"})
	for _, name := range []string{"other.test", "", "sub.lms.test", "*"} {
		if c, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: name}); c != nil || err != nil {
			t.Errorf("%q: %v, %v", name, c, err)
		}
	}
	if c, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: "LMS.test."}); c == nil || err != nil {
		t.Errorf("other case: %v", err)
	}
	if added := a.SetNames(nil); added != nil {
		t.Errorf("added %q", added)
	}
	if c, _ := a.Certificate("lms.test"); c != nil {
		t.Error("a name that was taken away still has a certificate")
	}
}

func TestSameRootAfterRestart(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if second := open(t, dir); !second.Root().Equal(first.Root()) {
		t.Error("another root")
	}
}

func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := open(t, dir)
		a.SetNames([]string{"lms.test"})
		serial := leaf(t, a, "lms.test").SerialNumber
		<-time.After(59 * 24 * time.Hour)
		if leaf(t, a, "lms.test").SerialNumber.Cmp(serial) != 0 {
			t.Error("renewed too early")
		}
		<-time.After(2 * 24 * time.Hour)
		if leaf(t, a, "lms.test").SerialNumber.Cmp(serial) == 0 {
			t.Error("not renewed with a third of its life left")
		}
		// A leaf never outlives its root, and a root that is near its end
		// gives way to a new one.
		<-time.After(rootLife - 70*24*time.Hour)
		if l := leaf(t, a, "lms.test"); l.NotAfter.After(a.Root().NotAfter) {
			t.Errorf("leaf until %s, root until %s", l.NotAfter, a.Root().NotAfter)
		}
		if b := open(t, dir); b.Root().Equal(a.Root()) {
			t.Error("an old root was taken again")
		}
	})
}

func TestDamageIsSetAside(t *testing.T) {
	cases := map[string]func(dir string) error{
		"empty certificate": func(dir string) error { return os.WriteFile(filepath.Join(dir, RootFile), nil, 0o600) },
		"rubbish key":       func(dir string) error { return os.WriteFile(filepath.Join(dir, rootKey), make([]byte, 99), 0o600) },
		"no key":            func(dir string) error { return os.Remove(filepath.Join(dir, rootKey)) },
		"no certificate":    func(dir string) error { return os.Remove(filepath.Join(dir, RootFile)) },
		"key of another": func(dir string) error {
			other := filepath.Join(dir, "other")
			if _, err := OpenAuthority(other, quiet()); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, rootKey), filepath.Join(dir, rootKey))
		},
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			old := open(t, dir)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, _, err := readRoot(dir); !errors.Is(err, ErrDamaged) {
				t.Errorf("error %v", err)
			}
			fresh := open(t, dir)
			if fresh.Root().Equal(old.Root()) {
				t.Error("the same root")
			}
			if again := open(t, dir); !again.Root().Equal(fresh.Root()) {
				t.Error("the new root does not last")
			}
			aside, err := filepath.Glob(filepath.Join(dir, "*.bad-*"))
			if err != nil || len(aside) == 0 {
				t.Errorf("nothing set aside: %v", err)
			}
		})
	}
}

func TestUnreadableFolderIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(filepath.Join(dir, "ca"), quiet()); err == nil {
		t.Error("no error")
	}
}
