package certs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"

	"tarima/proxy/routes"
	"tarima/store/durable"
)

// Limits of Let's Encrypt (https://letsencrypt.org/docs/rate-limits/). They
// are kept for every authority: none that is known is stricter, and one that is
// says so itself.
const (
	weekLimit   = 50 // certificates per registered domain in a week
	sameLimit   = 5  // certificates for exactly the same names in a week
	failedLimit = 5  // failed validations per name in an hour
	ordersLimit = 300

	week        = 7 * 24 * time.Hour
	failedSpan  = time.Hour
	ordersSpan  = 3 * time.Hour
	ledgerKeeps = 2000 // entries of one kind and authority
)

// ledgerFile lies beside the certificates.
const ledgerFile = "orders.json"

// entry is something that counts against a limit.
type entry struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// account of what one authority was asked.
type account struct {
	Orders []entry `json:"orders,omitempty"`
	Issued []entry `json:"issued,omitempty"`
	Failed []entry `json:"failed,omitempty"` // validations
	// Until is how long the authority asked everybody to stay away.
	Until time.Time `json:"until,omitzero"`
	// Renewed is when the account with the authority was last made anew.
	Renewed time.Time `json:"renewed,omitzero"`
}

// memory of one name, over restarts.
type memory struct {
	Attempts    int       `json:"attempts,omitempty"` // failed ones since the last success
	LastAttempt time.Time `json:"lastAttempt,omitzero"`
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	LastError   string    `json:"lastError,omitempty"`
	Problem     string    `json:"problem,omitempty"`
	Challenge   string    `json:"challenge,omitempty"`
	// Until is how long the authority asked to wait with this name.
	Until time.Time `json:"until,omitzero"`
	// Doubted is since when the check before the first order has kept the
	// name back.
	Doubted time.Time `json:"doubted,omitzero"`
	Advice  advice    `json:"advice,omitzero"`
}

// ledger is the record of orders on disk. It is written before an order is
// sent, so that a process that dies and starts over and over cannot exceed the
// limits.
type ledger struct {
	file   string
	logger *slog.Logger

	mu   sync.Mutex
	data struct {
		Authorities map[string]*account `json:"authorities"` // by issuer key
		Names       map[string]*memory  `json:"names"`
	}
}

// openLedger reads the record. One that is damaged is set aside: the limits
// then count from now.
func openLedger(dir string, logger *slog.Logger) *ledger {
	l := &ledger{file: filepath.Join(dir, ledgerFile), logger: logger}
	data, err := os.ReadFile(l.file)
	if err == nil {
		if err = json.Unmarshal(data, &l.data); err != nil {
			aside := l.file + ".bad-" + time.Now().UTC().Format("20060102T150405.000Z")
			logger.Error("the record of certificate orders is damaged and begun anew", "error", err, "aside", aside, "rename", os.Rename(l.file, aside))
			l.data.Authorities, l.data.Names = nil, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		logger.Error("the record of certificate orders cannot be read", "error", err)
	}
	if l.data.Authorities == nil {
		l.data.Authorities = map[string]*account{}
	}
	if l.data.Names == nil {
		l.data.Names = map[string]*memory{}
	}
	l.settle(time.Now())
	return l
}

// settle sets what lies in the future to now: a clock that was wrong and was
// set right must not keep names back for years, nor forget what was ordered.
func (l *ledger) settle(now time.Time) {
	past := func(t *time.Time) {
		if t.After(now) {
			*t = now
		}
	}
	for key, a := range l.data.Authorities {
		if a == nil {
			delete(l.data.Authorities, key)
			continue
		}
		for _, list := range [][]entry{a.Orders, a.Issued, a.Failed} {
			for i := range list {
				past(&list[i].At)
			}
		}
		past(&a.Renewed)
		a.Until = earlier(a.Until, now.Add(maxRetryAfter))
	}
	for name, m := range l.data.Names {
		if m == nil {
			delete(l.data.Names, name)
			continue
		}
		past(&m.LastAttempt)
		past(&m.Doubted)
		m.Until = earlier(m.Until, now.Add(maxRetryAfter))
		m.NextAttempt = earlier(m.NextAttempt, now.Add(maxRetryAfter))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.After(b) {
		return b
	}
	return a
}

func (l *ledger) account(key string) *account {
	a := l.data.Authorities[key]
	if a == nil {
		a = &account{}
		l.data.Authorities[key] = a
	}
	return a
}

// save writes the record. The caller holds the lock.
func (l *ledger) save() error {
	data, err := json.Marshal(l.data)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.file), 0o700); err != nil {
		return fmt.Errorf("record of certificate orders: %w", err)
	}
	return durable.Write(l.file, data, 0o600)
}

// of a name, a copy.
func (l *ledger) of(name string) memory {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.data.Names[name]; m != nil {
		return *m
	}
	return memory{}
}

// all is of for many names.
func (l *ledger) all(names []string) []memory {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]memory, len(names))
	for i, name := range names {
		if m := l.data.Names[name]; m != nil {
			out[i] = *m
		}
	}
	return out
}

// change what is remembered of a name. A record that cannot be written now is
// written with the next change: what must be on disk first is an order.
func (l *ledger) change(name string, f func(*memory)) {
	l.note(name, f)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.save(); err != nil {
		l.logger.Warn("the record of certificate orders is not on disk", "error", err)
	}
}

// note is change for what need not outlive the process: it goes to the disk
// with the next change.
func (l *ledger) note(name string, f func(*memory)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.data.Names[name]
	if m == nil {
		m = &memory{}
		l.data.Names[name] = m
	}
	f(m)
}

// keep forgets all names but these.
func (l *ledger) keep(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.data.Names, func(name string, _ *memory) bool { return !slices.Contains(names, name) })
}

// order says whether the limits allow an order of the authority for a name
// now, and writes it down. Otherwise it returns when they will, with an
// ErrHeld. reserve of each limit is left for an administrator's own commands.
func (l *ledger) order(key, name string, reserve int) (until time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, now := l.account(key), time.Now()
	if a.Until.After(now) {
		return a.Until, fmt.Errorf("%w: the authority asked to wait until %s", ErrHeld, a.Until.UTC().Format(time.RFC3339))
	}
	domain := registered(name)
	same := func(e entry) bool { return e.Name == name }
	ofDomain := func(e entry) bool { return registered(e.Name) == domain }
	everything := func(entry) bool { return true }
	for _, limit := range []struct {
		list  []entry
		match func(entry) bool
		most  int
		span  time.Duration
		text  string
	}{
		{a.Failed, same, failedLimit - reserve, failedSpan, "%d failed validations in an hour are all that is allowed"},
		{a.Issued, same, sameLimit - reserve, week, "%d certificates for the same name in a week are all that is allowed"},
		{a.Issued, ofDomain, weekLimit - reserve, week, "%d certificates for " + domain + " in a week are all that is allowed"},
		{a.Orders, everything, ordersLimit - reserve, ordersSpan, "%d orders in three hours are all that is allowed"},
	} {
		if free := freeAt(limit.list, limit.match, limit.most, limit.span, now); free.After(now) {
			return free, fmt.Errorf("%w: "+limit.text+"; next at %s", ErrHeld, limit.most, free.UTC().Format(time.RFC3339))
		}
	}
	a.Orders = count(a.Orders, name, now, ordersSpan)
	if err := l.save(); err != nil {
		a.Orders = a.Orders[:len(a.Orders)-1]
		return now.Add(watchEvery), fmt.Errorf("no order without a record of it: %w", err)
	}
	return time.Time{}, nil
}

// freeAt is when fewer than most entries will be within the span.
func freeAt(list []entry, match func(entry) bool, most int, span time.Duration, now time.Time) time.Time {
	var within []time.Time
	for _, e := range list {
		// Both readings of the monotonic clock, when there are: the wall
		// clock may have been set meanwhile.
		if match(e) && now.Sub(e.At) < span {
			within = append(within, e.At)
		}
	}
	if len(within) < most {
		return time.Time{}
	}
	slices.SortFunc(within, time.Time.Compare)
	return now.Add(span - now.Sub(within[len(within)-most]))
}

// count adds an entry and drops those that no limit counts any more.
func count(list []entry, name string, now time.Time, span time.Duration) []entry {
	list = slices.DeleteFunc(list, func(e entry) bool { return now.Sub(e.At) >= span })
	if len(list) >= ledgerKeeps {
		list = slices.Delete(list, 0, len(list)-ledgerKeeps+1)
	}
	return append(list, entry{name, now})
}

// outcome of an order.
func (l *ledger) outcome(key, name string, issued bool, failures int, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, now := l.account(key), time.Now()
	if issued {
		a.Issued = count(a.Issued, name, now, week)
	}
	for range failures {
		a.Failed = count(a.Failed, name, now, failedSpan)
	}
	if until.After(a.Until) {
		a.Until = until
	}
	if err := l.save(); err != nil {
		l.logger.Warn("the record of certificate orders is not on disk", "error", err)
	}
}

// accountAge says how long ago the account with an authority was made anew,
// and marks it as made anew now when that is longer ago than least.
func (l *ledger) mayRenewAccount(key string, least time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(key)
	if time.Since(a.Renewed) < least {
		return false
	}
	a.Renewed = time.Now()
	return true
}

// budget of a name with an authority.
func (l *ledger) budget(key, name string) *routes.CertificateBudget {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &routes.CertificateBudget{
		Domain: registered(name), WeekLimit: weekLimit, SameLimit: sameLimit, FailedLimit: failedLimit, OrdersLimit: ordersLimit,
	}
	a := l.data.Authorities[key]
	if a == nil {
		return b
	}
	now := time.Now()
	for _, e := range a.Issued {
		if now.Sub(e.At) >= week {
			continue
		}
		if e.Name == name {
			b.Same++
		}
		if registered(e.Name) == b.Domain {
			b.Week++
		}
	}
	for _, e := range a.Failed {
		if e.Name == name && now.Sub(e.At) < failedSpan {
			b.Failed++
		}
	}
	for _, e := range a.Orders {
		if now.Sub(e.At) < ordersSpan {
			b.Orders++
		}
	}
	return b
}

// registered domain of a name: what somebody bought, such as example.org of
// learn.example.org. A name that is itself a public suffix stands for itself.
func registered(name string) string {
	if len(name) > 2 && name[:2] == "*." {
		name = name[2:]
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return domain
	}
	return name
}
