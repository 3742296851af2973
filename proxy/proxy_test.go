package proxy

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"tarima/proxy/routes"
)

func TestServesAHost(t *testing.T) {
	up := upstreamServer(t, echo())
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			r.put(one(1, address(up), routes.Ready))
			browser := r.browser(h2)
			resp, body := r.get(browser, "https://lms.test/courses/%C3%B1?q=a;b&c=%zz", "X-Forwarded-For", "6.6.6.6")
			if resp.StatusCode != http.StatusOK || (resp.ProtoMajor == 2) != h2 {
				t.Fatalf("answer %s over %s: %s", resp.Status, resp.Proto, body)
			}
			var s seen
			if err := json.Unmarshal([]byte(body), &s); err != nil {
				t.Fatal(err)
			}
			if s.Host != "lms.test" || s.URI != "/courses/%C3%B1?q=a;b&c=%zz" {
				t.Errorf("the upstream saw host %q and %q", s.Host, s.URI)
			}
			want := map[string]string{
				"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "lms.test",
				"X-Forwarded-Port": r.https[strings.LastIndex(r.https, ":")+1:],
			}
			for k, v := range want {
				if got := s.Header.Values(k); len(got) != 1 || got[0] != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
			until(t, "a line in the access log", func() bool { return strings.Contains(r.access.String(), `"path":"/courses/ñ"`) })
			if strings.Contains(r.access.String(), "a;b") {
				t.Error("the query is in the access log")
			}
		})
	}
}

func TestHTTPLeadsToHTTPS(t *testing.T) {
	r := start(t, func(c *Config) { c.PublicPort = 443 })
	r.put(one(1, "127.0.0.1:1", routes.Ready))
	browser := r.browser(false)
	resp, _ := r.get(browser, "http://lms.test/a?b=c")
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "https://lms.test/a?b=c" {
		t.Errorf("%s to %q", resp.Status, resp.Header.Get("Location"))
	}
	if resp, body := r.get(browser, "http://127.0.0.1:80/-/healthz"); resp.StatusCode != http.StatusOK || body != "ok\n" {
		t.Errorf("health: %s %q", resp.Status, body)
	}
	if resp, _ := r.get(browser, "http://other.test/"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown host: %s", resp.Status)
	}
}
