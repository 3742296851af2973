package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"tarima/proxy/routes"
)

// strict is an authority that counts: an order beyond a limit is an error of
// the test. Limits count from when it happened, by the authority's own clock.
type strict struct {
	t    *testing.T
	name string
	key  *ecdsa.PrivateKey
	root *x509.Certificate
	seen *seen
	life time.Duration

	mu     sync.Mutex
	orders []entry
	issued []entry
	failed []entry
	// refuse is the error for a name at a time; nil: none.
	refuse func(name string, now time.Time) error
	// window is what GetRenewalInfo answers for a certificate; nil: nothing.
	window func(*x509.Certificate) (start, end time.Time)
	asked  int // for renewal information
}

func newStrict(t *testing.T, name string) *strict {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Strict " + name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &strict{t: t, name: name, key: key, root: root, seen: newSeen(), life: 90 * 24 * time.Hour}
}

// IssuerKey implements certmagic.Issuer.
func (s *strict) IssuerKey() string { return s.name }

// Issue implements certmagic.Issuer.
func (s *strict) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, name := time.Now(), csr.DNSNames[0]
	s.orders = append(s.orders, entry{name, now})
	s.count("orders in three hours", s.orders, func(entry) bool { return true }, ordersLimit, ordersSpan, now)
	if s.refuse != nil {
		if err := s.refuse(name, now); err != nil {
			var p acme.Problem
			if asProblem(err, &p) && p.Type != acme.ProblemTypeRateLimited {
				s.failed = append(s.failed, entry{name, now})
				s.seen.challenge(name, acme.ChallengeTypeHTTP01, true)
				s.count("failed validations of "+name, s.failed, func(e entry) bool { return e.Name == name }, failedLimit, failedSpan, now)
			}
			return nil, err
		}
	}
	s.issued = append(s.issued, entry{name, now})
	s.count("certificates of "+name, s.issued, func(e entry) bool { return e.Name == name }, sameLimit, week, now)
	s.count("certificates of a domain", s.issued, func(e entry) bool { return registered(e.Name) == registered(name) }, weekLimit, week, now)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(s.issued) + 1)), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(s.life),
		DNSNames: []string{name}, Subject: pkix.Name{CommonName: name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.root, csr.PublicKey, s.key)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Metadata: map[string]string{"ca": s.name},
	}, nil
}

func asProblem(err error, p *acme.Problem) bool {
	found, ok := err.(acme.Problem) //nolint:errorlint // as the test made it
	if ok {
		*p = found
	}
	return ok
}

// count fails the test when the newest entry is one too many.
func (s *strict) count(what string, list []entry, match func(entry) bool, most int, span time.Duration, now time.Time) {
	n := 0
	for i := len(list) - 1; i >= 0 && now.Sub(list[i].At) < span; i-- {
		if match(list[i]) {
			n++
		}
	}
	if n > most {
		s.t.Errorf("%s: %d %s, %d are allowed", now.Format(time.RFC3339), n, what, most)
	}
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter.
func (s *strict) GetRenewalInfo(_ context.Context, c certmagic.Certificate) (acme.RenewalInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.window == nil {
		return acme.RenewalInfo{}, acme.ErrUnsupported
	}
	var info acme.RenewalInfo
	info.SuggestedWindow.Start, info.SuggestedWindow.End = s.window(c.Certificate.Leaf)
	info.SelectedTime = info.SuggestedWindow.Start.Add(info.SuggestedWindow.End.Sub(info.SuggestedWindow.Start) / 2)
	again := time.Now().Add(6 * time.Hour)
	info.RetryAfter = &again
	return info, nil
}

func (s *strict) total() (orders, issued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.orders), len(s.issued)
}

// inMemory is a folder whose files are synced at once: a simulated year writes
// more than a real disk likes.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tarima-certs-") //nolint:usetesting // not in the folder of tests
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// schedule is the part of a Keeper that orders, with strict authorities.
func schedule(t *testing.T, dir string, authorities ...*strict) *orders {
	t.Helper()
	c := Config{Dir: dir, Logger: quiet(), Changed: func(State) {}}
	source := routes.TLS{Mode: ModeACME, Directory: "https://strict0.test/dir"}
	for i := range authorities[1:] {
		source.Fallback = append(source.Fallback, routes.Authority{Directory: fmt.Sprintf("https://strict%d.test/dir", i+1)})
	}
	o, err := newOrders(c, source)
	if err != nil {
		t.Fatal(err)
	}
	for n, s := range authorities {
		i := o.issuers[n]
		i.key, i.advisor, i.seen, i.acme = s.name, s, s.seen, nil
		i.first.Issuers = []certmagic.Issuer{s}
		i.renewing.Issuers = []certmagic.Issuer{s}
	}
	return o
}

func twenty() []string {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("campus%02d.example.org", i))
	}
	return names
}

const day = 24 * time.Hour

// valid fails the test when a name has no valid certificate.
func (o *orders) valid(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		if o.certificateOf(name) == nil {
			t.Errorf("%s: no certificate for %s: %+v", time.Now().Format(time.RFC3339), name, o.state(name))
		}
	}
}

// A year with twenty names: every one always has a certificate, each is
// renewed once in its life, and no limit is touched.
func TestYear(t *testing.T) {
	for name, c := range map[string]struct {
		life        time.Duration
		advice      bool
		days        int
		least, most int // certificates of one name
	}{
		"90 days, advised":    {90 * day, true, 365, 6, 8},
		"45 days":             {45 * day, false, 180, 5, 7},
		"6 days (shortlived)": {160 * time.Hour, false, 60, 16, 21},
	} {
		t.Run(name, func(t *testing.T) {
			dir := inMemory(t)
			synctest.Test(t, func(t *testing.T) {
				s := newStrict(t, "year")
				s.life = c.life
				if c.advice {
					s.window = func(l *x509.Certificate) (time.Time, time.Time) {
						return l.NotAfter.Add(-31 * day), l.NotAfter.Add(-29 * day)
					}
				}
				o := schedule(t, dir, s)
				names := twenty()
				if c.life < 10*day {
					names = names[:2] // 50 certificates for a domain in a week
				}
				o.setNames(names)
				o.begin()
				<-time.After(time.Hour)
				for range c.days {
					o.valid(t, names)
					<-time.After(day)
				}
				per := map[string]int{}
				s.mu.Lock()
				for _, e := range s.issued {
					per[e.Name]++
				}
				s.mu.Unlock()
				for _, name := range names {
					if per[name] < c.least || per[name] > c.most {
						t.Errorf("%d certificates for %s", per[name], name)
					}
				}
				o.close()
			})
		})
	}
}

// An authority that is down for a week at the worst time costs nothing but
// patience; with another one behind it, not even that.
func TestAuthorityDownForAWeek(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		t.Run(fmt.Sprint("fallback ", fallback), func(t *testing.T) {
			dir := inMemory(t)
			synctest.Test(t, func(t *testing.T) {
				first, second := newStrict(t, "first"), newStrict(t, "second")
				down := time.Now().Add(59 * day)
				first.refuse = func(_ string, now time.Time) error {
					if now.After(down) && now.Before(down.Add(7*day)) {
						return fmt.Errorf("dial tcp: connection refused")
					}
					return nil
				}
				all := []*strict{first}
				if fallback {
					all = append(all, second)
				}
				o := schedule(t, dir, all...)
				names := twenty()
				o.setNames(names)
				o.begin()
				<-time.After(58 * day)
				before, _ := first.total()
				for range 12 {
					<-time.After(day)
					o.valid(t, names)
				}
				orders, issued := first.total()
				if tries := orders - before; !fallback && (tries < 20*7 || tries > 20*7*8) {
					t.Errorf("%d orders in that time", tries)
				}
				if _, other := second.total(); other != 0 != fallback {
					t.Errorf("%d certificates of the second authority", other)
				}
				if !fallback && issued != 40 {
					t.Errorf("%d certificates", issued)
				}
				o.close()
			})
		})
	}
}

// A name that cannot be proved is tried less and less often, and never more
// often than the authority allows; it holds up nobody else. When it is mended
// the administrator need not wait.
func TestHopelessName(t *testing.T) {
	dir := inMemory(t)
	synctest.Test(t, func(t *testing.T) {
		s := newStrict(t, "hopeless")
		mended := false
		s.refuse = func(name string, _ time.Time) error {
			if name == "lost.example.org" && !mended {
				return acme.Problem{Status: http.StatusForbidden, Type: acme.ProblemTypeConnection, Detail: "connection refused"}
			}
			return nil
		}
		o := schedule(t, dir, s)
		o.setNames([]string{"lost.example.org", "lms.example.org"})
		o.begin()
		<-time.After(time.Minute)
		o.valid(t, []string{"lms.example.org"})
		<-time.After(30 * day)
		orders, _ := s.total()
		if orders < 80 || orders > 140 {
			t.Errorf("%d orders in a month", orders)
		}
		st := o.state("lost.example.org")
		if st.Phase != Failed || st.Problem != "connection" || st.Attempts < 80 || st.LastError != "connection: connection refused" {
			t.Errorf("state: %+v", st)
		}
		if wait := time.Until(st.NextAttempt); wait < 0 || wait > 7*time.Hour {
			t.Errorf("next attempt in %s", wait)
		}
		s.mu.Lock()
		mended = true
		s.mu.Unlock()
		if err := o.renew(t.Context(), "lost.example.org"); err != nil {
			t.Error(err)
		}
		o.valid(t, []string{"lost.example.org"})
		o.close()
	})
}

// An administrator who tries again and again cannot get over the limits.
func TestImpatientAdministrator(t *testing.T) {
	dir := inMemory(t)
	synctest.Test(t, func(t *testing.T) {
		s := newStrict(t, "impatient")
		s.refuse = func(string, time.Time) error {
			return acme.Problem{Status: http.StatusForbidden, Type: acme.ProblemTypeUnauthorized, Detail: "no"}
		}
		o := schedule(t, dir, s)
		o.setNames([]string{"lms.example.org"})
		o.begin()
		for range 200 {
			<-time.After(time.Minute)
			_ = o.renew(t.Context(), "lms.example.org")
		}
		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		<-time.After(2 * time.Hour)
		for range 200 {
			<-time.After(time.Hour)
			_ = o.renew(t.Context(), "lms.example.org")
		}
		if _, issued := s.total(); issued < sameLimit || issued > 2*sameLimit+1 {
			t.Errorf("%d certificates", issued)
		}
		o.close()
	})
}

// A process that dies and starts again all the time keeps to the limits too.
func TestRestartLoop(t *testing.T) {
	dir := inMemory(t)
	synctest.Test(t, func(t *testing.T) {
		s := newStrict(t, "loop")
		s.refuse = func(name string, _ time.Time) error {
			if strings.HasPrefix(name, "lost") {
				return acme.Problem{Status: http.StatusForbidden, Type: acme.ProblemTypeDNS, Detail: "NXDOMAIN"}
			}
			return nil
		}
		for range 300 {
			o := schedule(t, dir, s)
			o.setNames([]string{"lost.example.org", "lms.example.org"})
			o.begin()
			<-time.After(20 * time.Second)
			// The worst that can be lost: what was issued.
			if err := os.RemoveAll(filepath.Join(dir, "acme", "certificates")); err != nil {
				t.Fatal(err)
			}
			o.close()
		}
		if _, issued := s.total(); issued == 0 || issued > sameLimit {
			t.Errorf("%d certificates", issued)
		}
	})
}

// A clock that was years ahead, or years behind, when certificates were
// ordered, and that was set right.
func TestClockJumps(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 5 * 365 * day, "behind": -5 * 365 * day} {
		t.Run(name, func(t *testing.T) {
			dir := inMemory(t)
			synctest.Test(t, func(t *testing.T) {
				s := newStrict(t, "clock")
				names := twenty()[:3]
				o := schedule(t, dir, s)
				o.setNames(names)
				o.begin()
				<-time.After(time.Hour)
				o.close()
				// What it wrote down is of another time.
				l := openLedger(filepath.Join(dir, "acme"), quiet())
				for _, a := range l.data.Authorities {
					for _, list := range [][]entry{a.Orders, a.Issued, a.Failed} {
						for i := range list {
							list[i].At = list[i].At.Add(off)
						}
					}
					a.Until = time.Now().Add(off)
				}
				for _, m := range l.data.Names {
					m.LastAttempt, m.NextAttempt, m.Until = time.Now().Add(off), time.Now().Add(off), time.Now().Add(off)
				}
				if err := l.save(); err != nil {
					t.Fatal(err)
				}
				if err := os.RemoveAll(filepath.Join(dir, "acme", "certificates")); err != nil {
					t.Fatal(err)
				}
				o = schedule(t, dir, s)
				o.setNames(names)
				o.begin()
				<-time.After(8 * day)
				o.valid(t, names)
				<-time.After(365 * day)
				o.valid(t, names)
				o.close()
			})
		})
	}
}

// The advice of an authority to renew early, as before a mass revocation, is
// heeded; advice that is no use is not.
func TestAdvice(t *testing.T) {
	dir := inMemory(t)
	synctest.Test(t, func(t *testing.T) {
		s := newStrict(t, "advice")
		revoked := big.NewInt(0)
		var mu sync.Mutex
		s.window = func(l *x509.Certificate) (time.Time, time.Time) {
			mu.Lock()
			defer mu.Unlock()
			if l.SerialNumber.Cmp(revoked) == 0 {
				return time.Now().Add(-2 * day), time.Now().Add(-day)
			}
			return l.NotAfter.Add(day), l.NotAfter.Add(2 * day) // after its end
		}
		o := schedule(t, dir, s)
		names := []string{"lms.example.org"}
		o.setNames(names)
		o.begin()
		<-time.After(5 * day)
		first := o.certificateOf(names[0])
		if _, issued := s.total(); issued != 1 {
			t.Fatalf("%d certificates", issued)
		}
		mu.Lock()
		revoked = first.Leaf.SerialNumber
		mu.Unlock()
		<-time.After(7 * time.Hour)
		if now := o.certificateOf(names[0]); now == nil || serial(now) == serial(first) {
			t.Error("the advice to renew at once was not heeded")
		}
		for range 100 {
			<-time.After(day)
			o.valid(t, names)
		}
		s.mu.Lock()
		asked := s.asked
		s.mu.Unlock()
		if asked > 5*110 {
			t.Errorf("asked %d times in 105 days", asked)
		}
		o.close()
	})
}

// Two processes do not order at the same time: a successor waits until its
// predecessor has given up.
func TestSuccessorWaits(t *testing.T) {
	dir := inMemory(t)
	synctest.Test(t, func(t *testing.T) {
		s := newStrict(t, "successor")
		elder := schedule(t, dir, s)
		elder.setNames([]string{"lms.example.org"})
		elder.begin()
		<-time.After(time.Minute)
		next := schedule(t, dir, s)
		next.setNames([]string{"lms.example.org", "cms.example.org"})
		next.begin()
		<-time.After(10 * time.Minute)
		if next.certificateOf("cms.example.org") != nil {
			t.Error("two processes order")
		}
		elder.retire()
		elder.valid(t, []string{"lms.example.org"}) // served on
		<-time.After(3 * time.Second)
		next.valid(t, []string{"lms.example.org", "cms.example.org"})
		next.close()
		elder.close()
	})
}
