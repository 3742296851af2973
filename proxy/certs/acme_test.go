package certs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarima/proxy/routes"
)

func TestObtain(t *testing.T) {
	t.Parallel()
	h, p, z := oneAuthority(t, "obtain.test", pebbleOptions{})
	z.set(func() { z.missing["lost.obtain.test"] = true })
	h.keeper.Set(acmeAt(p), []string{"lms.obtain.test", "cms.obtain.test", "lost.obtain.test"})
	// The stand-in is there from the first moment on.
	if c := h.shown("lms.obtain.test", h.both(p)); c == nil {
		t.Fatal("nothing is shown")
	}
	h.phase("lms.obtain.test", Valid)
	h.phase("cms.obtain.test", Valid)
	s := h.state("lms.obtain.test")
	lost := h.phase("lost.obtain.test", Failed)
	if !strings.Contains(lost.LastError, "does not exist") || lost.NextAttempt.IsZero() || lost.Attempts != 0 {
		t.Errorf("a name that does not exist: %+v", lost)
	}
	if s.Origin != routes.OriginACME || !strings.HasPrefix(s.Issuer, "Pebble") || s.NotAfter.Before(time.Now()) || s.RenewAt.After(s.NotAfter) {
		t.Errorf("state: %+v", s)
	}
	if s.Challenge != "http-01" && s.Challenge != "tls-alpn-01" {
		t.Errorf("challenge %q", s.Challenge)
	}
	if b := s.Budget; b == nil || b.Domain != "obtain.test" || b.Week != 2 || b.Same != 1 || b.Orders != 2 {
		t.Errorf("budget: %+v", b)
	}
	h.until("the authority's advice", func() bool { s := h.state("lms.obtain.test"); return s.WindowEnd.After(s.WindowStart) })
	if s = h.state("lms.obtain.test"); s.RenewAt.Before(s.WindowStart) || s.RenewAt.After(s.WindowEnd) {
		t.Errorf("renewal at %s, window %s to %s", s.RenewAt, s.WindowStart, s.WindowEnd)
	}
	serial := h.shown("lms.obtain.test", p.issued).SerialNumber
	if p.orders() != 2 {
		t.Errorf("%d orders", p.orders())
	}
	// The next process has them without asking.
	h.again()
	h.keeper.Set(acmeAt(p), []string{"lms.obtain.test"})
	if h.shown("lms.obtain.test", p.issued).SerialNumber.Cmp(serial) != 0 || p.orders() != 2 {
		t.Error("a good certificate was ordered again")
	}
}

// both roots: the stand-in's and the authority's.
func (h *house) both(p *pebble) (pool *x509Pool) {
	pool = p.issued.Clone()
	pool.AddCert(h.keeper.authority.Root())
	return pool
}

func TestNoEmail(t *testing.T) {
	t.Parallel()
	h, p, _ := oneAuthority(t, "noemail.test", pebbleOptions{})
	source := acmeAt(p)
	source.Email = ""
	h.keeper.Set(source, []string{"lms.noemail.test"})
	h.phase("lms.noemail.test", Valid)
	if _, err := h.keeper.Renew(t.Context(), "lms.noemail.test"); err != nil {
		t.Error(err)
	}
}

func TestExternalAccount(t *testing.T) {
	t.Parallel()
	const id = "customer-7"
	key := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	for name, c := range map[string]struct {
		account *routes.ExternalAccount
		problem string
	}{
		"right":     {&routes.ExternalAccount{KeyID: id, Key: routes.Secret(key)}, ""},
		"padded":    {&routes.ExternalAccount{KeyID: id, Key: routes.Secret(key + "=")}, ""},
		"none":      {nil, "externalAccountRequired"},
		"wrong key": {&routes.ExternalAccount{KeyID: id, Key: routes.Secret(strings.ToUpper(key))}, "unauthorized"},
		"wrong id":  {&routes.ExternalAccount{KeyID: "somebody", Key: routes.Secret(key)}, "unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			h, p, _ := oneAuthority(t, "eab.test", pebbleOptions{accounts: map[string]string{id: key}})
			source := acmeAt(p)
			source.Account = c.account
			if err := CheckSource(source); err != nil {
				t.Fatal(err)
			}
			h.keeper.Set(source, []string{"lms.eab.test"})
			if c.problem == "" {
				h.phase("lms.eab.test", Valid)
				return
			}
			if s := h.phase("lms.eab.test", Failed); s.Problem != c.problem || strings.Contains(s.LastError, key) {
				t.Errorf("problem %q: %s", s.Problem, s.LastError)
			}
			if strings.Contains(h.logs.String(), key) {
				t.Error("the key is in the log")
			}
		})
	}
}

// The next authority is asked when the first is away or refuses, and what it
// gave is found again.
func TestFallback(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(first *pebble) string{
		"away": func(*pebble) string { return "https://127.0.0.1:1/dir" },
		"refuses": func(first *pebble) string {
			first.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if !isOrder(r) {
					return false
				}
				problem(w, http.StatusForbidden, "rejectedIdentifier", "not this name")
				return true
			})
			return first.directory
		},
	} {
		t.Run(name, func(t *testing.T) {
			z := newZone(t, "fallback.test")
			h := newHouse(t, z)
			first := newPebble(t, h.config.HTTPPort, h.config.HTTPSPort, z, pebbleOptions{})
			second := newPebble(t, h.config.HTTPPort, h.config.HTTPSPort, z, pebbleOptions{})
			h.config.Roots = both(first, second)
			h.open()
			source := acmeAt(first)
			source.Directory = refuse(first)
			source.Fallback = []routes.Authority{{Directory: second.directory}}
			h.keeper.Set(source, []string{"lms.fallback.test"})
			s := h.phase("lms.fallback.test", Valid)
			serial := h.shown("lms.fallback.test", second.issued).SerialNumber
			if s.LastError != "" || s.Attempts != 0 {
				t.Errorf("state: %+v", s)
			}
			h.again()
			h.keeper.Set(source, []string{"lms.fallback.test"})
			if h.shown("lms.fallback.test", second.issued).SerialNumber.Cmp(serial) != 0 || second.orders() != 1 {
				t.Error("the certificate of the second authority was not found again")
			}
		})
	}
}

func TestBothAuthoritiesRefuse(t *testing.T) {
	t.Parallel()
	z := newZone(t, "refused.test")
	h := newHouse(t, z)
	first := newPebble(t, h.config.HTTPPort, h.config.HTTPSPort, z, pebbleOptions{})
	h.config.Roots = first.itself
	first.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if isOrder(r) {
			problem(w, http.StatusForbidden, "caa", "CAA record for refused.test prevents issuance")
		}
		return isOrder(r)
	})
	h.open()
	source := acmeAt(first)
	source.Fallback = []routes.Authority{{Directory: "https://127.0.0.1:1/dir"}}
	h.keeper.Set(source, []string{"lms.refused.test"})
	s := h.phase("lms.refused.test", Failed)
	if s.Problem != "caa" || !strings.Contains(s.LastError, "CAA record for refused.test prevents issuance") {
		t.Errorf("%q: %s", s.Problem, s.LastError)
	}
	if wait := time.Until(s.NextAttempt); s.Attempts != 1 || wait < 30*time.Second || wait > 2*time.Minute {
		t.Errorf("attempt %d, next in %s", s.Attempts, wait)
	}
}

// A domain and its wildcard have their proofs under the same name at the same
// time: each value is taken away alone, and those of others stay.
func TestWildcardByDNS(t *testing.T) {
	t.Parallel()
	h, p, z := oneAuthority(t, "wild.test", pebbleOptions{})
	const proofs = "_acme-challenge.wild.test"
	z.set(func() { z.txt[proofs] = []string{"of somebody else"} })
	source := acmeAt(p)
	source.Wildcards = []string{"*.wild.test"}
	source.DNS = &routes.DNSProvider{Name: "rfc2136", Settings: map[string]routes.Secret{
		"server": routes.Secret(z.address), "key_name": "proofs", "key": tsigKey,
	}}
	if err := CheckSource(source); err != nil {
		t.Fatal(err)
	}
	h.keeper.Set(source, []string{"wild.test", "lms.wild.test", "cms.wild.test"})
	h.phase("wild.test", Valid)
	h.phase("*.wild.test", Valid)
	s := h.state("lms.wild.test")
	if s.Phase != Valid || s.Wildcard != "*.wild.test" || s.Challenge != "dns-01" {
		t.Errorf("covered by the wildcard: %+v", s)
	}
	for _, name := range []string{"wild.test", "lms.wild.test", "cms.wild.test"} {
		h.shown(name, p.issued)
	}
	if p.orders() != 2 {
		t.Errorf("%d orders for a name and a wildcard", p.orders())
	}
	z.set(func() {
		if !slices.Equal(z.txt[proofs], []string{"of somebody else"}) {
			t.Errorf("left in the zone: %q", z.txt[proofs])
		}
		if len(z.added) != 2 || z.added[0] == z.added[1] {
			t.Errorf("proofs: %q", z.added)
		}
	})
}

func TestWrongTSIGKey(t *testing.T) {
	t.Parallel()
	h, p, z := oneAuthority(t, "tsig.test", pebbleOptions{})
	source := acmeAt(p)
	wrong := base64.StdEncoding.EncodeToString([]byte("another key of somebody"))
	source.DNS = &routes.DNSProvider{Name: "rfc2136", Settings: map[string]routes.Secret{
		"server": routes.Secret(z.address), "key_name": "proofs", "key": routes.Secret(wrong),
	}}
	h.keeper.Set(source, []string{"lms.tsig.test"})
	s := h.phase("lms.tsig.test", Failed)
	if !strings.Contains(s.LastError, "rfc2136") || strings.Contains(s.LastError, wrong) {
		t.Errorf("error: %s", s.LastError)
	}
}

// Damage that would stop certmagic for ever without a word.
func TestDamageHeals(t *testing.T) {
	t.Parallel()
	file := func(h *house, pattern string) string {
		h.t.Helper()
		found, err := filepath.Glob(filepath.Join(h.config.Dir, "acme", strings.ReplaceAll(pattern, "NAME", h.lms)))
		if err != nil || len(found) != 1 {
			h.t.Fatalf("%s: %q, %v", pattern, found, err)
		}
		return found[0]
	}
	write := func(pattern, text string) func(*house) {
		return func(h *house) {
			if err := os.WriteFile(file(h, pattern), []byte(text), 0o600); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	zeros := strings.Repeat("\x00", 300)
	lock := func(text string) func(*house) {
		return func(h *house) {
			path := filepath.Join(h.config.Dir, "acme", "locks", "issue_cert_"+h.lms+".lock")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				h.t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				h.t.Fatal(err)
			}
			write("certificates/*/NAME/NAME.crt", "")(h) // so that there is something to order
		}
	}
	apex := 0
	for name, damage := range map[string]func(*house){
		"certificate empty":   write("certificates/*/NAME/NAME.crt", ""),
		"certificate rubbish": write("certificates/*/NAME/NAME.crt", "rubbish"),
		"key empty":           write("certificates/*/NAME/NAME.key", ""),
		"key zeros":           write("certificates/*/NAME/NAME.key", zeros),
		"json empty":          write("certificates/*/NAME/NAME.json", ""),
		"json missing": func(h *house) {
			if err := os.Remove(file(h, "certificates/*/NAME/NAME.json")); err != nil {
				h.t.Fatal(err)
			}
		},
		"account key empty": func(h *house) {
			write("acme/*/users/*/*.key", "")(h)
			write("certificates/*/NAME/NAME.crt", "")(h)
		},
		"account json zeros": func(h *house) {
			write("acme/*/users/*/*.json", zeros)(h)
			write("certificates/*/NAME/NAME.crt", "")(h)
		},
		"record of orders rubbish": func(h *house) {
			write("orders.json", zeros)(h)
			write("certificates/*/NAME/NAME.crt", "")(h)
		},
		"lock of zeros":          lock(zeros),
		"lock empty":             lock(""),
		"lock of a dead process": lock(`{"created":"` + time.Now().Format(time.RFC3339) + `","updated":"` + time.Now().Format(time.RFC3339) + `"}`),
		"lock of a dead clock":   lock(`{"created":"2099-01-01T00:00:00Z","updated":"2099-01-01T00:00:00Z"}`),
	} {
		apex++
		// certmagic knows challenges by name alone, for the whole process.
		lms := fmt.Sprintf("lms.damage%d.test", apex)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, p := healing(t, lms)
			h.close()
			damage(h)
			h.open()
			h.keeper.Set(acmeAt(p), []string{h.lms})
			h.phase(h.lms, Valid)
			h.shown(h.lms, p.issued)
		})
	}
}

// healing is a house with one certificate.
func healing(t *testing.T, lms string) (*house, *pebble) {
	h, p, _ := oneAuthority(t, "damage.test", pebbleOptions{})
	h.lms = lms
	h.keeper.Set(acmeAt(p), []string{h.lms})
	h.phase(h.lms, Valid)
	return h, p
}

// An account that the authority does not know, as after a restore from another
// server or a test authority that was set up anew.
func TestAccountOfAnotherAuthority(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(w http.ResponseWriter){
		"malformed": func(w http.ResponseWriter) {
			problem(w, http.StatusBadRequest, "malformed", "Account ID is not of this server")
		},
		"unknown": func(w http.ResponseWriter) {
			problem(w, http.StatusBadRequest, "accountDoesNotExist", "no such account")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, p, _ := oneAuthority(t, "account.test", pebbleOptions{})
			h.keeper.Set(acmeAt(p), []string{"lms.account.test"})
			h.phase("lms.account.test", Valid)
			// A renewal would join the first order while that ends.
			h.until("the first order has ended", func() bool {
				o := h.keeper.orders
				o.mu.RLock()
				defer o.mu.RUnlock()
				return o.names["lms.account.test"].running == nil
			})
			made := func() int { p.mu.Lock(); defer p.mu.Unlock(); return p.asked["sign-me-up"] }
			before := made()
			p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if isOrder(r) && made() == before {
					refuse(w)
					return true
				}
				return false
			})
			if _, err := h.keeper.Renew(t.Context(), "lms.account.test"); err != nil {
				t.Fatal(err)
			}
			if made() != before+1 {
				t.Errorf("%d accounts were made", made()-before)
			}
		})
	}
}

// A disk that is full, or that cannot be written to, costs no order, is told
// in words, and heals.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	h, p, _ := oneAuthority(t, "disk.test", pebbleOptions{})
	h.close()
	dir := t.TempDir()
	if err := unix.Mount("tarima-certs-test", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("a small disk for the test (needs root): %v", err)
	}
	t.Cleanup(func() {
		h.close()
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	h.config.Dir = dir
	h.open()
	full := filepath.Join(dir, "full")
	fill := func() {
		f, err := os.Create(full)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for {
			if _, err := f.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}
	fill()
	h.keeper.Set(acmeAt(p), []string{"lms.disk.test"})
	s := h.phase("lms.disk.test", Failed)
	if !strings.Contains(s.LastError, "no space left") || p.orders() != 0 {
		t.Errorf("%d orders, error: %s", p.orders(), s.LastError)
	}
	if wait := time.Until(s.NextAttempt); wait > watchEvery || s.Attempts != 0 {
		t.Errorf("next attempt in %s, attempts %d", wait, s.Attempts)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := h.keeper.Renew(t.Context(), "lms.disk.test"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("read-only: %v", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := h.keeper.Renew(t.Context(), "lms.disk.test"); err != nil {
		t.Fatal(err)
	}
	h.shown("lms.disk.test", p.issued)
	// Full again while everything is there: served on.
	fill()
	h.shown("lms.disk.test", p.issued)
}

// A renewal is served at once, and no visitor notices.
func TestRenewIsServed(t *testing.T) {
	t.Parallel()
	h, p, _ := oneAuthority(t, "renew.test", pebbleOptions{})
	h.keeper.Set(acmeAt(p), []string{"lms.renew.test"})
	h.phase("lms.renew.test", Valid)
	old := h.shown("lms.renew.test", p.issued)
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := h.visit("lms.renew.test", p.issued); err != nil {
				failed <- err
				return
			}
		}
	}()
	s, err := h.keeper.Renew(t.Context(), "lms.renew.test")
	if err != nil {
		t.Fatal(err)
	}
	now := h.shown("lms.renew.test", p.issued)
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("a visitor during the renewal: %v", err)
	}
	if now.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Error("the old certificate is served")
	}
	if !s.NotAfter.Equal(now.NotAfter) || s.Budget.Same != 2 {
		t.Errorf("state: %+v, budget %+v", s, s.Budget)
	}
	if _, err := h.keeper.Renew(t.Context(), "stranger.test"); !errors.Is(err, ErrUnknownName) {
		t.Errorf("another name: %v", err)
	}
	// Five a week are all that the authority allows.
	for range 3 {
		if _, err := h.keeper.Renew(t.Context(), "lms.renew.test"); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := h.keeper.Renew(t.Context(), "lms.renew.test"); !errors.Is(err, ErrHeld) || s.Phase != Valid {
		t.Errorf("a sixth certificate in a week: %v, %+v", err, s)
	}
}

// The successor of this certificate was lost, as after a restore: the
// authority refuses another replacement, and a new order is made.
func TestAlreadyReplaced(t *testing.T) {
	t.Parallel()
	h, p, _ := oneAuthority(t, "replaced.test", pebbleOptions{})
	h.keeper.Set(acmeAt(p), []string{"lms.replaced.test"})
	h.phase("lms.replaced.test", Valid)
	h.close()
	folder := filepath.Join(h.config.Dir, "acme", "certificates")
	saved := filepath.Join(t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	h.open()
	h.keeper.Set(acmeAt(p), []string{"lms.replaced.test"})
	if _, err := h.keeper.Renew(t.Context(), "lms.replaced.test"); err != nil {
		t.Fatal(err)
	}
	h.close()
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(folder, os.DirFS(saved)); err != nil {
		t.Fatal(err)
	}
	h.open()
	h.keeper.Set(acmeAt(p), []string{"lms.replaced.test"})
	before := p.orders()
	if _, err := h.keeper.Renew(t.Context(), "lms.replaced.test"); err != nil {
		t.Fatal(err)
	}
	if p.orders() != before+2 {
		t.Errorf("%d orders: one with and one without the old certificate were expected", p.orders()-before)
	}
}

// What an authority says about when to come back is heeded.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status     int
		kind       string
		retryAfter string
		others     bool // are held as well
	}{
		"rate limit of a name": {http.StatusTooManyRequests, "rateLimited", "7200", false},
		"a date":               {http.StatusTooManyRequests, "rateLimited", time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat), false},
		"an authority at rest": {http.StatusServiceUnavailable, "serverInternal", "7200", true},
	} {
		t.Run(name, func(t *testing.T) {
			h, p, _ := oneAuthority(t, "later.test", pebbleOptions{})
			p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if !isOrder(r) {
					return false
				}
				w.Header().Set("Retry-After", c.retryAfter)
				problem(w, c.status, c.kind, "too many")
				return true
			})
			h.keeper.Set(acmeAt(p), []string{"lms.later.test"})
			h.phase("lms.later.test", Failed)
			p.intercept(nil)
			sent := p.orders()
			if _, err := h.keeper.Renew(t.Context(), "lms.later.test"); !errors.Is(err, ErrHeld) {
				t.Errorf("asked again: %v", err)
			}
			s := h.state("lms.later.test")
			if wait := time.Until(s.NextAttempt); wait < 119*time.Minute || wait > 121*time.Minute {
				t.Errorf("next attempt in %s", wait)
			}
			// A restart does not make it forget.
			h.again()
			h.keeper.Set(acmeAt(p), []string{"lms.later.test", "cms.later.test"})
			if c.others {
				if s := h.phase("cms.later.test", Failed); !strings.Contains(s.LastError, "asked to wait") {
					t.Errorf("another name: %+v", s)
				}
			} else {
				h.phase("cms.later.test", Valid)
				sent++
			}
			if p.orders() != sent {
				t.Errorf("%d orders, %d expected", p.orders(), sent)
			}
		})
	}
}

func (h *house) visit(name string, roots *x509Pool) error {
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string) (conn, error) {
			return dialTLS(ctx, network, h.https, name, roots)
		},
		DisableKeepAlives: true,
	}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	u := url.URL{Scheme: "https", Host: name, Path: "/"}
	resp, err := client.Get(u.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// A check before an order that is under way when the source changes, or the
// process ends, holds up neither.
func TestChangeDuringAnAttempt(t *testing.T) {
	t.Parallel()
	h, p, _ := oneAuthority(t, "change.test", pebbleOptions{})
	asked, release := make(chan struct{}, 10), make(chan struct{})
	p.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/dir" {
			asked <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	})
	h.keeper.Set(acmeAt(p), []string{"lms.change.test"})
	<-asked
	other := acmeAt(p)
	other.Email = "eva@escuela.test"
	h.keeper.Set(other, []string{"lms.change.test"})
	if c := h.shown("lms.change.test", h.both(p)); c == nil {
		t.Error("nothing is shown")
	}
	<-asked
	h.keeper.Set(routes.TLS{Mode: ModeLocal}, []string{"lms.change.test"})
	h.close()
	close(release)
}
