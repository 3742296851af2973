package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarima/proxy/routes"
)

// solve does the work of a page as its program does.
func solve(challenge string) string {
	for n := 0; ; n++ {
		if worked(challenge + strconv.Itoa(n)) {
			return strconv.Itoa(n)
		}
	}
}

var proofForm = regexp.MustCompile(`name="challenge" value="([^"]+)"[^$]*name="path" value="([^"]*)"`)

// form reads the challenge and the path out of a page.
func form(t *testing.T, page string) (challenge, path string) {
	t.Helper()
	m := proofForm.FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no form in the page:\n%s", page)
	}
	return m[1], html.UnescapeString(m[2])
}

func TestProofOfWork(t *testing.T) {
	g := newGuarded(t, func(h *routes.Host) { h.Proof = true })
	browser := g.browser(true)
	ask := func(method, url, from string, header ...string) (*http.Response, string) {
		return g.ask(browser, method, url, from, header...)
	}
	hand := func(from, challenge, nonce, path string) (*http.Response, string) {
		t.Helper()
		values := url.Values{"challenge": {challenge}, "nonce": {nonce}, "path": {path}}
		req, err := http.NewRequest(http.MethodPost, "https://lms.test/-/proof", strings.NewReader(values.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		return g.do(browser, req, "X-Forwarded-For", from, "Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html")
	}
	resp, page := ask(http.MethodGet, `https://lms.test/courses/?q=%22a%22&b=<`, "192.0.2.1", "Accept", "text/html")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("a visitor: %s %v", resp.Status, resp.Header)
	}
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "script-src 'sha256-") || !strings.Contains(policy, "form-action 'self'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy: %s", policy)
	}
	if !strings.Contains(page, "<noscript><p>El cálculo necesita JavaScript") || strings.Contains(page, "http:") {
		t.Errorf("page:\n%s", page)
	}
	challenge, path := form(t, page)
	if path != "/courses/?q=%22a%22&b=<" && path != "/courses/?q=%22a%22&b=%3C" {
		t.Errorf("path: %q", path)
	}
	// One block of SHA-256 is all that the page's program computes.
	if len(challenge)+10 > 55 {
		t.Errorf("the challenge has %d characters", len(challenge))
	}
	// Programs are told in their own way, other methods too, and none passes.
	for _, c := range []struct{ method, accept string }{
		{http.MethodGet, "application/json"},
		{http.MethodGet, "image/png"},
		{http.MethodPost, "application/json"},
		{http.MethodOptions, "*/*"},
	} {
		if resp, body := ask(c.method, "https://lms.test/api/x", "192.0.2.1", "Accept", c.accept); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, `"error":"proof"`) {
			t.Errorf("%s %s: %s %s", c.method, c.accept, resp.Status, body)
		}
	}
	if resp, _ := ask(http.MethodOptions, "https://lms.test/api/x", "192.0.2.1", "Origin", "https://apps.lms.test", "Access-Control-Request-Method", "GET"); resp.StatusCode != http.StatusOK {
		t.Errorf("preflight: %s", resp.Status)
	}
	g.reached.Store(0)

	nonce := solve(challenge)
	wrong := solve("another challenge")
	for name, try := range map[string]struct{ from, challenge, nonce string }{
		"no work":           {"192.0.2.1", challenge, "0x"},
		"nothing":           {"192.0.2.1", "", ""},
		"another challenge": {"192.0.2.1", "another challenge", wrong},
		"from elsewhere":    {"198.51.100.1", challenge, nonce},
	} {
		resp, page := hand(try.from, try.challenge, try.nonce, "/x")
		if resp.StatusCode != http.StatusServiceUnavailable || len(resp.Cookies()) > 0 {
			t.Errorf("%s: %s", name, resp.Status)
			continue
		}
		if _, path := form(t, page); path != "/x" {
			t.Errorf("%s: another try leads to %q", name, path)
		}
	}
	resp, _ = hand("192.0.2.77", challenge, nonce, path)
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		t.Fatalf("the work is done: %s", resp.Status)
	}
	if to := resp.Header.Get("Location"); to != path {
		t.Errorf("leads to %q, not %q", to, path)
	}
	cookie := resp.Cookies()[0]
	if !cookie.HttpOnly || !cookie.Secure || cookie.Domain != "lms.test" || cookie.MaxAge != 12*3600 {
		t.Errorf("its cookie: %s", cookie)
	}
	held := cookie.Name + "=" + cookie.Value
	for _, c := range []struct {
		host, from string
		status     int
	}{
		{"lms.test", "192.0.2.1", 200},
		{"lms.test", "192.0.2.200", 200},
		{"apps.lms.test", "192.0.2.1", 200},
		{"lms.test", "192.0.3.1", 503},
		{"lms.test", "2001:db8::1", 503},
	} {
		if resp, _ := ask(http.MethodGet, "https://"+c.host+"/x", c.from, "Cookie", held); resp.StatusCode != c.status {
			t.Errorf("%s from %s with the cookie: %s", c.host, c.from, resp.Status)
		}
	}
	// Where it leads on is a page of this host, whatever the form says.
	for _, path := range []string{"//evil.test/", "///evil.test/", `/\evil.test/`, "https://evil.test/", "x", "", "/a b", "/\t/evil.test", "javascript:alert(1)"} {
		if resp, _ := hand("192.0.2.1", challenge, nonce, path); resp.Header.Get("Location") != "/" {
			t.Errorf("%q leads to %q", path, resp.Header.Get("Location"))
		}
	}
	if resp, _ := hand("192.0.2.1", challenge, strings.Repeat("x", proofBody), "/"); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a huge form: %s", resp.Status)
	}
	if resp, _ := ask(http.MethodGet, "https://lms.test/-/proof", "192.0.2.1"); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("the form's address itself: %s", resp.Status)
	}
	if g.reached.Load() != 3 {
		t.Errorf("%d requests reached the application, want the 3 with a cookie", g.reached.Load())
	}
	// The attack is over.
	g.apply(func(h *routes.Host) { h.Proof = false })
	if resp, _ := ask(http.MethodGet, "https://lms.test/x", "198.51.100.1", "Accept", "text/html"); resp.StatusCode != http.StatusOK {
		t.Errorf("without proof: %s", resp.Status)
	}
}

// TestChallengesGrowOld: a challenge is good for this slot and the one after,
// and a cookie for its time.
func TestChallengesGrowOld(t *testing.T) {
	key, err := openSigner(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, h := &server{signer: key}, &host{Host: routes.Host{Name: "lms.test"}}
	at := time.Unix(1_800_000_000, 0)
	text := s.challengeOf(h, "192.0.2.0/24", at)
	for _, c := range []struct {
		after time.Duration
		from  string
		want  bool
	}{
		{0, "192.0.2.0/24", true},
		{proofSlot, "192.0.2.0/24", true},
		{2 * proofSlot, "192.0.2.0/24", false},
		{-proofSlot, "192.0.2.0/24", false},
		{0, "192.0.3.0/24", false},
	} {
		if got := s.challenged(h, c.from, at.Add(c.after), text); got != c.want {
			t.Errorf("after %s from %s: %v", c.after, c.from, got)
		}
	}
	if s.challenged(&host{Host: routes.Host{Name: "apps.test"}}, "192.0.2.0/24", at, text) {
		t.Error("a challenge of another host is taken")
	}
}

// TestProofProgram runs the page's own program, in Node.js, on challenges of
// every length, and checks its result.
func TestProofProgram(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("Node.js is missing: test/setup test installs it")
	}
	challenges := []string{""}
	for n := 1; n <= 44; n++ {
		challenges = append(challenges, strings.Repeat("aZ9_-.", 8)[:n])
	}
	input, err := json.Marshal(challenges)
	if err != nil {
		t.Fatal(err)
	}
	// A document with nothing but the form, and 12 bits so that it is quick.
	script := fmt.Sprintf(`
		for (const challenge of %s) {
			const nonce = {}, form = {
				elements: {challenge: {value: challenge}, nonce},
				getAttribute: () => "12",
				submit: () => console.log(JSON.stringify({challenge, nonce: String(nonce.value)})),
			};
			new Function("document", %s)({getElementById: () => form});
		}`, input, mustJSON(t, proofProgram))
	cmd := exec.CommandContext(t.Context(), node, "-")
	cmd.Stdin = strings.NewReader(script)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	done := map[string]bool{}
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var line struct{ Challenge, Nonce string }
		if err := d.Decode(&line); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		done[line.Challenge] = true
		if zeroBits(line.Challenge+line.Nonce) < 12 {
			t.Errorf("%q with %s is no proof", line.Challenge, line.Nonce)
		}
	}
	if len(done) != len(challenges) {
		t.Errorf("%d of %d challenges were solved", len(done), len(challenges))
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// FuzzOwnPath: wherever the form says, a browser stays on this host.
func FuzzOwnPath(f *testing.F) {
	for _, seed := range []string{"/", "/a?b#c", "//x", `/\x`, "/\t/x", "http://x", "/%2f/x", "/;@x", "///x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, to string) {
		got := ownPath(to)
		base, _ := url.Parse("https://lms.test/-/proof")
		// As browsers read it: tabs and line breaks are nothing, \ is /.
		seen := strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(got)
		u, err := base.Parse(seen)
		if err != nil || u.Host != "lms.test" || u.Scheme != "https" || strings.HasPrefix(seen, "//") {
			t.Errorf("%q leads to %q", to, got)
		}
	})
}
