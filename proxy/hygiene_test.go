package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"tarima/proxy/routes"
)

// Raw requests that two parsers could read differently, or that try to speak
// with the proxy's voice.
func TestHygiene(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	head := "GET / HTTP/1.1\r\nHost: lms.test\r\n"
	end := "Connection: close\r\n\r\n"
	cases := []struct {
		name, request, status string
		absent                []string          // header names the upstream must not see
		equal                 map[string]string // headers it must see, and "URI", "Host", "Method"
	}{
		{name: "plain", request: head + end, status: "200"},
		{
			name: "underscores", status: "200",
			request: head + "X_Forwarded_For: 6.6.6.6\r\nX_Forwarded_Proto: http\r\nRemote_User: root\r\n" + end,
			absent:  []string{"X_forwarded_for", "X_forwarded_proto", "Remote_user", "X_Forwarded_For"},
			equal:   map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https"},
		},
		{
			name: "forwarding headers", status: "200",
			request: head + "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Server: e\r\n" +
				"X-Real-Ip: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Original-Url: /admin\r\nX-Rewrite-Url: /admin\r\nProxy: http://evil\r\n" + end,
			absent: []string{"X-Real-Ip", "Forwarded", "X-Original-Url", "X-Rewrite-Url", "Proxy", "X-Forwarded-Server"},
			equal:  map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "lms.test"},
		},
		{
			name: "Connection names a forwarding header", status: "200",
			request: head + "Connection: X-Forwarded-For, close\r\n\r\n",
			equal:   map[string]string{"X-Forwarded-For": "127.0.0.1"},
		},
		{
			name: "h2c upgrade", status: "200", absent: []string{"Upgrade", "Http2-Settings", "Connection"},
			request: head + "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		},
		{
			name: "two upgrades", status: "200", absent: []string{"Upgrade"},
			request: head + "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n",
		},
		{name: "TRACE", request: "TRACE / HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "405"},
		{name: "CONNECT", request: "CONNECT lms.test:80 HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "405"},
		{name: "lower case method", request: "get / HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "405"},
		{name: "h2 preface", request: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", status: "4|505|closed"},
		{name: "asterisk", request: "OPTIONS * HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "400"},
		{name: "no host", request: "GET / HTTP/1.1\r\n" + end, status: "400"},
		{name: "no host 1.0", request: "GET / HTTP/1.0\r\n\r\n", status: "400"},
		{name: "two hosts", request: head + "Host: evil.test\r\n" + end, status: "400"},
		{name: "other host", request: "GET / HTTP/1.1\r\nHost: evil.test\r\n" + end, status: "421"},
		{name: "absolute form of another host", request: "GET http://evil.test/ HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "421"},
		{name: "NUL in the path", request: "GET /a%00b HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "400"},
		{name: "dots", request: "GET /static/../admin HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "400"},
		{name: "encoded dots", request: "GET /static/%2e%2e/admin HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "400"},
		{name: "encoded slash and dots", request: "GET /static%2f..%2fadmin HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "400"},
		{name: "bad escape", request: "GET /%zz HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "400"},
		{
			name: "query as it is", request: "GET /s?a;b=%zz&c=1;d HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "200",
			equal: map[string]string{"URI": "/s?a;b=%zz&c=1;d"},
		},
		{
			name: "path as it is", request: "GET /a%2Fb//c HTTP/1.1\r\nHost: lms.test\r\n" + end, status: "200",
			equal: map[string]string{"URI": "/a%2Fb//c"},
		},
		{
			name: "host with a port", request: "GET / HTTP/1.1\r\nHost: LMS.test:8443\r\n" + end, status: "200",
			equal: map[string]string{"Host": "LMS.test:8443", "X-Forwarded-Host": "LMS.test:8443"},
		},
		{name: "two lengths", request: "POST / HTTP/1.1\r\nHost: lms.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + end + "ab", status: "400"},
		{name: "signed length", request: "POST / HTTP/1.1\r\nHost: lms.test\r\nContent-Length: +1\r\n" + end + "a", status: "400"},
		{name: "strange coding", request: "POST / HTTP/1.1\r\nHost: lms.test\r\nTransfer-Encoding: xchunked\r\n" + end, status: "501"},
		{name: "coding with a space", request: "POST / HTTP/1.1\r\nHost: lms.test\r\nTransfer-Encoding : chunked\r\n" + end, status: "400"},
		{name: "coding twice", request: "POST / HTTP/1.1\r\nHost: lms.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + end, status: "501|400"},
		{
			name: "length and coding", status: "200", absent: []string{"Content-Length"},
			request: "POST / HTTP/1.1\r\nHost: lms.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n" + end + "0\r\n\r\n",
		},
		{name: "broken chunk", request: "POST / HTTP/1.1\r\nHost: lms.test\r\nTransfer-Encoding: chunked\r\n" + end + "zz\r\nabc\r\n0\r\n\r\n", status: "400"},
		{name: "header with a NUL", request: head + "X-A: a\x00b\r\n" + end, status: "400"},
		{name: "header with a bare CR", request: head + "X-A: a\rb\r\n" + end, status: "400"},
		{name: "space before the colon", request: head + "X-A : a\r\n" + end, status: "400"},
		{name: "expectation", request: head + "Expect: the unexpected\r\n" + end, status: "417"},
		{name: "long head", request: head + "Cookie: " + strings.Repeat("c", 31<<10) + "\r\n" + end, status: "431"},
		{name: "very long head", request: head + "Cookie: " + strings.Repeat("c", 200<<10) + "\r\n" + end, status: "431|closed|write"},
		{name: "not HTTP", request: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", status: "400"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			answer := raw(t, r.dialTLS("lms.test"), c.request)
			good := false
			for s := range strings.SplitSeq(c.status, "|") {
				good = good || strings.HasPrefix(answer, s)
			}
			if !good {
				t.Fatalf("want %s, got %s", c.status, answer)
			}
			if !strings.HasPrefix(answer, "200") {
				if strings.Contains(answer, `"URI"`) {
					t.Errorf("it reached the upstream: %s", answer)
				}
				return
			}
			_, body, _ := strings.Cut(answer, "\n")
			var s seen
			if err := json.Unmarshal([]byte(body), &s); err != nil {
				t.Fatal(err)
			}
			for _, name := range c.absent {
				if v, ok := s.Header[name]; ok {
					t.Errorf("the upstream saw %s: %q", name, v)
				}
			}
			for name, want := range c.equal {
				got := strings.Join(s.Header.Values(name), "|")
				switch name {
				case "URI":
					got = s.URI
				case "Host":
					got = s.Host
				}
				if got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// A second request in the body of a first one stays its body.
func TestNoSecondRequest(t *testing.T) {
	var requests atomic.Int64
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	smuggled := "GET /admin HTTP/1.1\r\nHost: lms.test\r\n\r\n"
	for _, request := range []string{
		"POST / HTTP/1.0\r\nHost: lms.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"POST / HTTP/1.1\r\nHost: lms.test\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nX" + smuggled,
		fmt.Sprintf("GET / HTTP/1.1\r\nHost: lms.test\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(smuggled), smuggled),
	} {
		before := requests.Load()
		answer := raw(t, r.dialTLS("lms.test"), request)
		if n := requests.Load() - before; n > 1 {
			t.Errorf("%d requests reached the upstream for %q (%s)", n, request, answer)
		}
	}
}

func TestTrustedProxies(t *testing.T) {
	cases := []struct {
		name          string
		trusted       []netip.Prefix
		header        []string
		client, proto string
	}{
		{"stranger", nil, []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https"}, "127.0.0.1", "http"},
		{"trusted", []netip.Prefix{loopback}, []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https"}, "6.6.6.6", "https"},
		{"liar behind a trusted one", []netip.Prefix{loopback}, []string{"X-Forwarded-For", "1.1.1.1, 6.6.6.6"}, "6.6.6.6", "http"},
		{"two trusted", []netip.Prefix{loopback, netip.MustParsePrefix("10.0.0.0/8")}, []string{"X-Forwarded-For", "1.1.1.1, 6.6.6.6, 10.1.2.3"}, "6.6.6.6", "http"},
		{"rubbish", []netip.Prefix{loopback}, []string{"X-Forwarded-For", "6.6.6.6, <script>", "X-Forwarded-Proto", "gopher"}, "127.0.0.1", "http"},
		{"with a port", []netip.Prefix{loopback}, []string{"X-Forwarded-For", "[2001:db8::7]:99"}, "2001:db8::7", "http"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			up := upstreamServer(t, echo())
			r := start(t, func(cfg *Config) {
				cfg.Trusted = c.trusted
				cfg.HTTPS = nil // TLS ends in front
			})
			r.put(one(1, address(up), routes.Ready))
			_, body := r.get(r.browser(false), "http://lms.test/", c.header...)
			var s seen
			if err := json.Unmarshal([]byte(body), &s); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			if got := s.Header.Get("X-Forwarded-For"); got != c.client {
				t.Errorf("client %q, want %q", got, c.client)
			}
			if got := s.Header.Get("X-Forwarded-Proto"); got != c.proto {
				t.Errorf("proto %q, want %q", got, c.proto)
			}
		})
	}
}

func TestConnectionLimits(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.ConnectionsPerAddr = 3 })
	r.put(one(1, "127.0.0.1:1", routes.Ready))
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	health := "GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	dial := func() (net.Conn, string) {
		c, err := net.Dial("tcp", r.http)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if _, err := io.WriteString(c, health); err != nil {
			return c, "closed"
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return c, "closed"
		}
		return c, line
	}
	for range 3 {
		if _, line := dial(); !strings.HasPrefix(line, "HTTP/1.1 200") {
			t.Fatalf("within the limit: %q", line)
		}
	}
	if _, line := dial(); line != "closed" {
		t.Errorf("over the limit: %q", line)
	}
	_ = open[0].Close()
	until(t, "a place after one was given back", func() bool {
		_, line := dial()
		return strings.HasPrefix(line, "HTTP/1.1 200")
	})
}
