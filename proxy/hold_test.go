package proxy

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"tarima/proxy/routes"
)

func waiting(r *running) int {
	s, err := r.client.State(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	n := 0
	for _, svc := range s.Services {
		n += svc.Waiting
	}
	return n
}

func TestHeldRequestGoesThrough(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			r := start(t)
			up := upstreamServer(t, echo())
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			events := r.client.Events(ctx)
			r.put(one(1, "", routes.Hold))
			answer := make(chan string, 1)
			browser := r.browser(true)
			var wait sync.WaitGroup
			wait.Go(func() {
				req, _ := http.NewRequest(method, "https://lms.test/x", strings.NewReader("hello"))
				resp, err := browser.Do(req)
				if err != nil {
					answer <- err.Error()
					return
				}
				defer func() { _ = resp.Body.Close() }()
				body, _ := io.ReadAll(resp.Body)
				answer <- resp.Status + string(body)
			})
			for e := range events {
				if e.Kind == routes.Wanted {
					if e.Service != "lms" || e.Site != "default" || e.Name != "lms.test" {
						t.Errorf("event %+v", e)
					}
					break
				}
			}
			r.put(one(2, address(up), routes.Ready))
			wait.Wait()
			if a := <-answer; !strings.HasPrefix(a, "200") || !strings.Contains(a, `"Method":"`+method) || !strings.Contains(a, `"Body":5`) {
				t.Errorf("answer %s", a)
			}
		})
	}
}

func TestPages(t *testing.T) {
	r := start(t, func(c *Config) { c.Hold.Timeout = 30 * time.Millisecond })
	up := upstreamServer(t, echo())
	snapshot := one(1, "", routes.Hold)
	snapshot.Hosts = append(snapshot.Hosts,
		routes.Host{Name: "down.test", Site: "default", Service: "cms", Upstream: address(up), State: routes.Down},
		routes.Host{Name: "gone.test", Site: "default", Service: "gone", State: routes.Down},
		routes.Host{Name: "dead.test", Site: "default", Service: "dead", Upstream: freeAddress(t), State: routes.Ready},
		routes.Host{Name: "small.test", Site: "default", Service: "small", Upstream: address(up), State: routes.Ready, MaxBody: 3},
	)
	r.put(snapshot)
	browser := r.browser(true)
	cases := []struct {
		name, method, url, body string
		status                  int
		retry                   string
		id                      string
		refresh                 bool
	}{
		{"held too long", "GET", "https://lms.test/", "", 503, "5", "wait", true},
		{"held POST", "POST", "https://lms.test/", "x", 503, "5", "wait", false},
		{"nobody listens", "GET", "https://dead.test/", "", 503, "5", "wait", true},
		{"switched off", "GET", "https://down.test/", "", 503, "60", "down", true},
		{"switched off, nothing there", "GET", "https://gone.test/", "", 503, "60", "down", true},
		{"body too large", "POST", "https://small.test/", "four", 413, "", "body", false},
		{"method", "TRACE", "https://lms.test/", "", 405, "", "method", false},
		{"long head", "GET", "https://lms.test/?" + strings.Repeat("x", 40<<10), "", 431, "", "head", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ask := func(accept string) (*http.Response, string) {
				req, err := http.NewRequest(c.method, c.url, strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				return r.do(browser, req, "Accept", accept)
			}
			resp, page := ask("text/html,*/*;q=0.8")
			if resp.StatusCode != c.status || resp.Header.Get("Retry-After") != c.retry {
				t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
			}
			for _, want := range []string{
				`<html lang="es">`, pageTexts["es"][c.id+".title"], pageTexts["en"][c.id+".title"], "Escuela de Prueba",
				`href="mailto:ayuda@escuela.test"`, `lang="en"`,
			} {
				if !strings.Contains(page, want) {
					t.Errorf("page without %q:\n%s", want, page)
				}
			}
			if strings.Contains(page, `http-equiv="refresh"`) != c.refresh {
				t.Errorf("refresh, want %v", c.refresh)
			}
			if strings.Contains(page, "http://") || strings.Contains(page, "https://") {
				t.Error("the page names another host")
			}
			_, style, _ := strings.Cut(page, "<style>")
			style, _, _ = strings.Cut(style, "</style>")
			if style != pageStyle {
				t.Error("the style is not the one that the policy allows")
			}
			resp, text := ask("application/json")
			var j struct {
				Error  string
				Status int
			}
			if err := json.Unmarshal([]byte(text), &j); err != nil || j.Error != c.id || j.Status != c.status ||
				resp.StatusCode != c.status || resp.Header.Get("Retry-After") != c.retry {
				t.Errorf("for a program: %s %s", resp.Status, text)
			}
		})
	}
}

func TestPageTextsAreComplete(t *testing.T) {
	for _, l := range languages {
		for id := range pageTexts["en"] {
			if pageTexts[l][id] == "" {
				t.Errorf("%s: no text for %s", l, id)
			}
		}
		if len(pageTexts[l]) != len(pageTexts["en"]) {
			t.Errorf("%s has %d texts, en %d", l, len(pageTexts[l]), len(pageTexts["en"]))
		}
	}
	if got := languageOrder("en-GB"); got[0] != "en" || len(got) != 2 {
		t.Errorf("order for en-GB: %v", got)
	}
}

func TestEndAnswersWhoWaits(t *testing.T) {
	r := start(t)
	r.put(one(1, "", routes.Hold))
	browser := r.browser(true)
	var wait sync.WaitGroup
	status := make(chan int, 3)
	for range 3 {
		wait.Go(func() {
			resp, err := browser.Get("https://lms.test/")
			if err != nil {
				status <- 0
				return
			}
			_ = resp.Body.Close()
			status <- resp.StatusCode
		})
	}
	until(t, "three requests wait", func() bool { return waiting(r) == 3 })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	wait.Wait()
	for range 3 {
		if s := <-status; s != http.StatusServiceUnavailable {
			t.Errorf("answer %d", s)
		}
	}
}

func TestWaitingRoom(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::1")
	sameAsC := netip.MustParseAddr("2001:db8::2")
	g := newGate(serviceKey{"s", "lms"})

	t.Run("a newcomer takes the place of the greediest", func(t *testing.T) {
		r := newWaitingRoom(Hold{MaxPerHost: 4, MaxTotal: 100, MaxBytes: 1000})
		var greedy []*ticket
		for range 4 {
			ticket, err := r.join("h", g, a, 1)
			if err != nil {
				t.Fatal(err)
			}
			greedy = append(greedy, ticket)
		}
		if _, err := r.join("h", g, a, 1); err == nil {
			t.Error("the fifth of the same client came in")
		}
		for i, addr := range []netip.Addr{b, c} {
			if _, err := r.join("h", g, addr, 1); err != nil {
				t.Fatalf("%s: %v", addr, err)
			}
			select {
			case <-greedy[3-i].out:
			default:
				t.Errorf("the latest request of %s was not sent out", a)
			}
		}
		if _, err := r.join("h", g, sameAsC, 1); err == nil {
			t.Error("an address of the same /64 counts as another client")
		}
		if _, err := r.join("other", g, a, 1); err != nil {
			t.Errorf("another host: %v", err)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		r := newWaitingRoom(Hold{MaxPerHost: 4, MaxTotal: 100, MaxBytes: 10})
		if _, err := r.join("h", g, a, 11); err == nil {
			t.Error("more than all came in")
		}
		if _, err := r.join("h", g, a, 8); err != nil {
			t.Fatal(err)
		}
		if _, err := r.join("h", g, b, 3); err == nil {
			t.Error("more than is left came in")
		}
	})
	t.Run("in turn", func(t *testing.T) {
		r := newWaitingRoom(Hold{MaxPerHost: 10, MaxTotal: 10, MaxBytes: 1000})
		for _, addr := range []netip.Addr{a, a, a, b, c, b} {
			if _, err := r.join("h", g, addr, 1); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, ticket := range r.inTurn(g) {
			got = append(got, ticket.client.String())
		}
		want := "10.0.0.1 10.0.0.2 2001:db8:: 10.0.0.1 10.0.0.2 10.0.0.1"
		if s := strings.Join(got, " "); s != want {
			t.Errorf("order %s, want %s", s, want)
		}
	})
}
