package certs

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
)

// Whatever lies where the record of orders was, names are not kept back for
// years, the limits hold, and what was written is read again.
func FuzzLedger(f *testing.F) {
	for _, text := range []string{
		`{"authorities":{"a":{"orders":[{"at":"2026-01-01T00:00:00Z","name":"lms.test"}]}},"names":{"lms.test":{"failures":2,"until":"2999-01-01T00:00:00Z"}}}`,
		`{"authorities":{"a":null},"names":{"x":null}}`, `{"authorities":{"a":{"orders":[{}],"until":"0001-01-01T00:00:00Z"}}}`,
		`{"names":{"lms.test":{"failures":-9223372036854775808,"nextAttempt":"9999-12-31T23:59:59Z"}}}`, "null", "[]", "",
	} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		folder, err := os.MkdirTemp(dir, "ledger-*") //nolint:usetesting // thousands in one run, removed at once
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(folder) }()
		if err := os.WriteFile(filepath.Join(folder, ledgerFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		l := openLedger(folder, slog.New(slog.DiscardHandler))
		latest := time.Now().Add(maxRetryAfter)
		for name, m := range l.data.Names {
			if m.NextAttempt.After(latest) || m.Until.After(latest) {
				t.Errorf("%q is kept back until %s, %s", name, m.NextAttempt, m.Until)
			}
		}
		l.budget("a", "lms.test")
		if until, err := l.order("a", "lms.test", 0); err == nil {
			if l = openLedger(folder, slog.New(slog.DiscardHandler)); len(l.data.Authorities["a"].Orders) == 0 {
				t.Error("an order was not written down")
			}
		} else if until.After(time.Now().Add(maxRetryAfter + 8*24*time.Hour)) {
			t.Errorf("no order before %s: %v", until, err)
		}
	})
}

// Keys of sessions that lie on the disk are keys or are made anew, and there
// is always one that seals.
func FuzzTickets(f *testing.F) {
	for _, text := range []string{
		`[{"made":"2026-01-01T00:00:00Z","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]`, `[{"key":"AA=="}]`, `[null]`, "{}", "",
	} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		folder, err := os.MkdirTemp(dir, "tickets-*") //nolint:usetesting // thousands in one run, removed at once
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(folder) }()
		if err := os.WriteFile(filepath.Join(folder, ticketFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		k := OpenTickets(folder, slog.New(slog.DiscardHandler))
		defer k.Close()
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.keys) == 0 || len(k.keys) > ticketKeys {
			t.Errorf("%d keys", len(k.keys))
		}
		for _, key := range k.keys {
			if len(key.Key) != 32 || time.Since(key.Made) > ticketKeys*ticketEvery {
				t.Errorf("key of %d bytes, made %s", len(key.Key), key.Made)
			}
		}
	})
}

// What an authority says is text of bounded length that moves nobody's cursor.
func FuzzExplain(f *testing.F) {
	f.Add(acme.ProblemTypeNamespace+"dns", "no \x1b[2J such\nname", "caa", "ñ", 400)
	f.Add("", "", "", "", 0)
	f.Fuzz(func(t *testing.T, kind, detail, below, reason string, status int) {
		err := errors.Join(errors.New("order"), acme.Problem{
			Type: kind, Detail: detail, Status: status,
			Subproblems: []acme.Subproblem{{Problem: acme.Problem{Type: below, Detail: reason}}},
		})
		problem, text := explain(err)
		for _, s := range []string{problem, text, Explain(errors.New(detail))} {
			if !utf8.ValidString(s) || len(s) > maxErrorText+len(" …") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%q", s)
			}
		}
	})
}

// A CAA record that names somebody else alone keeps an authority from a name.
func FuzzPermission(f *testing.F) {
	f.Add("issue", "letsencrypt.org", "issuewild", ";", true)
	f.Add("ISSUE", " letsencrypt.org ; accounturi=x", "iodef", "mailto:a@b", false)
	f.Add("", "", "", "", false)
	f.Fuzz(func(t *testing.T, tag1, value1, tag2, value2 string, wildcard bool) {
		records := []*dns.CAA{{Tag: tag1, Value: value1}, {Tag: tag2, Value: value2}}
		ok := permits(records, wildcard, []string{"letsencrypt.org"})
		bound, named := false, false
		for _, r := range records {
			bound = bound || strings.EqualFold(r.Tag, "issue") || wildcard && strings.EqualFold(r.Tag, "issuewild")
			named = named || strings.Contains(strings.ToLower(r.Value), "letsencrypt.org")
		}
		if ok && bound && !named {
			t.Errorf("%q %q, %q %q, wildcard %v permits", tag1, value1, tag2, value2, wildcard)
		}
		if !ok && !bound {
			t.Errorf("%q %q, %q %q, wildcard %v forbids", tag1, value1, tag2, value2, wildcard)
		}
	})
}
