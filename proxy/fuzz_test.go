package proxy

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarima/proxy/routes"
)

// What passes the screen and is cleaned says nothing that only a proxy may say,
// under no name that an application would fold into such a one.
func FuzzScreen(f *testing.F) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: lms.test\r\n\r\n",
		"GET /a/%2e%2e/b HTTP/1.1\r\nHost: lms.test\r\n\r\n",
		"GET http://else.test/a?b;c=%zz HTTP/1.1\r\nHost: lms.test:8443\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: [::1]\r\nX-Forwarded-For: 1.2.3.4, [2001:db8::1%25e]:7 , x\r\nX-Forwarded-Proto: a,HTTPS\r\nX-Forwarded-Port: 0\r\n\r\n",
		"GET /ws HTTP/1.1\r\nHost: lms.test\r\nUpgrade: websocket\r\nConnection: x, Upgrade\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: lms.test\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: lms.test\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add(head)
	}
	front := netip.MustParsePrefix("10.0.0.0/8")
	s := &server{trust: newTrust([]netip.Prefix{front})}
	f.Fuzz(func(t *testing.T, head string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		if err != nil {
			return
		}
		if screen(r, 30<<10) == nil && (r.Host == "" || !strings.HasPrefix(r.URL.Path, "/") ||
			strings.ContainsRune(r.URL.Path, 0) || strings.Contains(r.URL.Path+"/", "/../")) {
			t.Errorf("passed: host %q, path %q", r.Host, r.URL.Path)
		}
		for remote, believed := range map[string]bool{"10.0.0.1:7": true, "203.0.113.9:7": false, "@": false} {
			r.RemoteAddr = remote
			c := s.clientOf(r, listener{door: door{tls: true, port: 8443}})
			if c.believed != believed || c.proto != "http" && c.proto != "https" || c.port < 0 || c.port > 65535 {
				t.Errorf("from %s: %+v", remote, c)
			}
			if c.addr.IsValid() && (c.addr.Zone() != "" || c.addr.Is4In6()) {
				t.Errorf("from %s: address %s has a second form", remote, c.addr)
			}
			if peer := peerAddr(remote); !believed && (c.addr != peer || c.proto != "https" || c.port != 8443) {
				t.Errorf("a stranger at %s was believed: %+v", remote, c)
			}
		}
		clean(r.Header)
		websocket := upgrade(r)
		for name := range r.Header {
			folded := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			if strings.ContainsAny(name, "_ \t:") || strings.HasPrefix(folded, "X_FORWARDED_") || folded == "FORWARDED" || folded == "PROXY" {
				t.Errorf("header %q is left", name)
			}
		}
		if u := r.Header["Upgrade"]; (len(u) > 0) != websocket || websocket && u[0] != "websocket" {
			t.Errorf("upgrade %v: %q", websocket, u)
		}
	})
}

// However a host is written, it is one of ours or of nobody.
func FuzzHostName(f *testing.F) {
	for _, s := range []string{"lms.test", "LMS.test.:443", "[::1]:80", "[::1]", "a:b:c", ":", ".", "]", "lms.test:0x1bb", "lms.test@evil.test"} {
		f.Add(s)
	}
	table := newTable(one(1, "127.0.0.1:1", routes.Ready), newGate)
	f.Fuzz(func(t *testing.T, s string) {
		name := hostName(s)
		if strings.ContainsFunc(name, func(r rune) bool { return r >= 'A' && r <= 'Z' }) {
			t.Errorf("%q became %q", s, name)
		}
		if _, ours := table.find(s, "/"); ours && !strings.HasPrefix(strings.ToLower(strings.TrimPrefix(s, "[")), "lms.test") {
			t.Errorf("%q is ours", s)
		}
	})
}

// A name that is believed has the shape that the standard gives it, and none
// that breaks a line of a log.
func FuzzTraceNames(f *testing.F) {
	f.Add(newTraceparent())
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01-what-is-new")
	f.Add("00-00000000000000000000000000000000-00f067aa0ba902b7-01")
	f.Add("A1/b+c=:._-")
	f.Fuzz(func(t *testing.T, s string) {
		if isTraceparent(s) {
			if p := strings.SplitN(s, "-", 5); len(p) < 4 || len(p[0]) != 2 || len(p[1]) != 32 || len(p[2]) != 16 || len(p[3]) != 2 ||
				strings.Trim(p[1], "0") == "" || strings.Trim(p[2], "0") == "" || p[0] == "00" && len(p) > 4 {
				t.Errorf("traceparent %q", s)
			}
		}
		if isRequestID(s) && (s == "" || len(s) > 128 || strings.ContainsAny(s, " \"'\\<>\r\n\t\x00\x7f;&")) {
			t.Errorf("request %q", s)
		}
	})
}

// Nobody makes a cookie that is not his.
func FuzzSigned(f *testing.F) {
	s := &signer{key: []byte("0123456789abcdef0123456789abcdef")}
	now := time.Unix(1_800_000_000, 0)
	good := s.sign(now.Add(time.Hour), "proof", "default", "203.0.113.0/24")
	f.Add(good, "default")
	f.Add(s.sign(now, "proof", "default", "203.0.113.0/24"), "default")
	f.Add("9999999999999999999."+good[11:], "default")
	f.Add("+"+good, "default")
	f.Add(".", "")
	f.Fuzz(func(t *testing.T, text, site string) {
		if s.valid(text, now, "proof", site, "203.0.113.0/24") && (text != good || site != "default") {
			t.Errorf("%q is valid for %q", text, site)
		}
		if s.valid(text, now.Add(time.Hour), "proof", site, "203.0.113.0/24") && strings.HasPrefix(text, good[:10]) {
			t.Errorf("%q is valid when it is over", text)
		}
	})
}

// What a predecessor wrote, or somebody over it, is a count or nothing said.
func FuzzWill(f *testing.F) {
	for _, text := range []string{`{"generation":7,"inside":{"default/lms":3}}`, `{"inside":null}`, `{"generation":-1}`, "null", "", "{"} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(dir, "elder.json")
		file, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(text); err != nil {
			t.Fatal(err)
		}
		w, gone := read(name)
		if gone {
			t.Fatal("a living elder is gone")
		}
		if !json.Valid(text) && (w.Generation != 0 || w.Inside != nil) {
			t.Errorf("%q says %+v", text, w)
		}
	})
}
