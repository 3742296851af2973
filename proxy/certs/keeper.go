package certs

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"tarima/proxy/routes"
)

// Config of a Keeper.
type Config struct {
	Dir    string // of all certificates and keys
	Logger *slog.Logger
	// HTTPPort and HTTPSPort are those of the proxy's own listeners, which
	// answer the challenges, on address Host ("": all); 0: no such listener.
	HTTPPort, HTTPSPort int
	Host                string
	Roots               *x509.CertPool // that vouch for the ACME authority itself; nil: the system's
	// Nameservers to ask, as "address:port"; none: those of /etc/resolv.conf.
	Nameservers []string
	// PublicHTTPPort is where authorities ask for HTTP-01; 0: 80. Another one
	// is for authorities of one's own.
	PublicHTTPPort int
	// Changed hears of each new state of a name. It must not call the Keeper.
	Changed func(State)
}

// Keeper has a certificate for each of the names that it was given, and for no
// other: one that the administrator brought, one of a public authority, or one
// of this server's own, in this order. Until a public authority has delivered,
// the own one stands in.
type Keeper struct {
	cfg       Config
	authority *Authority
	own       *ownCertificates
	tokens    tokens

	stop chan struct{}
	done sync.WaitGroup

	mu     sync.RWMutex
	source routes.TLS
	hosts  []string
	orders *orders // nil: no public authority
}

// Open the certificates in the folder.
func Open(cfg Config) (*Keeper, error) {
	a, err := OpenAuthority(filepath.Join(cfg.Dir, "ca"), cfg.Logger)
	if err != nil {
		return nil, err
	}
	own, err := openOwn(filepath.Join(cfg.Dir, "own"), cfg.Roots, cfg.Logger)
	if err != nil {
		return nil, err
	}
	k := &Keeper{cfg: cfg, authority: a, own: own, stop: make(chan struct{})}
	k.done.Go(k.tend)
	return k, nil
}

// tend looks once in a while at what changes by itself: the ends of imported
// certificates and of the own authority's root.
func (k *Keeper) tend() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-k.stop:
			return
		}
		k.authority.renewRoot(time.Now())
		k.setOrders()
		for _, name := range k.own.warn(time.Now()) {
			k.cfg.Changed(k.state(name))
		}
	}
}

// Set makes exactly these names known, and begins to get what they need. It
// returns those that are new and that the local authority serves.
func (k *Keeper) Set(source routes.TLS, names []string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hosts = slices.Clone(names)
	if old := k.orders; old != nil && !reflect.DeepEqual(source, k.source) {
		k.orders = nil
		// What it has under way may take its time to end, and asks for this
		// lock. The next one waits for it before it orders.
		k.done.Go(old.close)
	}
	k.source = source
	if source.Mode == ModeNone {
		k.authority.SetNames(nil)
		return nil
	}
	added := k.authority.SetNames(names)
	if source.Mode != ModeACME {
		return slices.DeleteFunc(added, func(name string) bool { _, c, _ := k.own.find(name); return c != nil })
	}
	if k.orders == nil {
		o, err := newOrders(k.cfg, source)
		if err != nil {
			// CheckSource has seen it: what remains is a surprise.
			k.cfg.Logger.Error("certificates cannot be ordered; the server's own authority stands in", "error", err)
			return added
		}
		o.doubt = k.doubt
		k.orders = o
		o.setNames(k.wanted())
		o.begin()
		return nil
	}
	k.orders.setNames(k.wanted())
	return nil
}

// wanted are the names to order certificates for. The caller holds the lock.
func (k *Keeper) wanted() []string {
	var names []string
	for _, name := range append(slices.Clone(k.hosts), k.source.Wildcards...) {
		if wildcardOf(name, k.source.Wildcards) != "" && !strings.HasPrefix(name, "*.") {
			continue
		}
		if _, c, _ := k.own.find(name); c == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// setOrders follows what was imported and what has run out.
func (k *Keeper) setOrders() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.orders == nil {
		return
	}
	names := k.wanted()
	if !k.orders.has(names) {
		k.orders.setNames(names)
	}
}

// GetCertificate serves crypto/tls. For a name that it does not know it
// returns neither a certificate nor an error, which crypto/tls answers with the
// alert unrecognized_name.
func (k *Keeper) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	k.mu.RLock()
	o, wildcards := k.orders, k.source.Wildcards
	k.mu.RUnlock()
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == ACMEProtocol {
		// To an old challenge no other certificate is an answer.
		if o == nil || !o.knows(name) {
			return nil, nil
		}
		return o.proof(hello), nil
	}
	if !k.authority.knows(name) {
		return nil, nil
	}
	if _, c, _ := k.own.find(name); c != nil {
		return c, nil
	}
	if o != nil {
		if c := o.certificateOf(name); c != nil {
			return c, nil
		}
		if w := wildcardOf(name, wildcards); w != "" {
			if c := o.certificateOf(w); c != nil {
				return c, nil
			}
		}
	}
	return k.authority.Certificate(name)
}

// ACMEProtocol is the ALPN name of TLS-ALPN-01 (RFC 8737).
const ACMEProtocol = "acme-tls/1"

// Certificate that the local authority has for a name; nil: unknown.
func (k *Keeper) Certificate(name string) (*tls.Certificate, error) {
	return k.authority.Certificate(name)
}

// Challenge answers an HTTP-01 challenge for one of the names, or a check of
// this server's own, and says whether it was one.
func (k *Keeper) Challenge(w http.ResponseWriter, r *http.Request, name string) bool {
	if !strings.HasPrefix(r.URL.Path, "/.well-known/") {
		return false
	}
	if k.tokens.answer(w, r) {
		return true
	}
	k.mu.RLock()
	o := k.orders
	k.mu.RUnlock()
	return o != nil && o.challenge(w, r, name)
}

// States of all names, wildcards included, in order.
func (k *Keeper) States() []State {
	k.mu.RLock()
	names := slices.Clone(k.hosts)
	if k.orders != nil {
		names = append(names, k.source.Wildcards...)
	}
	none := k.source.Mode == ModeNone
	k.mu.RUnlock()
	all := []State{}
	if none {
		return all
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		all = append(all, k.state(name))
	}
	return all
}

// state of one name.
func (k *Keeper) state(name string) State {
	if _, c, origin := k.own.find(name); c != nil {
		s := State{
			Name: name, Phase: Valid, Origin: origin, Issuer: c.Leaf.Issuer.CommonName,
			NotBefore: c.Leaf.NotBefore, NotAfter: c.Leaf.NotAfter,
		}
		s.Warning, _ = warning(c, time.Now())
		return s
	}
	k.mu.RLock()
	o, wildcards := k.orders, k.source.Wildcards
	k.mu.RUnlock()
	if o == nil {
		return k.authority.state(name)
	}
	w := ""
	if !strings.HasPrefix(name, "*.") {
		w = wildcardOf(name, wildcards)
	}
	if w == "" {
		return o.state(name)
	}
	s := o.state(w)
	s.Name, s.Wildcard = name, w
	return s
}

// Retire ends all ordering, so that a successor may begin. What is there is
// served on, and what is under way is given up.
func (k *Keeper) Retire() {
	k.mu.RLock()
	o := k.orders
	k.mu.RUnlock()
	if o != nil {
		o.retire()
	}
}

// Close ends what is under way.
func (k *Keeper) Close() {
	close(k.stop)
	k.mu.Lock()
	o := k.orders
	k.orders = nil
	k.mu.Unlock()
	if o != nil {
		o.close()
	}
	k.done.Wait()
}
