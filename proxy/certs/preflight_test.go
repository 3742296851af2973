package certs

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"tarima/proxy/routes"
)

func codes(findings []routes.CertificateFinding) []string {
	var all []string
	for _, f := range findings {
		all = append(all, f.Level+" "+f.Code)
	}
	return all
}

// What is in the way of a certificate is found before an order is spent.
func TestCheck(t *testing.T) {
	t.Parallel()
	h, p, z := oneAuthority(t, "check.test", pebbleOptions{})
	const name = "lms.check.test"
	var date time.Time
	p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/dir" {
			if !date.IsZero() {
				w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
			}
		}
		return false
	})
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	port := h.config.PublicHTTPPort
	h.keeper.Set(acmeAt(p), []string{name})
	h.phase(name, Valid)
	for what, c := range map[string]struct {
		zone func()
		port int
		date time.Duration
		want []string
		text string
	}{
		"all is well":      {want: []string{"ok good", "warning private"}, text: "nothing is in the way"},
		"no such name":     {zone: func() { z.missing[name] = true }, want: []string{"error no-name"}, text: name + " does not exist"},
		"no address":       {zone: func() { z.a[name] = []string{} }, want: []string{"error no-address"}, text: "has no address"},
		"names are silent": {zone: func() { z.silent = true }, want: []string{"ok good", "warning no-answer", "warning no-answer"}},
		// 2001:db8::/32 is for documentation: nobody is there.
		"an address not ours": {zone: func() { z.a[name] = []string{"127.0.0.1", "127.1.2.3"} }, want: []string{"ok good", "warning port-silent", "warning private", "warning private"}, text: "127.1.2.3"},
		"old AAAA record": {
			zone: func() { z.aaaa[name] = []string{"2001:db8::7"} },
			want: []string{"ok good", "warning foreign", "warning port-silent", "warning private"}, text: "2001:db8::7",
		},
		"nobody at the port":   {port: 1, want: []string{"error port-refused", "warning private"}, text: "127.0.0.1:1"},
		"another server there": {port: portOf(t, stranger.Listener.Addr().String()), want: []string{"ok good", "warning port-other", "warning private"}, text: "404"},
		"CAA of another":       {zone: func() { z.caa["check.test"] = []string{"issue letsencrypt.org"} }, want: []string{"error caa", "warning private"}, text: "issue letsencrypt.org"},
		"CAA of nobody":        {zone: func() { z.caa[name] = []string{"issue ;"} }, want: []string{"error caa", "warning private"}},
		"CAA of ours":          {zone: func() { z.caa[name] = []string{"issue other.test", "issue pebble.test; validationmethods=http-01"} }, want: []string{"ok good", "warning private"}},
		"CAA nearest wins":     {zone: func() { z.caa[name], z.caa["check.test"] = []string{"issue pebble.test"}, []string{"issue other.test"} }, want: []string{"ok good", "warning private"}},
		"CAA about wildcards":  {zone: func() { z.caa[name] = []string{"issuewild other.test", "iodef mailto:a@b.test"} }, want: []string{"ok good", "warning private"}},
		// A date has no parts of a second: a little more, so that none is missing.
		"clock a little off":   {date: 10*time.Minute + 2*time.Second, want: []string{"ok good", "warning clock-off", "warning private"}, text: "10m"},
		"clock of another day": {date: -26 * time.Hour, want: []string{"error clock-wrong", "warning private"}, text: "26h"},
	} {
		z.set(func() {
			z.a, z.aaaa, z.caa, z.missing, z.silent = map[string][]string{}, map[string][]string{}, map[string][]string{}, map[string]bool{}, false
			if c.zone != nil {
				c.zone()
			}
		})
		date = time.Time{}
		if c.date != 0 {
			date = time.Now().Add(c.date)
		}
		h.keeper.cfg.PublicHTTPPort = port
		if c.port != 0 {
			h.keeper.cfg.PublicHTTPPort = c.port
		}
		findings, err := h.keeper.Check(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		got := codes(findings)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q: %+v", what, got, c.want, findings)
		}
		if !slices.ContainsFunc(findings, func(f routes.CertificateFinding) bool {
			return strings.Contains(f.Text, c.text) && !strings.Contains(f.Text, "{")
		}) {
			t.Errorf("%s: no %q in %+v", what, c.text, findings)
		}
	}
	// No token works twice, and none that was never given out.
	w := httptest.NewRecorder()
	if h.keeper.Challenge(w, httptest.NewRequest(http.MethodGet, "http://"+name+checkPath+"guess", nil), name) || len(h.keeper.tokens.reply) != 0 {
		t.Errorf("tokens: %v", h.keeper.tokens.reply)
	}
}

// A name that cannot succeed spends no order while there is hope that somebody
// mends it, and gets its certificate as soon as it is mended.
func TestDoubtSparesOrders(t *testing.T) {
	t.Parallel()
	h, p, z := oneAuthority(t, "doubt.test", pebbleOptions{})
	const name = "lms.doubt.test"
	z.set(func() { z.missing[name] = true })
	h.keeper.Set(acmeAt(p), []string{name})
	s := h.phase(name, Failed)
	if p.orders() != 0 || s.Budget.Orders != 0 || time.Until(s.NextAttempt) > watchEvery {
		t.Errorf("%d orders, %+v", p.orders(), s)
	}
	z.set(func() { z.missing[name] = false })
	if _, err := h.keeper.Renew(t.Context(), name); err != nil {
		t.Error(err)
	}
	// After an hour of doubt the authority has the last word.
	h.keeper.orders.ledger.change("late.doubt.test", func(m *memory) { m.Doubted = time.Now().Add(-doubtFor - time.Minute) })
	if err := h.keeper.orders.doubted(t.Context(), "late.doubt.test"); err != nil {
		t.Error(err)
	}
}

func TestCheckOtherSources(t *testing.T) {
	k, err := Open(Config{Dir: t.TempDir(), Logger: quiet(), Changed: func(State) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	k.Set(routes.TLS{Mode: ModeLocal}, []string{"lms.test"})
	if f, err := k.Check(t.Context(), "lms.test"); err != nil || !slices.Equal(codes(f), []string{"ok good"}) {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := k.Check(t.Context(), "lms.tset"); err == nil || !strings.Contains(err.Error(), "lms.test") {
		t.Errorf("unknown name: %v", err)
	}
}
