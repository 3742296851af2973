package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarima/proxy/routes"
	"tarima/store/durable"
)

// mustKnow refuses a name that this server does not serve.
func (k *Keeper) mustKnow(name string) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	names := append(slices.Clone(k.hosts), k.source.Wildcards...)
	if slices.Contains(names, name) {
		return nil
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: there is no certificate for %q: this server has no names yet", ErrUnknownName, name)
	}
	return fmt.Errorf("%w: %q; the names are %s", ErrUnknownName, name, strings.Join(names, ", "))
}

// State of one name; ErrUnknownName for another.
func (k *Keeper) State(name string) (State, error) {
	if err := k.mustKnow(name); err != nil {
		return State{}, err
	}
	return k.state(name), nil
}

// Missing says that a public authority has not certified a name yet, and how
// far that is. Visitors are shown the local authority's stand-in until then.
func (k *Keeper) Missing(name string) (State, bool) {
	k.mu.RLock()
	o := k.orders
	k.mu.RUnlock()
	if o == nil || k.mustKnow(name) != nil {
		return State{}, false
	}
	s := k.state(name)
	return s, s.Phase != Valid
}

// Renew gets a new certificate for a name now, and waits for it. What was
// there is served until then. Limits of the authority hold all the same
// (ErrHeld); a certificate of the administrator's own cannot be renewed here
// (ErrNotHere).
func (k *Keeper) Renew(ctx context.Context, name string) (State, error) {
	if err := k.mustKnow(name); err != nil {
		return State{}, err
	}
	if _, c, _ := k.own.find(name); c != nil {
		return k.state(name), fmt.Errorf("%w: the certificate of %s is your own; import a new one when it runs out", ErrNotHere, name)
	}
	k.mu.RLock()
	o, mode, w := k.orders, k.source.Mode, ""
	if !strings.HasPrefix(name, "*.") {
		w = wildcardOf(name, k.source.Wildcards)
	}
	k.mu.RUnlock()
	switch {
	case mode == ModeNone:
		return State{}, fmt.Errorf("%w: this server has no certificates, the web server in front has", ErrNotHere)
	case o == nil:
		return k.state(name), k.authority.renew(name)
	case w != "":
		name = w
	}
	err := o.renew(ctx, name)
	return k.state(name), err
}

// Import a certificate of the administrator's own for a name, in place of any
// other. It serves every name of this server that it is made for. Errors are
// ErrImport, ErrUnknownName, or the disk's.
func (k *Keeper) Import(name string, pair routes.CertificatePair) (State, error) {
	if err := k.mustKnow(name); err != nil {
		return State{}, err
	}
	if err := k.own.put(name, pair); err != nil {
		return State{}, err
	}
	k.setOrders()
	k.cfg.Logger.Info("a certificate was imported", "name", name)
	s := k.state(name)
	k.cfg.Changed(s)
	return s, nil
}

// Forget an imported certificate: the name gets one as if there had been none.
func (k *Keeper) Forget(name string) error {
	if err := k.own.forget(name); err != nil {
		return err
	}
	k.setOrders()
	k.cfg.Logger.Info("an imported certificate was given back", "name", name)
	return nil
}

// Imported names, with their origin.
func (k *Keeper) Imported() map[string]string {
	k.own.mu.RLock()
	defer k.own.mu.RUnlock()
	all := make(map[string]string, len(k.own.pairs))
	for name, p := range k.own.pairs {
		all[name] = p.origin
	}
	return all
}

// Export the certificate that visitors of a name are shown, with its key.
func (k *Keeper) Export(name string) (routes.CertificatePair, error) {
	if err := k.mustKnow(name); err != nil {
		return routes.CertificatePair{}, err
	}
	if own, c, _ := k.own.find(name); c != nil {
		return k.own.export(own)
	}
	c, err := k.GetCertificate(&tls.ClientHelloInfo{ServerName: hostOf(name)})
	if strings.HasPrefix(name, "*.") {
		k.mu.RLock()
		if k.orders != nil {
			c = k.orders.certificateOf(name)
		}
		k.mu.RUnlock()
	}
	if err != nil {
		return routes.CertificatePair{}, err
	}
	if c == nil {
		return routes.CertificatePair{}, fmt.Errorf("%w: %s has no certificate yet", ErrNotHere, name)
	}
	return encodePair(c)
}

func encodePair(c *tls.Certificate) (routes.CertificatePair, error) {
	var chain strings.Builder
	for _, der := range c.Certificate {
		chain.Write(pemBytes("CERTIFICATE", der))
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return routes.CertificatePair{}, fmt.Errorf("key of the certificate: %w", err)
	}
	return routes.CertificatePair{Chain: chain.String(), Key: routes.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))}, nil
}

// renew the leaf of a name at its next use.
func (a *Authority) renew(name string) error {
	a.mu.Lock()
	old, known := a.leaves[name]
	if known {
		a.leaves[name] = nil
	}
	a.mu.Unlock()
	if _, err := a.Certificate(name); err != nil {
		a.mu.Lock()
		a.leaves[name] = old
		a.mu.Unlock()
		return err
	}
	return nil
}

func (a *Authority) knows(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, known := a.leaves[name]
	return known
}

// state of one name.
func (a *Authority) state(name string) State {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := State{Name: name, Issuer: a.root.Subject.CommonName, Phase: Waiting, Origin: routes.OriginLocal}
	if leaf := a.leaves[name]; leaf != nil {
		s.Phase = Valid
		s.NotBefore, s.NotAfter = leaf.Leaf.NotBefore, leaf.Leaf.NotAfter
		s.RenewAt = leaf.Leaf.NotAfter.Add(-leafRenew)
	}
	return s
}

// renewRoot signs the root anew, with the same key and name, when less than
// rootRenew of its life is left: who has imported the old one goes on until
// its end, and has that long to import the new one.
func (a *Authority) renewRoot(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Before(a.root.NotAfter.Add(-rootRenew)) {
		return
	}
	signer, ok := a.signer.(*ecdsa.PrivateKey)
	if !ok {
		return // not one that was made here
	}
	root, err := signRoot(signer, now)
	if err == nil {
		err = durable.Write(filepath.Join(a.dir, RootFile), pemBytes("CERTIFICATE", root.Raw), 0o644)
	}
	if err != nil {
		a.logger.Error("the root of the local authority cannot be renewed", "error", err, "ends", a.root.NotAfter)
		return
	}
	a.logger.Warn("the root of the local authority was renewed: browsers must import it before the old one ends",
		"old ends", a.root.NotAfter.Format(time.DateOnly))
	a.root = root
	for name := range a.leaves {
		a.leaves[name] = nil // their chains end in the new root
	}
}
