package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/sys/unix"

	"tarima/proxy/routes"
)

// acmeChallenge is where HTTP-01 (RFC 8555 section 8.3) asks.
const acmeChallenge = "/.well-known/acme-challenge/"

const (
	// atOnce is how many names are worked on at the same time.
	atOnce = 4
	// takeOver is how often a successor looks whether its predecessor is done.
	takeOver = time.Second
	// attemptFor bounds one attempt: a proof in a slow zone takes minutes.
	attemptFor = 15 * time.Minute
	// newAccountEvery is how often an account that its authority does not
	// know may be made anew.
	newAccountEvery = 24 * time.Hour
)

// orders gets certificates from public authorities, for known names only and
// never on demand. When, and whether at all, is decided here: certmagic is
// asked for one attempt at a time and never tries again by itself. Its own
// schedule goes silent on a full disk or a damaged file and does not know of
// limits.
type orders struct {
	logger  *slog.Logger
	changed func(State)
	storage *storage
	cache   *certmagic.Cache
	issuers []*issuer
	ledger  *ledger
	// doubt looks at a name before its first order; nil: nobody does. An
	// error keeps the order back for a while.
	doubt func(ctx context.Context, name string) error

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup
	wake chan struct{}
	lock *os.File // held while this process orders; nil: not yet

	mu    sync.RWMutex
	names map[string]*order
}

// order is what is known of one name.
type order struct {
	cert   *tls.Certificate // nil: none
	serial string           // of cert, as in advice
	issuer string           // key of who signed cert
	// running is closed when the attempt under way has ended; nil: there is
	// none. err is its result.
	running *attempt
	told    told
}

type attempt struct {
	ended chan struct{}
	err   error // once ended
	// inquiry asks for advice alone and orders nothing.
	inquiry bool
}

// told is what others were told of a name last.
type told struct {
	phase     Phase
	lastError string
}

// newOrders begins with no names. The first turn of its loop is taken when
// there are some.
func newOrders(c Config, source routes.TLS) (*orders, error) {
	o := &orders{
		logger: c.Logger, changed: c.Changed, storage: newStorage(filepath.Join(c.Dir, "acme")),
		wake: make(chan struct{}, 1), names: map[string]*order{},
	}
	o.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return o.issuers[0].first, nil },
		Logger:           zapTo(c.Logger),
		// Nothing is kept in it: certificates are looked after here.
		RenewCheckInterval: 100 * 365 * 24 * time.Hour, OCSPCheckInterval: 100 * 365 * 24 * time.Hour,
	})
	var err error
	if o.issuers, err = newIssuers(c, source, o.cache, o.storage); err != nil {
		o.cache.Stop()
		return nil, err
	}
	o.ledger = openLedger(o.storage.Path, c.Logger)
	o.ctx, o.stop = context.WithCancel(context.Background())
	// Of a version that locked with files; a power cut fills such a file with
	// zeros.
	if err := os.RemoveAll(filepath.Join(o.storage.Path, "locks")); err != nil {
		o.logger.Warn("old locks of certificates cannot be removed", "error", err)
	}
	o.repair("")
	return o, nil
}

// begin the loop.
func (o *orders) begin() { o.done.Go(o.run) }

func (o *orders) repair(name string) {
	for _, folder := range o.storage.repair(name) {
		o.logger.Error("a damaged certificate or account was set aside and is asked for again", "folder", folder)
	}
}

func (o *orders) setNames(names []string) {
	next := map[string]*order{}
	o.mu.Lock()
	for _, name := range names {
		n := o.names[name]
		if n == nil {
			n = &order{told: told{phase: Waiting}}
		}
		next[name] = n
	}
	var added []string
	for name := range next {
		if o.names[name] == nil {
			added = append(added, name)
		}
	}
	o.names = next
	o.mu.Unlock()
	o.ledger.keep(names)
	// Those on disk are loaded here and now, or the first visitors after a
	// restart would meet the stand-in.
	for _, name := range added {
		o.load(name)
		o.tell(name)
	}
	o.poke()
}

func (o *orders) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// load the best stored certificate of a name.
func (o *orders) load(name string) bool {
	var best *tls.Certificate
	key := ""
	for _, i := range o.issuers {
		c := i.load(o.ctx, name)
		if c != nil && time.Now().Before(c.Leaf.NotAfter) && (best == nil || c.Leaf.NotAfter.After(best.Leaf.NotAfter)) {
			best, key = c, i.key
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := o.names[name]; n != nil && best != nil {
		n.cert, n.serial, n.issuer = best, serial(best), key
	}
	return best != nil
}

func (o *orders) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-o.ctx.Done():
			return
		case <-o.wake:
		case <-timer.C:
		}
		timer.Reset(max(min(time.Until(o.turn()), watchEvery), 0))
	}
}

// owns says whether this process is the one that orders. After a handover the
// predecessor may still be at it; the kernel takes the lock from a dead one.
// The caller holds the mutex.
func (o *orders) owns() bool {
	if o.lock != nil {
		return true
	}
	if err := os.MkdirAll(o.storage.Path, 0o700); err != nil {
		return true // nobody else can have it either, and the attempt will say what is wrong
	}
	f, err := os.OpenFile(filepath.Join(o.storage.Path, ".owner"), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		_ = f.Close() // nothing was written
		return false
	}
	o.lock = f
	return true
}

// turn begins what is due and returns when to look again.
func (o *orders) turn() time.Time {
	now := time.Now()
	next := now.Add(watchEvery)
	o.mu.RLock()
	names := slices.Sorted(maps.Keys(o.names))
	o.mu.RUnlock()
	// The record may be on its slow way to the disk just now: handshakes,
	// which ask for a certificate, must not wait for that.
	memories := o.ledger.all(names)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.owns() {
		return now.Add(takeOver)
	}
	busy := 0
	for _, n := range o.names {
		if n.running != nil {
			busy++
		}
	}
	for i, name := range names {
		n, m := o.names[name], memories[i]
		if n == nil || n.running != nil {
			continue
		}
		if at := due(name, n.cert, n.serial, m); at.After(now) {
			next = earlier(next, at)
		} else if busy < atOnce {
			busy++
			o.start(name, n, func(ctx context.Context) error { return o.attempt(ctx, name, false) })
			continue
		}
		if n.cert != nil && busy < atOnce && o.adviceDue(n, m, now) {
			busy++
			o.start(name, n, func(ctx context.Context) error { o.advise(ctx, name); return nil }).inquiry = true
		}
	}
	return next
}

// due is when the next attempt for a name may begin.
func due(name string, cert *tls.Certificate, serial string, m memory) time.Time {
	var at time.Time
	if cert != nil {
		a := m.Advice
		if a.Serial != serial {
			a = advice{}
		}
		at = renewAt(name, cert.Leaf.NotBefore, cert.Leaf.NotAfter, a)
	}
	for _, t := range []time.Time{m.NextAttempt, m.Until} {
		if t.After(at) {
			at = t
		}
	}
	return at
}

func serial(c *tls.Certificate) string { return c.Leaf.SerialNumber.Text(16) }

// start work on a name. The caller holds the lock.
func (o *orders) start(name string, n *order, work func(context.Context) error) *attempt {
	a := &attempt{ended: make(chan struct{})}
	n.running = a
	o.done.Go(func() {
		ctx, cancel := context.WithTimeout(o.ctx, attemptFor)
		defer cancel()
		a.err = work(ctx)
		o.mu.Lock()
		n.running = nil
		o.mu.Unlock()
		close(a.ended)
		o.tell(name)
		o.poke()
	})
	return a
}

// attempt to get a certificate for a name, and remember how it went. manual
// is an administrator's own command: it may use up the limits.
func (o *orders) attempt(ctx context.Context, name string, manual bool) error {
	began := time.Now()
	if o.certificateOf(name) == nil {
		o.tellPhase(name, Obtaining)
	}
	err := o.try(ctx, name, manual)
	if o.ctx.Err() != nil {
		return o.ctx.Err() // the end of this process is nobody's failure
	}
	var later *laterError
	switch {
	case err == nil:
		o.ledger.change(name, func(m *memory) {
			*m = memory{LastAttempt: began, Challenge: m.Challenge, Advice: m.Advice}
		})
		o.logger.Info("certificate obtained", "name", name, "took", time.Since(began).Round(time.Millisecond))
	case errors.As(err, &later):
		o.ledger.change(name, func(m *memory) {
			m.LastAttempt, m.NextAttempt = began, later.at
			m.Problem, m.LastError = explain(err)
		})
	default:
		o.ledger.change(name, func(m *memory) {
			m.Attempts++
			m.LastAttempt, m.NextAttempt = began, time.Now().Add(retryPause(name, m.Attempts))
			m.Problem, m.LastError = explain(err)
			o.logger.Warn("no certificate", "name", name, "attempt", m.Attempts, "next", m.NextAttempt.UTC().Format(time.RFC3339), "error", m.LastError)
		})
	}
	return err
}

func (o *orders) try(ctx context.Context, name string, manual bool) error {
	if err := o.storage.check(); err != nil {
		return &laterError{time.Now().Add(watchEvery), fmt.Errorf("certificates cannot be stored: %w", err)}
	}
	if !manual && o.doubt != nil && o.certificateOf(name) == nil {
		if err := o.doubted(ctx, name); err != nil {
			return err
		}
	}
	reserve := 1
	if manual {
		reserve = 0
	}
	var failures []error
	var free time.Time // when the limits allow the next order
	sent := false
	for _, i := range o.issuers {
		o.repair(name)
		until, err := o.ledger.order(i.key, name, reserve)
		if err != nil {
			failures = append(failures, err)
			if free.IsZero() || until.Before(free) {
				free = until
			}
			continue
		}
		sent = true
		if err = o.ask(ctx, i, name, reserve); err == nil {
			if !o.load(name) {
				return fmt.Errorf("the certificate from %s cannot be used", i.directory)
			}
			return nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	err := failures[0]
	if len(failures) > 1 {
		// The first authority's own problem is what is told first.
		err = fmt.Errorf("%w (the other authorities: %v)", err, texts(failures[1:]))
	}
	if !sent {
		return &laterError{free, err}
	}
	return err
}

func texts(errs []error) string {
	all := make([]string, len(errs))
	for i, err := range errs {
		_, all[i] = explain(err)
	}
	return strings.Join(all, "; ")
}

// ask one authority, and once more when it is plain how to do better.
func (o *orders) ask(ctx context.Context, i *issuer, name string, reserve int) error {
	proved, err := o.send(ctx, i, name, true)
	again := false
	switch {
	case err == nil || ctx.Err() != nil || proved:
	case isProblem(err, acme.ProblemTypeAlreadyReplaced, acme.ProblemTypeUnauthorized):
		// The authority has given a successor of this certificate already,
		// which is lost, or it gave this one to another account.
		again = true
	case isProblem(err, acme.ProblemTypeMalformed, acme.ProblemTypeAccountDoesNotExist):
		// As of an account that the authority never had: the folder is of
		// another server, or the authority was set up anew.
		if i.storage.hasAccount(i.key) && o.ledger.mayRenewAccount(i.key, newAccountEvery) {
			o.logger.Warn("the authority refuses the account; it is set aside and a new one made", "authority", i.directory, "error", err)
			again = i.setAccountAside() == nil
		}
	}
	if !again {
		return err
	}
	if _, held := o.ledger.order(i.key, name, reserve); held != nil {
		return err
	}
	_, err = o.send(ctx, i, name, false)
	return err
}

// send one order and write down what it cost. proved says whether it came as
// far as a challenge.
func (o *orders) send(ctx context.Context, i *issuer, name string, replaces bool) (proved bool, err error) {
	began := time.Now()
	err = i.order(ctx, name, replaces)
	challenge, failures, retryAfter := i.seen.take(name, began)
	var everybody time.Time
	if err != nil && retryAfter.After(time.Now()) {
		switch problemStatus(err) {
		case http.StatusTooManyRequests:
			o.ledger.note(name, func(m *memory) { m.Until = retryAfter }) // written with the outcome
		case http.StatusServiceUnavailable:
			everybody = retryAfter
		}
	}
	o.ledger.outcome(i.key, name, err == nil, failures, everybody)
	if challenge != "" {
		o.ledger.note(name, func(m *memory) { m.Challenge = challenge })
	}
	return challenge != "", err
}

// doubted asks whether a first order can succeed at all, and keeps it back
// when not, for doubtFor.
func (o *orders) doubted(ctx context.Context, name string) error {
	m := o.ledger.of(name)
	if !m.Doubted.IsZero() && time.Since(m.Doubted) > doubtFor {
		return nil
	}
	err := o.doubt(ctx, name)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	o.ledger.change(name, func(m *memory) {
		if m.Doubted.IsZero() {
			m.Doubted = time.Now()
		}
	})
	return &laterError{time.Now().Add(watchEvery), err}
}

// adviceDue says whether the authority should be asked when to renew.
func (o *orders) adviceDue(n *order, m memory, now time.Time) bool {
	if m.Advice.Serial != n.serial {
		return true
	}
	return now.After(m.Advice.Ask)
}

// advise asks the authority of a certificate when to renew it. Its answer is
// a hint: an error leaves what was known.
func (o *orders) advise(ctx context.Context, name string) {
	o.mu.RLock()
	n := o.names[name]
	var cert *tls.Certificate
	key := ""
	if n != nil {
		cert, key = n.cert, n.issuer
	}
	o.mu.RUnlock()
	if cert == nil {
		return
	}
	for _, i := range o.issuers {
		if i.key != key {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		a, err := i.ask(ctx, cert)
		if err != nil {
			o.logger.Debug("no renewal information", "name", name, "error", err)
			if a = o.ledger.of(name).Advice; a.Serial != serial(cert) {
				a = advice{}
			}
			a.Ask = time.Now().Add(adviceUsual)
		}
		a.Serial = serial(cert)
		// Many an answer is as the last one: no news for the disk.
		keep := o.ledger.note
		if was := o.ledger.of(name).Advice; was.Serial != a.Serial || !was.Start.Equal(a.Start) || !was.End.Equal(a.End) {
			keep = o.ledger.change
		} else {
			a.Selected = was.Selected // one moment per window
		}
		keep(name, func(m *memory) { m.Advice = a })
		return
	}
}

// renew a name now, whatever its schedule, and wait for the end of it or of
// ctx; the attempt goes on without the caller.
func (o *orders) renew(ctx context.Context, name string) error {
	for {
		a, err := o.attemptNow(name)
		if err != nil {
			return err
		}
		select {
		case <-a.ended:
			if !a.inquiry {
				return a.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// attemptNow is the attempt for a name that is under way, or a new one.
func (o *orders) attemptNow(name string) (*attempt, error) {
	m := o.ledger.of(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.names[name]
	switch {
	case n == nil:
		return nil, fmt.Errorf("%w: no certificate is ordered for %q", ErrUnknownName, name)
	case o.ctx.Err() != nil || !o.owns():
		return nil, fmt.Errorf("%w: another process of the proxy is still at work; try again in a minute", ErrHeld)
	case n.running != nil:
		return n.running, nil
	}
	if m.Until.After(time.Now()) {
		return nil, fmt.Errorf("%w: the authority asked to wait with %s until %s", ErrHeld, name, m.Until.UTC().Format(time.RFC3339))
	}
	return o.start(name, n, func(ctx context.Context) error { return o.attempt(ctx, name, true) }), nil
}

func (o *orders) certificateOf(name string) *tls.Certificate {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if n := o.names[name]; n != nil && n.cert != nil && time.Now().Before(n.cert.Leaf.NotAfter) {
		return n.cert
	}
	return nil
}

func (o *orders) knows(name string) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.names[name] != nil
}

// has exactly these names.
func (o *orders) has(names []string) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, name := range names {
		if o.names[name] == nil {
			return false
		}
	}
	return len(names) == len(o.names)
}

// retire ends all ordering and gives the right to it to another process. What
// is there is served on.
func (o *orders) retire() {
	o.stop()
	o.done.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lock != nil {
		_ = o.lock.Close() // and with it the lock
		o.lock = nil
	}
}

func (o *orders) close() {
	o.retire()
	o.cache.Stop()
}
