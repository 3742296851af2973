package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// certmagic gives up in silence in some cases (a full disk, a damaged file), so
// names without a certificate are asked for again: within watchEvery when
// nothing was ever heard of them, after silence when something was. Its own
// attempts are at most six hours apart, and two orders for one name at a time
// would only waste the authority's patience.
const (
	watchEvery = time.Minute
	silence    = 7 * time.Hour
)

// acmeChallenge is where HTTP-01 (RFC 8555 section 8.3) asks.
const acmeChallenge = "/.well-known/acme-challenge/"

// acme gets certificates from a public authority. It is made for known names
// only, never on demand.
type acme struct {
	logger  *slog.Logger
	changed func(State)
	storage *storage
	cache   *certmagic.Cache
	config  *certmagic.Config
	issuer  *certmagic.ACMEIssuer

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	names map[string]State
	heard map[string]time.Time // when certmagic last told of a name
}

func newACME(c Config, source Source) *acme {
	a := &acme{
		logger: c.Logger, changed: c.Changed, storage: newStorage(filepath.Join(c.Dir, "acme")), names: map[string]State{},
		heard: map[string]time.Time{},
	}
	a.ctx, a.stop = context.WithCancel(context.Background())
	log := zapTo(c.Logger)
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
		Logger:           log,
	})
	a.config = certmagic.New(a.cache, certmagic.Config{
		Storage: a.storage, Logger: log, OnEvent: a.event,
		// It would ask over the network while certificates are loaded, and
		// the large authorities have given it up.
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
	})
	a.issuer = certmagic.NewACMEIssuer(a.config, certmagic.ACMEIssuer{
		CA: source.Directory, Email: source.Email, Agreed: true, TrustedRoots: c.Roots,
		ListenHost: c.Host, AltHTTPPort: c.HTTPPort, AltTLSALPNPort: c.HTTPSPort,
		DisableHTTPChallenge: c.HTTPPort == 0, DisableTLSALPNChallenge: c.HTTPSPort == 0,
		Logger: log,
	})
	a.config.Issuers = []certmagic.Issuer{a.issuer}
	a.repair()
	a.done.Go(a.watch)
	return a
}

func (a *acme) repair() {
	for _, folder := range a.storage.repair(a.has) {
		a.logger.Error("a damaged certificate or account was set aside and is asked for again", "folder", folder)
	}
}

// has a certificate that can be served.
func (a *acme) has(name string) bool { return len(a.cache.AllMatchingCertificates(name)) > 0 }

func (a *acme) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
		missing := a.forgotten()
		if len(missing) > 0 {
			a.repair()
			a.manage(missing)
		}
	}
}

// forgotten are the names that have no certificate and that certmagic does not
// seem to work on.
func (a *acme) forgotten() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for name := range a.names {
		if at, ever := a.heard[name]; !a.has(name) && (!ever || time.Since(at) > silence) {
			names = append(names, name)
		}
	}
	return names
}

func (a *acme) manage(names []string) {
	for _, name := range names {
		// Those on disk are loaded here and now, or the first visitors after
		// a restart would meet the stand-in. An error is met again, and told,
		// in what follows.
		_, _ = a.config.CacheManagedCertificate(a.ctx, name)
		// One by one: a name that is refused must not keep the others back.
		if err := a.config.ManageAsync(a.ctx, []string{name}); err != nil {
			a.update(name, func(s *State) { s.Phase, s.LastError = Failed, err.Error() })
		}
	}
}

func (a *acme) setNames(names []string) {
	next := map[string]State{}
	var added []string
	var gone []certmagic.SubjectIssuer
	a.mu.Lock()
	for _, name := range names {
		s, known := a.names[name]
		if !known {
			added = append(added, name)
			s = State{Name: name, Issuer: a.issuer.CA, Phase: Waiting}
		}
		next[name] = s
	}
	for name := range a.names {
		if _, stays := next[name]; !stays {
			gone = append(gone, certmagic.SubjectIssuer{Subject: name})
		}
	}
	a.names = next
	maps.DeleteFunc(a.heard, func(name string, _ time.Time) bool { _, stays := next[name]; return !stays })
	a.mu.Unlock()
	if len(gone) > 0 {
		a.cache.RemoveManaged(gone)
	}
	a.manage(added)
}

// event follows what certmagic does. It is called from its goroutines and must
// not wait.
func (a *acme) event(_ context.Context, kind string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch kind {
	case "cert_obtaining":
		a.update(name, func(s *State) { s.Phase = Obtaining })
	case "cert_obtained":
		a.update(name, func(s *State) { s.Phase, s.LastError = Obtaining, "" })
	case "cert_failed":
		err, _ := data["error"].(error)
		a.update(name, func(s *State) { s.Phase, s.LastError = Failed, errorText(err) })
	case "cached_managed_cert":
		sans, _ := data["sans"].([]string)
		for _, name := range sans {
			a.update(name, func(s *State) { s.Phase, s.LastError = Valid, "" })
		}
	}
	return nil
}

func errorText(err error) string {
	if err == nil {
		return "unknown error"
	}
	text := err.Error()
	// A problem document may say anything, at any length.
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "") + " …"
	}
	return text
}

func (a *acme) update(name string, change func(*State)) {
	a.mu.Lock()
	s, known := a.names[name]
	before := s
	if known {
		change(&s)
		a.names[name] = s
		a.heard[name] = time.Now()
	}
	a.mu.Unlock()
	if known && s != before {
		a.changed(s)
	}
}

func (a *acme) knows(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, known := a.names[name]
	return known
}

// certificate of a known name, or the answer to a TLS-ALPN-01 challenge.
func (a *acme) certificate(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if !a.knows(name) {
		return nil, nil
	}
	c, err := a.config.GetCertificate(hello)
	if err != nil || c == nil || c.Certificate == nil {
		return nil, errors.Join(errNone, err)
	}
	return c, nil
}

var errNone = errors.New("no certificate yet")

// challenge answers an HTTP-01 challenge, and says whether it was one of ours.
func (a *acme) challenge(w http.ResponseWriter, r *http.Request, name string) bool {
	return strings.HasPrefix(r.URL.Path, acmeChallenge) && a.knows(name) && a.issuer.HandleHTTPChallenge(w, r)
}

func (a *acme) states() []State {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]State, 0, len(a.names))
	for name, s := range a.names {
		for _, c := range a.cache.AllMatchingCertificates(name) {
			s.NotAfter = c.Leaf.NotAfter
			s.Issuer = c.Leaf.Issuer.CommonName
		}
		all = append(all, s)
	}
	return all
}

func (a *acme) close() {
	a.stop()
	a.cache.Stop()
	a.done.Wait()
}
