package certs

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
)

// Config of a Keeper.
type Config struct {
	Dir    string // of all certificates and keys, one owner at a time
	Logger *slog.Logger
	// HTTPPort and HTTPSPort are those of the proxy's own listeners, which
	// answer the challenges, on address Host ("": all); 0: no such listener.
	HTTPPort, HTTPSPort int
	Host                string
	Roots               *x509.CertPool // that vouch for the ACME authority itself; nil: the system's
	// Changed hears of each new state of a name. It must not call the Keeper.
	Changed func(State)
}

// Source says where certificates come from.
type Source struct {
	ACME      bool   // otherwise the local authority
	Email     string // of the ACME account
	Directory string // URL of the ACME authority; "": Let's Encrypt
}

// Keeper has a certificate for each of the names that it was given, from the
// local authority or by ACME, and for no other. Until ACME has delivered, the
// local authority stands in.
type Keeper struct {
	cfg       Config
	authority *Authority

	mu     sync.RWMutex
	source Source
	acme   *acme // nil: local
}

// Open the certificates in the folder.
func Open(cfg Config) (*Keeper, error) {
	a, err := OpenAuthority(filepath.Join(cfg.Dir, "ca"), cfg.Logger)
	if err != nil {
		return nil, err
	}
	return &Keeper{cfg: cfg, authority: a}, nil
}

// Set makes exactly these names known, and begins to get what they need. It
// returns those that are new and that the local authority serves.
func (k *Keeper) Set(source Source, names []string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	added := k.authority.SetNames(names)
	if source != k.source && k.acme != nil {
		k.acme.close()
		k.acme = nil
	}
	k.source = source
	if !source.ACME {
		return added
	}
	if k.acme == nil {
		k.acme = newACME(k.cfg, source)
	}
	k.acme.setNames(names)
	return nil
}

// GetCertificate serves crypto/tls.
func (k *Keeper) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.RLock()
	a := k.acme
	k.mu.RUnlock()
	if a != nil {
		name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
		if c, err := a.certificate(hello, name); err == nil {
			return c, nil
		}
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == ACMEProtocol {
			return nil, nil // an old challenge: the stand-in is no answer to it
		}
	}
	return k.authority.GetCertificate(hello)
}

// ACMEProtocol is the ALPN name of TLS-ALPN-01 (RFC 8737).
const ACMEProtocol = "acme-tls/1"

// Certificate that the local authority has for a name; nil: unknown.
func (k *Keeper) Certificate(name string) (*tls.Certificate, error) {
	return k.authority.Certificate(name)
}

// Challenge answers an HTTP-01 challenge for one of the names and says whether
// it was one.
func (k *Keeper) Challenge(w http.ResponseWriter, r *http.Request, name string) bool {
	k.mu.RLock()
	a := k.acme
	k.mu.RUnlock()
	return a != nil && a.challenge(w, r, name)
}

// States of all names.
func (k *Keeper) States() []State {
	k.mu.RLock()
	a := k.acme
	k.mu.RUnlock()
	if a != nil {
		return a.states()
	}
	return k.authority.States()
}

// Close ends what is under way.
func (k *Keeper) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.acme != nil {
		k.acme.close()
		k.acme = nil
	}
}
