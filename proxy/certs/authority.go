// Package certs gives the proxy its certificates.
package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tarima/store/durable"
)

const (
	// RootFile is the authority's certificate in its folder: what a browser
	// imports to trust the site.
	RootFile = "ca.pem"
	rootKey  = "ca.key"

	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	// A leaf is replaced when a third of its life is left, a root a year ahead
	// of its end: it has to be imported anew by hand.
	leafRenew = leafLife / 3
	rootRenew = 365 * 24 * time.Hour
	// Clients whose clocks are a little late must not refuse a new leaf.
	backdate = time.Hour
)

// Authority is a certificate authority of this server's own, for networks
// without internet and for trying things out. It signs a certificate for each
// of the names that it was given and for no other.
//
// The root is kept on disk; leaves live in memory, since a new one costs less
// than a millisecond and is as good as the one before.
type Authority struct {
	dir    string
	logger *slog.Logger

	mu     sync.Mutex
	root   *x509.Certificate
	signer crypto.Signer
	leaves map[string]*tls.Certificate // nil: known, not asked for yet
}

// OpenAuthority reads the authority in dir, and makes one there when there is
// none. Damaged files are set aside under a name with the time, a new root is
// made and the loss logged as an error: clients must import the new root.
func OpenAuthority(dir string, logger *slog.Logger) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("folder of the certificate authority: %w", err)
	}
	a := &Authority{dir: dir, logger: logger, leaves: map[string]*tls.Certificate{}}
	root, signer, err := readRoot(dir)
	switch {
	case err == nil:
		a.root, a.signer = root, signer
		a.renewRoot(time.Now())
		return a, nil
	case errors.Is(err, ErrDamaged):
		aside := ".bad-" + time.Now().UTC().Format("20060102T150405.000Z")
		for _, name := range []string{RootFile, rootKey} {
			p := filepath.Join(dir, name)
			if rerr := os.Rename(p, p+aside); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				return nil, fmt.Errorf("set aside damaged %s: %w", p, rerr)
			}
		}
		logger.Error("the certificate authority was damaged; a new one takes its place and browsers must import it anew",
			"error", err, "aside", aside, "root", filepath.Join(dir, RootFile))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if a.root, a.signer, err = makeRoot(dir, time.Now()); err != nil {
		return nil, err
	}
	return a, nil
}

func readRoot(dir string) (*x509.Certificate, crypto.Signer, error) {
	certPEM, certErr := os.ReadFile(filepath.Join(dir, RootFile))
	keyPEM, keyErr := os.ReadFile(filepath.Join(dir, rootKey))
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		return nil, nil, certErr
	}
	// One file without the other is a crash between the two writes or a loss.
	for _, err := range []error{certErr, keyErr} {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the certificate authority: %w", err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("%w in %s: %w", ErrDamaged, dir, err)
	}
	root := pair.Leaf
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !root.IsCA {
		return nil, nil, fmt.Errorf("%w in %s: not an authority's certificate", ErrDamaged, dir)
	}
	return root, signer, nil
}

func makeRoot(dir string, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("key of the certificate authority: %w", err)
	}
	root, err := signRoot(key, now)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("key of the certificate authority: %w", err)
	}
	// The key first: a certificate without its key could never be used, and
	// somebody might have imported it already.
	if err := durable.Write(filepath.Join(dir, rootKey), pemBytes("PRIVATE KEY", keyDER), 0o600); err != nil {
		return nil, nil, err
	}
	if err := durable.Write(filepath.Join(dir, RootFile), pemBytes("CERTIFICATE", root.Raw), 0o644); err != nil {
		return nil, nil, err
	}
	return root, key, nil
}

// signRoot makes the authority's certificate for its key.
func signRoot(key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	// The name carries a part of the key, so that two roots in one trust
	// store can be told apart.
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("key of the certificate authority: %w", err)
	}
	sum := sha256.Sum256(pub)
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Tarima local authority %x", sum[:4]), Organization: []string{"Tarima"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate authority: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return root, nil
}

// Root is the authority's certificate.
func (a *Authority) Root() *x509.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.root
}

// SetNames makes exactly these names known. It returns those that were not
// known before.
func (a *Authority) SetNames(names []string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := make(map[string]*tls.Certificate, len(names))
	var added []string
	for _, n := range names {
		leaf, known := a.leaves[n]
		if !known {
			added = append(added, n)
		}
		next[n] = leaf
	}
	a.leaves = next
	return added
}

// GetCertificate serves crypto/tls. For a name that it does not know it
// returns neither a certificate nor an error, which crypto/tls answers with the
// alert unrecognized_name.
func (a *Authority) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.Certificate(strings.ToLower(strings.TrimSuffix(hello.ServerName, ".")))
}

// Certificate of a known name, made or renewed when it is time; nil for an
// unknown one.
func (a *Authority) Certificate(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	leaf, known := a.leaves[name]
	if !known {
		return nil, nil
	}
	now := time.Now()
	// A clock that was wrong and was set right can also leave a leaf that is
	// not valid yet.
	if leaf != nil && now.After(leaf.Leaf.NotBefore) && now.Before(leaf.Leaf.NotAfter.Add(-leafRenew)) {
		return leaf, nil
	}
	fresh, err := a.sign(name, now)
	if err != nil {
		a.logger.Error("cannot sign a certificate", "name", name, "error", err)
		return leaf, err
	}
	a.leaves[name] = fresh
	return fresh, nil
}

func (a *Authority) sign(name string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key for %s: %w", name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notAfter := now.Add(leafLife)
	if notAfter.After(a.root.NotAfter) {
		notAfter = a.root.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	// X.509 gives a common name 64 bytes; nobody reads it beside the names.
	if len(name) <= 64 {
		t.Subject.CommonName = name
	}
	if ip := net.ParseIP(name); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.root, &key.PublicKey, a.signer)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", name, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", name, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.root.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func pemBytes(kind string, der []byte) []byte {
	var b bytes.Buffer
	// Writing to a buffer cannot fail.
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
	return b.Bytes()
}
