package certs

import (
	"crypto/tls"
	"net/http"
	"strings"
	"time"

	"tarima/proxy/routes"
)

// proof is the answer to a TLS-ALPN-01 challenge; nil: there is none.
func (o *orders) proof(hello *tls.ClientHelloInfo) *tls.Certificate {
	for _, i := range o.issuers {
		if c, err := i.first.GetCertificate(hello); err == nil && c != nil && c.Certificate != nil {
			return c
		}
	}
	return nil
}

// challenge answers an HTTP-01 challenge, and says whether it was one of ours.
func (o *orders) challenge(w http.ResponseWriter, r *http.Request, name string) bool {
	if !strings.HasPrefix(r.URL.Path, acmeChallenge) || !o.knows(name) {
		return false
	}
	for _, i := range o.issuers {
		if i.challenge(w, r) {
			return true
		}
	}
	return false
}

// state of a name; the caller looks after the names.
func (o *orders) state(name string) State {
	o.mu.RLock()
	n := o.names[name]
	var cert *tls.Certificate
	obtaining, key, number := false, o.issuers[0].key, ""
	if n != nil {
		cert, obtaining, number = n.cert, n.running != nil && n.told.phase == Obtaining, n.serial
		if n.issuer != "" {
			key = n.issuer
		}
	}
	o.mu.RUnlock()
	m := o.ledger.of(name)
	s := State{
		Name: name, Phase: Waiting, Issuer: o.issuers[0].directory,
		Attempts: m.Attempts, LastAttempt: m.LastAttempt, LastError: m.LastError, Problem: m.Problem, Challenge: m.Challenge,
		Budget: o.ledger.budget(key, name),
	}
	if n == nil {
		return s
	}
	s.NextAttempt = due(name, cert, number, m)
	if cert != nil && time.Now().Before(cert.Leaf.NotAfter) {
		s.Phase, s.Origin, s.Issuer = Valid, routes.OriginACME, cert.Leaf.Issuer.CommonName
		s.NotBefore, s.NotAfter = cert.Leaf.NotBefore, cert.Leaf.NotAfter
		a := m.Advice
		if a.Serial != number {
			a = advice{}
		}
		s.RenewAt = renewAt(name, cert.Leaf.NotBefore, cert.Leaf.NotAfter, a)
		s.WindowStart, s.WindowEnd = a.Start, a.End
		return s
	}
	switch {
	case obtaining:
		s.Phase = Obtaining
	case m.LastError != "":
		s.Phase = Failed
	}
	return s
}

// tell others of a new state of a name.
func (o *orders) tell(name string) { o.tellPhase(name, o.state(name).Phase) }

func (o *orders) tellPhase(name string, phase Phase) {
	s := o.state(name)
	s.Phase = phase
	now := told{phase, s.LastError}
	o.mu.Lock()
	n := o.names[name]
	news := n != nil && n.told != now
	if news {
		n.told = now
	}
	o.mu.Unlock()
	if news && o.ctx.Err() == nil {
		o.changed(s)
	}
}
