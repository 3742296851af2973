package certs

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tarima/proxy/routes"
	"tarima/store/durable"
)

const (
	// maxPEM is far above a chain with its key.
	maxPEM = 256 << 10
	// leastRSA is what public authorities sign (CA/Browser Forum baseline
	// requirements, section 6.1.5).
	leastRSA = 2048
)

// warnAhead are the days ahead of the end of an imported certificate at which
// a warning is told anew.
var warnAhead = []int{21, 14, 7, 3, 1}

// ownCertificates are those that the administrator brought: each in a file
// that is written as a whole and that the proxy's user alone can read.
type ownCertificates struct {
	dir    string
	logger *slog.Logger
	roots  *x509.CertPool // beside the system's; nil: none

	mu    sync.RWMutex
	pairs map[string]*ownPair
}

type ownPair struct {
	cert   *tls.Certificate
	origin string
	warned int // days ahead, of the last warning; 0: none
}

// openOwn reads what was imported. A file that is damaged is set aside: the
// name then has no certificate of its own any more.
func openOwn(dir string, roots *x509.CertPool, logger *slog.Logger) (*ownCertificates, error) {
	o := &ownCertificates{dir: dir, logger: logger, roots: roots, pairs: map[string]*ownPair{}}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return nil, fmt.Errorf("folder of imported certificates: %w", err)
	}
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(base, ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		name := strings.Replace(base, "wildcard_", "*", 1)
		pair, err := readOwn(path)
		if err != nil {
			aside := path + badMark + time.Now().UTC().Format("20060102T150405.000Z")
			logger.Error("an imported certificate is damaged; import it again", "name", name, "error", err, "aside", aside, "rename", os.Rename(path, aside))
			continue
		}
		o.pairs[name] = pair
	}
	return o, nil
}

func readOwn(path string) (*ownPair, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var stored routes.CertificatePair
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair([]byte(stored.Chain), []byte(stored.Key))
	if err != nil {
		return nil, err
	}
	return &ownPair{cert: &c, origin: stored.Origin}, nil
}

func (o *ownCertificates) file(name string) string {
	return strings.Replace(name, "*", "wildcard_", 1) + ".json"
}

// put checks a certificate for a name and keeps it.
func (o *ownCertificates) put(name string, pair routes.CertificatePair) error {
	switch pair.Origin {
	case "":
		pair.Origin = routes.OriginImported
	case routes.OriginImported, routes.OriginFile:
	default:
		return fmt.Errorf("%w: origin %q", ErrImport, pair.Origin)
	}
	c, err := checkPair(name, pair, o.roots, time.Now())
	if err != nil {
		return err
	}
	data, err := json.Marshal(pair)
	if err != nil {
		return fmt.Errorf("keep the certificate of %s: %w", name, err)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("keep the certificate of %s: %w", name, err)
	}
	if err := durable.Write(filepath.Join(o.dir, o.file(name)), data, 0o600); err != nil {
		return fmt.Errorf("keep the certificate of %s: %w", name, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pairs[name] = &ownPair{cert: c, origin: pair.Origin}
	return nil
}

// forget the certificate of a name.
func (o *ownCertificates) forget(name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pairs[name] == nil {
		return fmt.Errorf("%w: no certificate of one's own was imported for %q", ErrNotHere, name)
	}
	if err := os.Remove(filepath.Join(o.dir, o.file(name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the certificate of %s: %w", name, err)
	}
	delete(o.pairs, name)
	return durable.Sync(o.dir)
}

// find the certificate to show for a host: its own, or the longest-lived of
// another name that covers it. nil: none that is valid now.
func (o *ownCertificates) find(host string) (name string, c *tls.Certificate, origin string) {
	now := time.Now()
	o.mu.RLock()
	defer o.mu.RUnlock()
	if len(o.pairs) == 0 {
		return "", nil, ""
	}
	good := func(p *ownPair) bool {
		return p != nil && now.Before(p.cert.Leaf.NotAfter) && p.cert.Leaf.VerifyHostname(hostOf(host)) == nil
	}
	if p := o.pairs[host]; good(p) {
		return host, p.cert, p.origin
	}
	for _, n := range slices.Sorted(maps.Keys(o.pairs)) {
		if p := o.pairs[n]; good(p) && (c == nil || p.cert.Leaf.NotAfter.After(c.Leaf.NotAfter)) {
			name, c, origin = n, p.cert, p.origin
		}
	}
	return name, c, origin
}

// export what was imported for a name.
func (o *ownCertificates) export(name string) (routes.CertificatePair, error) {
	data, err := os.ReadFile(filepath.Join(o.dir, o.file(name)))
	if err != nil {
		return routes.CertificatePair{}, fmt.Errorf("read the certificate of %s: %w", name, err)
	}
	var pair routes.CertificatePair
	if err := json.Unmarshal(data, &pair); err != nil {
		return pair, fmt.Errorf("read the certificate of %s: %w", name, err)
	}
	return pair, nil
}

// warning about the end of a certificate; "": none yet.
func warning(c *tls.Certificate, now time.Time) (text string, days int) {
	left := c.Leaf.NotAfter.Sub(now)
	days = int(left / (24 * time.Hour))
	switch {
	case left <= 0:
		return "this certificate has run out: import a new one", 0
	case days > warnAhead[0]:
		return "", days
	}
	return fmt.Sprintf("this certificate runs out on %s: import a new one", c.Leaf.NotAfter.UTC().Format(time.DateOnly)), days
}

// warn returns the names whose end has come nearer by a step of warnAhead
// since the last call.
func (o *ownCertificates) warn(now time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var names []string
	for name, p := range o.pairs {
		_, days := warning(p.cert, now)
		step := 0
		for _, ahead := range append(slices.Clone(warnAhead), 0) {
			if days <= ahead {
				step = ahead + 1 // 0 means that none was given
			}
		}
		if step != p.warned {
			p.warned = step
			if step != 0 {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// checkPair says why a certificate cannot serve a name. Nothing of the key is
// in its errors.
func checkPair(name string, pair routes.CertificatePair, roots *x509.CertPool, now time.Time) (*tls.Certificate, error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrImport}, args...)...)
	}
	if len(pair.Chain) > maxPEM || len(pair.Key) > maxPEM {
		return nil, refuse("more than %d bytes", maxPEM)
	}
	chain, err := parseChain(pair.Chain)
	if err != nil {
		return nil, refuse("%v", err)
	}
	leaf := chain[0]
	if leaf.IsCA && len(chain) > 1 {
		return nil, refuse("the order is wrong: the first certificate, %s, is an authority's; the one of %s comes first, then who signed it, and so on", subject(leaf), name)
	}
	if leaf.IsCA {
		return nil, refuse("%s is an authority's certificate, not one of a web server; openssl req -x509 makes one with -addext basicConstraints=critical,CA:FALSE", subject(leaf))
	}
	for i := range chain[:len(chain)-1] {
		if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil {
			return nil, refuse("the order is wrong or one is missing: certificate %d (%s) is not signed by certificate %d (%s) but by %s",
				i+1, subject(chain[i]), i+2, subject(chain[i+1]), distinguished(chain[i].Issuer.CommonName, chain[i].Issuer.String()))
		}
	}
	if err := checkKey(pair, leaf); err != nil {
		return nil, refuse("%v", err)
	}
	if err := leaf.VerifyHostname(hostOf(name)); err != nil || strings.HasPrefix(name, "*.") && !slices.Contains(leaf.DNSNames, name) {
		names := slices.Clone(leaf.DNSNames)
		for _, ip := range leaf.IPAddresses {
			names = append(names, ip.String())
		}
		if len(names) == 0 {
			return nil, refuse("it is for no name: %s must be among its subject alternative names", name)
		}
		return nil, refuse("it is not for %s but for %s", name, strings.Join(names, ", "))
	}
	if len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil, refuse("it is not made for web servers (extended key usage)")
	}
	for _, c := range chain {
		switch {
		case now.After(c.NotAfter):
			return nil, refuse("%s ran out on %s", subject(c), c.NotAfter.UTC().Format(time.DateOnly))
		case now.Before(c.NotBefore.Add(-backdate)):
			return nil, refuse("%s is valid only from %s on; is this server's clock right?", subject(c), c.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	if err := complete(chain, roots, now); err != nil {
		return nil, refuse("%v", err)
	}
	c, err := tls.X509KeyPair([]byte(pair.Chain), []byte(pair.Key))
	if err != nil {
		return nil, refuse("certificate and key do not fit together")
	}
	return &c, nil
}

func parseChain(text string) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, errors.New("a private key is in the file of certificates; are the two files swapped?")
		case block.Type != "CERTIFICATE":
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", len(chain)+1, err)
		}
		chain = append(chain, c)
		if len(chain) > 10 {
			return nil, errors.New("more than 10 certificates in one chain")
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate in PEM (-----BEGIN CERTIFICATE-----) in it")
	}
	return chain, nil
}

func checkKey(pair routes.CertificatePair, leaf *x509.Certificate) error {
	block, _ := pem.Decode([]byte(pair.Key))
	for rest := []byte(pair.Key); block != nil && !strings.HasSuffix(block.Type, "PRIVATE KEY"); {
		block, rest = pem.Decode(rest) // EC PARAMETERS come in front of some keys
	}
	switch {
	case block == nil:
		return errors.New("there is no private key in PEM (-----BEGIN PRIVATE KEY-----) in it")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return errors.New("the key is locked with a password; unlock it first: openssl pkey -in KEY -out UNLOCKED")
	}
	if _, err := tls.X509KeyPair(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), []byte(pair.Key)); err != nil {
		// The library's words may hold bytes of the key.
		return errors.New("the key does not belong to this certificate")
	}
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < leastRSA {
			return fmt.Errorf("an RSA key of %d bits is too weak: browsers want %d", k.N.BitLen(), leastRSA)
		}
	case *ecdsa.PublicKey:
	default:
		return fmt.Errorf("browsers do not know keys of this kind (%s): take ECDSA or RSA", leaf.PublicKeyAlgorithm)
	}
	return nil
}

// complete says whether visitors can follow the chain to its end.
func complete(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	last := chain[len(chain)-1]
	if last.CheckSignatureFrom(last) == nil || last.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature) == nil {
		return nil // it ends with its root, of whomever
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	pools := []*x509.CertPool{roots}
	if system, err := x509.SystemCertPool(); err == nil {
		pools = append(pools, system)
	}
	for _, pool := range pools {
		if pool == nil {
			continue
		}
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: now}); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the chain is not complete: the certificate of %s, who signed %s, is missing. Append the intermediate certificates, and for an authority of your own its root",
		distinguished(last.Issuer.CommonName, last.Issuer.String()), subject(last))
}

func subject(c *x509.Certificate) string {
	return distinguished(c.Subject.CommonName, c.Subject.String()+strings.Join(c.DNSNames, ", "))
}

func distinguished(common, otherwise string) string {
	if common == "" {
		common = otherwise
	}
	return shorten(fmt.Sprintf("%q", common))
}
