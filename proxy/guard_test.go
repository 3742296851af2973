package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"tarima/proxy/routes"
)

// guarded is a site of two hosts, lms.test and apps.lms.test, whose upstream
// counts what reaches it.
type guarded struct {
	*running
	reached atomic.Int64
	s       routes.Snapshot
}

func newGuarded(t *testing.T, change func(h *routes.Host)) *guarded {
	t.Helper()
	g := &guarded{}
	inner := echo()
	upstream := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.reached.Add(1)
		w.Header().Set("Server", "uWSGI")
		inner.ServeHTTP(w, r)
	}))
	g.running = start(t, func(c *Config) { c.Trusted = []netip.Prefix{loopback} })
	g.s = one(1, address(upstream), routes.Ready)
	second := g.s.Hosts[0]
	second.Name = "apps.lms.test"
	g.s.Hosts = append(g.s.Hosts, second)
	g.apply(change)
	return g
}

// apply changes both hosts and puts the routes.
func (g *guarded) apply(change func(h *routes.Host)) {
	g.t.Helper()
	g.s.Generation++
	for i := range g.s.Hosts {
		change(&g.s.Hosts[i])
	}
	g.put(g.s)
}

// ask as a browser from an address.
func (g *guarded) ask(client *http.Client, method, url, from string, header ...string) (*http.Response, string) {
	g.t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.do(client, req, append([]string{"X-Forwarded-For", from}, header...)...)
}

const acceptHTML = "text/html,application/xhtml+xml"

func TestRateLimits(t *testing.T) {
	g := newGuarded(t, func(h *routes.Host) {
		h.Limits = []routes.RateLimit{
			{Name: "login", Path: "/login_ajax", Methods: []string{"POST"}, Burst: 3, Every: time.Hour},
			{Name: "login", Path: "/api/user/*/account/login_session/", Methods: []string{"POST"}, Burst: 3, Every: time.Hour},
			{Name: "twice", Path: "/twice/", Burst: 2, Every: time.Hour},
			{Name: "twice", Path: "/twice/x", Burst: 2, Every: time.Hour},
			{Name: "all", Path: "", Burst: 1000, Every: time.Second},
		}
	})
	browser := g.browser(true)
	post := func(path, from string, header ...string) (*http.Response, string) {
		return g.ask(browser, http.MethodPost, "https://lms.test"+path, from, header...)
	}
	for i, path := range []string{"/login_ajax", "/api/user/v1/account/login_session/", "/api/user/v2/account/login_session/"} {
		if resp, _ := post(path, "192.0.2.1"); resp.StatusCode != http.StatusOK {
			t.Fatalf("attempt %d: %s", i+1, resp.Status)
		}
	}
	before := g.reached.Load()
	resp, body := post("/login_ajax?x=y", "192.0.2.1", "Accept", acceptHTML)
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != http.StatusTooManyRequests || err != nil || wait < 3590 || wait > 3600 {
		t.Errorf("fourth attempt: %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	if !strings.Contains(body, "Demasiados intentos") || !strings.Contains(body, "Too many attempts") {
		t.Errorf("its page: %s", body)
	}
	resp, body = post("/login_ajax", "192.0.2.1", "Accept", "application/json")
	if resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(body, `"error":"often"`) {
		t.Errorf("a program is told: %s %s", resp.Status, body)
	}
	if g.reached.Load() != before {
		t.Error("a refused attempt reached the application")
	}
	for name, ask := range map[string]func() (*http.Response, string){
		"another address": func() (*http.Response, string) { return post("/login_ajax", "192.0.2.2") },
		"another method": func() (*http.Response, string) {
			return g.ask(browser, http.MethodGet, "https://lms.test/login_ajax", "192.0.2.1")
		},
		"another path": func() (*http.Response, string) { return post("/login_ajax/", "192.0.2.1") },
		"another host": func() (*http.Response, string) {
			return g.ask(browser, http.MethodPost, "https://apps.lms.test/login_ajax", "192.0.2.1")
		},
	} {
		if resp, _ := ask(); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	// A request that two paths of a limit fit is counted once.
	for i := range 3 {
		resp, _ := post("/twice/x", "192.0.2.1")
		if want := i < 2; (resp.StatusCode == http.StatusOK) != want {
			t.Errorf("request %d that fits twice: %s", i+1, resp.Status)
		}
	}
	// IPv6: the /64 is the address.
	for i := range 4 {
		resp, _ := post("/login_ajax", fmt.Sprintf("2001:db8::%x", i+1))
		if want := i < 3; (resp.StatusCode == http.StatusOK) != want {
			t.Errorf("attempt %d of one /64: %s", i+1, resp.Status)
		}
	}
	if !strings.Contains(g.logged(), `"note":"limit login"`) {
		t.Error("the log does not name the limit")
	}
}

// TestRetryAfter is in whole seconds and never too soon.
func TestRetryAfter(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		time.Millisecond: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Second: "90",
	} {
		x := &exchange{w: &writer{ResponseWriter: httptest.NewRecorder()}}
		x.retryAfter(wait)
		if got := x.w.Header().Get("Retry-After"); got != want {
			t.Errorf("%s: %q, want %q", wait, got, want)
		}
	}
}

// TestRateLimitTogether: requests at the same moment get the burst, exactly.
func TestRateLimitTogether(t *testing.T) {
	g := newGuarded(t, func(h *routes.Host) {
		h.Limits = []routes.RateLimit{{Name: "x", Path: "/x", Burst: 10, Every: time.Hour}}
	})
	browser := g.browser(true)
	var passed, refused atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			resp, err := browser.Get("https://lms.test/x")
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				passed.Add(1)
			} else if resp.StatusCode == http.StatusTooManyRequests {
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if passed.Load() != 10 || refused.Load() != 30 {
		t.Errorf("%d passed and %d were refused, want 10 and 30", passed.Load(), refused.Load())
	}
}

func TestHeadersAndBlockedPaths(t *testing.T) {
	g := newGuarded(t, func(h *routes.Host) {
		h.HSTS, h.Closed = 3600, true
		h.Headers = map[string]string{"x-frame-options": "DENY", "Server": ""}
		h.Rules = []routes.Rule{
			{Path: "/.git/", Status: http.StatusNotFound},
			{Path: "/gone", Status: http.StatusGone},
			{Path: "/forbidden", Status: http.StatusForbidden},
			{Path: "/framed/", Headers: map[string]string{"X-Frame-Options": "SAMEORIGIN", "X-Robots-Tag": ""}},
			{Path: "/root/", Redirect: "/"},
		}
	})
	browser := g.browser(true)
	for _, c := range []struct {
		path    string
		status  int
		frame   string
		robots  string
		reaches bool
	}{
		{"/a", 200, "DENY", "noindex, nofollow", true},
		{"/framed/a", 200, "SAMEORIGIN", "", true},
		{"/.git/config", 404, "DENY", "noindex, nofollow", false},
		{"/.gitignore", 200, "DENY", "noindex, nofollow", true},
		{"/gone", 410, "DENY", "noindex, nofollow", false},
		{"/forbidden", 403, "DENY", "noindex, nofollow", false},
		{"/root/x", 302, "DENY", "noindex, nofollow", false},
		{"/robots.txt", 200, "DENY", "noindex, nofollow", false},
	} {
		before := g.reached.Load()
		resp, body := g.ask(browser, http.MethodGet, "https://lms.test"+c.path, "192.0.2.1", "Accept", acceptHTML)
		h := resp.Header
		if resp.StatusCode != c.status || h.Get("X-Frame-Options") != c.frame || len(h["X-Frame-Options"]) != 1 ||
			h.Get("X-Robots-Tag") != c.robots || h.Get("Server") != "" || h.Get("Strict-Transport-Security") != "max-age=3600" {
			t.Errorf("%s: %s %v", c.path, resp.Status, h)
		}
		if reached := g.reached.Load() != before; reached != c.reaches {
			t.Errorf("%s: reached the application: %v", c.path, reached)
		}
		if c.path == "/robots.txt" && body != "User-agent: *\nDisallow: /\n" {
			t.Errorf("robots.txt: %q", body)
		}
		if c.status == 403 && !strings.Contains(body, "Esto no es para todos") {
			t.Errorf("%s: %s", c.path, body)
		}
	}
	// Over HTTP there is only the way to HTTPS, without a word of HSTS.
	resp, _ := g.get(g.browser(false), "http://lms.test/")
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("over HTTP: %s %v", resp.Status, resp.Header)
	}
	// The site is open: its own robots.txt is asked for.
	g.apply(func(h *routes.Host) { h.Closed = false })
	before := g.reached.Load()
	if resp, _ := g.get(browser, "https://lms.test/robots.txt"); g.reached.Load() != before+1 || resp.Header.Get("X-Robots-Tag") != "" {
		t.Errorf("robots.txt of an open site: %v", resp.Header)
	}
}

// TestNoHTTPS: without TLS there is no word of it.
func TestNoHTTPS(t *testing.T) {
	r := start(t, func(c *Config) { c.HTTPS, c.Listeners = nil, c.Listeners[:1] })
	s := one(1, address(upstreamServer(t, echo())), routes.Ready)
	s.Hosts[0].HSTS, s.Hosts[0].Headers = 3600, map[string]string{"X-A": "b"}
	r.put(s)
	req, err := http.NewRequest(http.MethodGet, "http://"+r.http+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "lms.test"
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, _ := r.do(plain, req)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-A") != "b" || resp.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

// TestRedirectsAreOpen: a name that is sent on asks nobody for anything.
func TestRedirectsAreOpen(t *testing.T) {
	g := newGuarded(t, func(h *routes.Host) {
		if h.Name == "apps.lms.test" {
			*h = routes.Host{
				Name: h.Name, Site: h.Site, Redirect: "https://lms.test", HSTS: 60, Closed: true, Proof: true,
				Auth: &routes.Auth{Users: map[string]routes.Secret{"a": hashOf(t, "b")}}, Maintenance: &routes.Maintenance{},
			}
		}
	})
	resp, _ := g.get(g.browser(true), "https://apps.lms.test/robots.txt")
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "https://lms.test/robots.txt" || resp.Header.Get("Strict-Transport-Security") != "max-age=60" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

// TestHeldRequestsMeetNewRules: who waits for a service is told when the host
// is closed, or the path blocked, in the meantime.
func TestHeldRequestsMeetNewRules(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *routes.Host)
		status int
		text   string
	}{
		"closed":  {func(h *routes.Host) { h.Maintenance = &routes.Maintenance{} }, 503, "Estamos trabajando en el sitio"},
		"blocked": {func(h *routes.Host) { h.Rules = []routes.Rule{{Path: "/x", Status: 404}} }, 404, "No se encontró"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t, func(h *routes.Host) { h.State = routes.Hold })
			browser := g.browser(true)
			answer := make(chan string, 1)
			go func() {
				req, err := http.NewRequest(http.MethodGet, "https://lms.test/x", nil)
				if err != nil {
					answer <- err.Error()
					return
				}
				req.Header.Set("Accept", acceptHTML)
				resp, err := browser.Do(req)
				if err != nil {
					answer <- err.Error()
					return
				}
				defer func() { _ = resp.Body.Close() }()
				body, err := io.ReadAll(resp.Body)
				answer <- fmt.Sprint(resp.StatusCode, err, string(body))
			}()
			until(t, "the request to wait", func() bool { return waiting(g.running) == 1 })
			g.apply(func(h *routes.Host) { h.State = routes.Ready; c.change(h) })
			if a := <-answer; !strings.HasPrefix(a, fmt.Sprint(c.status)) || !strings.Contains(a, c.text) {
				t.Errorf("answer %s", a)
			}
			if g.reached.Load() != 0 {
				t.Error("it reached the application")
			}
		})
	}
}

func hashOf(t *testing.T, password string) routes.Secret {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return routes.Secret(hash)
}

func TestBasicAuthentication(t *testing.T) {
	users := map[string]routes.Secret{"ana": hashOf(t, "clave de Ana"), "ñandú": hashOf(t, "x:y")}
	g := newGuarded(t, func(h *routes.Host) {
		if h.Name == "lms.test" {
			h.Auth = &routes.Auth{Realm: "Autores", Users: users}
		}
	})
	browser := g.browser(true)
	ask := func(user, password string, header ...string) *http.Response {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "https://lms.test/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		resp, body := g.do(browser, req, append([]string{"Accept", acceptHTML}, header...)...)
		if resp.StatusCode == http.StatusOK {
			var s seen
			if err := json.Unmarshal([]byte(body), &s); err != nil || s.Header.Get("Authorization") != "" {
				t.Errorf("the application was told the password: %v, %v", s.Header, err)
			}
		} else if !strings.Contains(body, "Hace falta una contraseña") && resp.StatusCode == http.StatusUnauthorized {
			t.Errorf("%s: %s", resp.Status, body)
		}
		return resp
	}
	for _, c := range []struct {
		user, password string
		status         int
	}{
		{"", "", 401},
		{"ana", "clave de Ana", 200},
		{"ana", "clave de Ana", 200},
		{"ñandú", "x:y", 200},
		{"ana", "clave de ana", 401},
		{"ana", "x:y", 401},
		{"ana", "", 401},
		{"nadie", "clave de Ana", 401},
		{"nadie", string(users["ana"]), 401},
		{"ana", string(users["ana"]), 401},
	} {
		if resp := ask(c.user, c.password); resp.StatusCode != c.status {
			t.Errorf("%q with %q: %s", c.user, c.password, resp.Status)
		} else if want := `Basic realm="Autores", charset="UTF-8"`; c.status == 401 && resp.Header.Get("WWW-Authenticate") != want {
			t.Errorf("WWW-Authenticate: %q", resp.Header.Get("WWW-Authenticate"))
		}
	}
	if resp := ask("", "", "Authorization", "Bearer abc"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("with a token: %s", resp.Status)
	}
	// A page of another host may ask first whether it may ask (CORS), and the
	// host beside it needs no password.
	resp, _ := g.ask(browser, http.MethodOptions, "https://lms.test/x", "192.0.2.1", "Origin", "https://apps.lms.test", "Access-Control-Request-Method", "GET")
	if resp.StatusCode != http.StatusOK {
		t.Errorf("preflight: %s", resp.Status)
	}
	if resp, _ := g.get(browser, "https://apps.lms.test/x"); resp.StatusCode != http.StatusOK {
		t.Errorf("host beside it: %s", resp.Status)
	}
	// A password that is right is not compared each time.
	started := g.reached.Load()
	for range 200 {
		ask("ana", "clave de Ana")
	}
	if g.reached.Load() != started+200 {
		t.Error("a password that is right was refused: is it compared, and so counted, each time?")
	}
	// One that was changed is worth nothing at once.
	g.apply(func(h *routes.Host) {
		if h.Auth != nil {
			h.Auth.Users = map[string]routes.Secret{"ana": hashOf(t, "otra")}
		}
	})
	if resp := ask("ana", "clave de Ana"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the old password: %s", resp.Status)
	}
	// Somebody who guesses is slowed down, and holds up nobody else.
	guesses, began := 0, time.Now()
	for ; guesses < 200; guesses++ {
		if resp := ask("ana", fmt.Sprint(guesses), "X-Forwarded-For", "198.51.100.1"); resp.StatusCode == http.StatusTooManyRequests {
			break
		}
	}
	// One more is granted every two seconds, and a busy machine takes some for sixty.
	if most := 61 + int(time.Since(began).Seconds()/2); guesses < 60 || guesses > most {
		t.Errorf("%d guesses before the first refusal, want 60 to %d", guesses, most)
	}
	if resp := ask("ana", "otra", "X-Forwarded-For", "198.51.100.2"); resp.StatusCode != http.StatusOK {
		t.Errorf("beside somebody who guesses: %s", resp.Status)
	}
	for _, secret := range []string{"clave de Ana", "otra", string(users["ana"])} {
		if strings.Contains(g.logged()+g.logs.String(), secret) {
			t.Errorf("a log holds %q", secret)
		}
	}
}

func TestMaintenance(t *testing.T) {
	const pass = "pase-de-prueba-0123456789"
	back := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	closed := func(h *routes.Host) {
		h.Maintenance = &routes.Maintenance{Until: back, Pass: pass, Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}
	}
	bogota, err := time.LoadLocation("America/Bogota")
	if err != nil {
		t.Fatal(err)
	}
	g := newGuarded(t, closed)
	g.s.Page.TimeZone = "America/Bogota"
	g.apply(closed)
	browser := g.browser(true)
	ask := func(url, from string, header ...string) (*http.Response, string) {
		return g.ask(browser, http.MethodGet, url, from, append(header, "Accept", acceptHTML)...)
	}
	resp, body := ask("https://lms.test/courses/x", "192.0.2.1")
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != http.StatusServiceUnavailable || err != nil || wait < 7100 || wait > 7200 || g.reached.Load() != 0 {
		t.Errorf("a visitor: %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	for _, want := range []string{"Estamos trabajando en el sitio", "We are working on the site", back.In(bogota).Format(`datetime="2006-01-02T15:04:05Z07:00">2006-01-02 15:04<`), "(America/Bogota)", "ayuda@escuela.test"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q:\n%s", want, body)
		}
	}
	if resp, body := g.ask(browser, http.MethodPost, "https://lms.test/api/x", "192.0.2.1"); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, `"error":"maintenance"`) {
		t.Errorf("a program: %s %s", resp.Status, body)
	}
	if resp, _ := ask("https://lms.test/x", "203.0.113.9"); resp.StatusCode != http.StatusOK {
		t.Errorf("from a network of those who may: %s", resp.Status)
	}
	for _, wrong := range []string{pass + "x", pass[1:], "", "x"} {
		if resp, _ := ask("https://lms.test/-/pass/"+wrong, "192.0.2.1"); resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 {
			t.Errorf("pass %q: %s", wrong, resp.Status)
		}
	}
	resp, _ = ask("https://lms.test/-/pass/"+pass, "192.0.2.1")
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/" || len(resp.Cookies()) != 1 || resp.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Fatalf("the pass: %s %v", resp.Status, resp.Header)
	}
	cookie := resp.Cookies()[0]
	if !cookie.HttpOnly || !cookie.Secure || cookie.Domain != "lms.test" || strings.Contains(cookie.String(), pass) {
		t.Errorf("its cookie: %s", cookie)
	}
	held := cookie.Name + "=" + cookie.Value
	for _, host := range []string{"lms.test", "apps.lms.test"} {
		if resp, _ := ask("https://"+host+"/x", "192.0.2.1", "Cookie", "a=b; "+held); resp.StatusCode != http.StatusOK {
			t.Errorf("%s with the pass: %s", host, resp.Status)
		}
	}
	end, sum, _ := strings.Cut(cookie.Value, ".")
	for _, forged := range []string{"", "1." + sum, end + "9." + sum, end + "." + sum[1:] + "A", end + ".", "." + sum, "x"} {
		if resp, _ := ask("https://lms.test/x", "192.0.2.1", "Cookie", cookie.Name+"="+forged); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("forged cookie %q: %s", forged, resp.Status)
		}
	}
	if all := g.logged() + g.logs.String(); strings.Contains(all, pass) {
		t.Error("the pass is in a log")
	}
	// Another pass makes the old cookie worthless.
	g.apply(func(h *routes.Host) { h.Maintenance = &routes.Maintenance{Pass: pass + "2"} })
	resp, _ = ask("https://lms.test/x", "192.0.2.1", "Cookie", held)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "300" {
		t.Errorf("after another pass: %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	// Open again, and a link that lies about leads into the site.
	g.apply(func(h *routes.Host) { h.Maintenance = nil })
	if resp, _ := ask("https://lms.test/x", "192.0.2.1"); resp.StatusCode != http.StatusOK {
		t.Errorf("open again: %s", resp.Status)
	}
	if resp, _ := ask("https://lms.test/-/pass/"+pass, "192.0.2.1"); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/" {
		t.Errorf("a pass of yesterday: %s", resp.Status)
	}
}

// TestCookiesOutliveTheProcess: the key is the owner's alone, is kept, and is
// replaced when it is damaged.
func TestCookiesOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	open := func() *signer {
		t.Helper()
		s, err := openSigner(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	now := time.Now()
	text := open().sign(now.Add(time.Hour), "a", "b")
	again := open()
	if !again.valid(text, now, "a", "b") || again.valid(text, now, "ab", "") || again.valid(text, now.Add(time.Hour+time.Second), "a", "b") {
		t.Error("a cookie of the process before is not judged as it should be")
	}
	mustMode(t, dir, signerFile, 0o600)
	mustWrite(t, dir, signerFile, "damaged")
	if open().valid(text, now, "a", "b") {
		t.Error("a damaged key is used")
	}
}

func TestCookieDomain(t *testing.T) {
	hosts := []string{"learn.example.org", "studio.learn.example.org", "apps.learn.example.org", "blog.example.org", "x.apps.learn.example.org"}
	for host, want := range map[string]string{
		"learn.example.org": "learn.example.org", "studio.learn.example.org": "learn.example.org",
		"x.apps.learn.example.org": "learn.example.org", "blog.example.org": "", "notlearn.example.org": "",
	} {
		if got := cookieDomain(host, hosts); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}

// TestBadDoors: what a snapshot may not say of a host.
func TestBadDoors(t *testing.T) {
	hash := hashOf(t, "x")
	for name, change := range map[string]func(h *routes.Host){
		"HSTS":               func(h *routes.Host) { h.HSTS = -1 },
		"header with a line": func(h *routes.Host) { h.Headers = map[string]string{"X": "a\r\nSet-Cookie: b"} },
		"header's name":      func(h *routes.Host) { h.Headers = map[string]string{"X Y": "a"} },
		"header of the wire": func(h *routes.Host) { h.Headers = map[string]string{"transfer-encoding": "chunked"} },
		"rule's header":      func(h *routes.Host) { h.Rules = []routes.Rule{{Headers: map[string]string{"a:b": "c"}}} },
		"no users":           func(h *routes.Host) { h.Auth = &routes.Auth{} },
		"password as it is":  func(h *routes.Host) { h.Auth = &routes.Auth{Users: map[string]routes.Secret{"a": "b"}} },
		"user with a colon":  func(h *routes.Host) { h.Auth = &routes.Auth{Users: map[string]routes.Secret{"a:b": hash}} },
		"realm":              func(h *routes.Host) { h.Auth = &routes.Auth{Realm: `a"b`, Users: map[string]routes.Secret{"a": hash}} },
		"hash that takes minutes": func(h *routes.Host) {
			h.Auth = &routes.Auth{Users: map[string]routes.Secret{"a": "$2a$31$" + hash[7:]}}
		},
		"short pass":           func(h *routes.Host) { h.Maintenance = &routes.Maintenance{Pass: "1234"} },
		"network":              func(h *routes.Host) { h.Maintenance = &routes.Maintenance{Networks: []netip.Prefix{{}}} },
		"limit without a name": func(h *routes.Host) { h.Limits = []routes.RateLimit{{Burst: 1, Every: time.Second}} },
		"limit of nothing":     func(h *routes.Host) { h.Limits = []routes.RateLimit{{Name: "a", Every: time.Second}} },
		"limit of no time":     func(h *routes.Host) { h.Limits = []routes.RateLimit{{Name: "a", Burst: 1}} },
		"limit of months":      func(h *routes.Host) { h.Limits = []routes.RateLimit{{Name: "a", Burst: 1000, Every: 24 * time.Hour}} },
		"limit's path": func(h *routes.Host) {
			h.Limits = []routes.RateLimit{{Name: "a", Path: "a", Burst: 1, Every: time.Second}}
		},
		"limit's method": func(h *routes.Host) {
			h.Limits = []routes.RateLimit{{Name: "a", Methods: []string{"get"}, Burst: 1, Every: time.Second}}
		},
		"status":              func(h *routes.Host) { h.Rules = []routes.Rule{{Status: 200}} },
		"status and upstream": func(h *routes.Host) { h.Rules = []routes.Rule{{Status: 404, Upstream: "127.0.0.1:1"}} },
		"further upstream":    func(h *routes.Host) { h.Upstreams = []string{"localhost:80"} },
		"too many limits":     func(h *routes.Host) { h.Limits = make([]routes.RateLimit, maxLimits+1) },
		"too many of networks": func(h *routes.Host) {
			h.Maintenance = &routes.Maintenance{Networks: make([]netip.Prefix, maxNetworks+1)}
		},
	} {
		s := one(1, "127.0.0.1:1", routes.Ready)
		change(&s.Hosts[0])
		err := checkSnapshot(&s)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), string(hash)) {
			t.Errorf("%s: the error tells a hash: %v", name, err)
		}
	}
}

func mustMode(t *testing.T, dir, name string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil || info.Mode().Perm() != want {
		t.Errorf("%s: %v, %v; want mode %o", name, info, err, want)
	}
}

func mustWrite(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
