package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"tarima/proxy/routes"
)

// issuer is one authority and what is known of it.
type issuer struct {
	key       string // of its folders
	directory string
	email     string
	storage   *storage
	// renewing tells the authority which certificate a new one replaces (RFC
	// 9773 section 5), first does not. certmagic does so for its own type of
	// issuer alone, and asks for an email address on the terminal when it has
	// none: first has neither habit.
	first, renewing *certmagic.Config
	acme            *certmagic.ACMEIssuer // nil: not one that answers challenges here
	advisor         certmagic.RenewalInfoGetter
	seen            *seen
}

// unprompted is an ACME issuer that asks nobody anything.
type unprompted struct{ *certmagic.ACMEIssuer }

// PreCheck implements certmagic.PreChecker.
func (u unprompted) PreCheck(ctx context.Context, names []string, _ bool) error {
	return u.ACMEIssuer.PreCheck(ctx, names, false)
}

// newIssuers makes one for each authority of the source.
func newIssuers(c Config, source routes.TLS, cache *certmagic.Cache, s *storage) ([]*issuer, error) {
	var solver *certmagic.DNS01Solver
	if source.DNS != nil {
		p, err := newProvider(*source.DNS)
		if err != nil {
			return nil, err
		}
		solver = &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: p, TTL: dnsTTL, Resolvers: slices.Clone(c.Nameservers), Logger: zapTo(c.Logger),
		}}
	}
	var all []*issuer
	for _, a := range authorities(source) {
		i := &issuer{directory: a.Directory, email: source.Email, storage: s, seen: newSeen()}
		log := zap.New(&answers{bridge{logger: c.Logger}, i.seen})
		i.first, i.renewing = newConfig(c, cache, s), newConfig(c, cache, s)
		template := certmagic.ACMEIssuer{
			CA: a.Directory, Email: source.Email, Agreed: true, TrustedRoots: c.Roots,
			ListenHost: c.Host, AltHTTPPort: c.HTTPPort, AltTLSALPNPort: c.HTTPSPort,
			DisableHTTPChallenge: c.HTTPPort == 0, DisableTLSALPNChallenge: c.HTTPSPort == 0,
			Logger: log,
		}
		if solver != nil {
			template.DNS01Solver = solver
		}
		if a.Account != nil {
			template.ExternalAccount = &acme.EAB{KeyID: a.Account.KeyID, MACKey: strings.TrimRight(string(a.Account.Key), "=")}
		}
		i.acme = certmagic.NewACMEIssuer(i.first, template)
		// A try at a test authority first would only blur what went wrong.
		i.acme.TestCA = ""
		i.key, i.advisor = i.acme.IssuerKey(), i.acme
		i.first.Issuers = []certmagic.Issuer{unprompted{i.acme}}
		i.renewing.Issuers = []certmagic.Issuer{i.acme}
		all = append(all, i)
	}
	return all, nil
}

func newConfig(c Config, cache *certmagic.Cache, s *storage) *certmagic.Config {
	return certmagic.New(cache, certmagic.Config{
		Storage: s, Logger: zapTo(c.Logger),
		// It would ask over the network while certificates are loaded, and
		// the large authorities have given it up.
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
		// Done before each attempt, so that its failure can be told from others.
		DisableStorageCheck: true,
	})
}

// order a certificate for a name once. With replaces, the authority is told
// which one the new one is for.
func (i *issuer) order(ctx context.Context, name string, replaces bool) error {
	config := i.first
	// A new account without an address would be a question on the terminal.
	if replaces && (i.email != "" || i.storage.hasAccount(i.key)) {
		config = i.renewing
	}
	// Without a stored certificate this is a first order.
	return config.RenewCertSync(ctx, name, true)
}

// load the stored certificate of a name, whatever its age; nil: none that can
// be used.
func (i *issuer) load(ctx context.Context, name string) *tls.Certificate {
	crt, err := i.storage.Load(ctx, certmagic.StorageKeys.SiteCert(i.key, name))
	if err != nil {
		return nil
	}
	key, err := i.storage.Load(ctx, certmagic.StorageKeys.SitePrivateKey(i.key, name))
	if err != nil {
		return nil
	}
	c, err := tls.X509KeyPair(crt, key)
	if err != nil || c.Leaf.VerifyHostname(hostOf(name)) != nil {
		return nil
	}
	return &c
}

// hostOf is a host that a name stands for.
func hostOf(name string) string {
	if len(name) > 2 && name[:2] == "*." {
		return "any" + name[1:]
	}
	return name
}

// ask for the authority's advice on when to renew a certificate.
func (i *issuer) ask(ctx context.Context, c *tls.Certificate) (advice, error) {
	if i.advisor == nil {
		return advice{}, acme.ErrUnsupported
	}
	info, err := i.advisor.GetRenewalInfo(ctx, certmagic.Certificate{Certificate: *c})
	if err != nil {
		return advice{}, err
	}
	now := time.Now()
	a := advice{Ask: askAgain(now, info.RetryAfter)}
	if start, end := info.SuggestedWindow.Start, info.SuggestedWindow.End; info.HasWindow() && start.Before(end) {
		a.Start, a.End, a.Selected = start, end, info.SelectedTime
		if a.Selected.Before(start) || a.Selected.After(end) {
			return advice{}, errors.New("renewal information: the selected time is not within the window")
		}
	}
	return a, nil
}

// challenge answers an HTTP-01 challenge of this authority.
func (i *issuer) challenge(w http.ResponseWriter, r *http.Request) bool {
	return i.acme != nil && i.acme.HandleHTTPChallenge(w, r)
}

// setAccountAside makes the authority's next order register anew.
func (i *issuer) setAccountAside() error {
	aside, err := i.storage.setAccountsAside(i.key)
	if err != nil {
		return fmt.Errorf("set the account with %s aside: %w", i.directory, err)
	}
	if len(aside) == 0 {
		return errors.New("there is no account")
	}
	return nil
}
