package proxy

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarima/proxy/routes"
)

func TestRuleMatch(t *testing.T) {
	cases := []struct {
		rule, path string
		ok         bool
		rest       string
	}{
		{"/favicon.ico", "/favicon.ico", true, ""},
		{"/favicon.ico", "/favicon.ico/", false, ""},
		{"/favicon.ico", "/favicon.icon", false, ""},
		{"/", "/", true, ""},
		{"/", "/a", false, ""},
		{"/", "//", false, ""},
		{"", "/a/b", true, "a/b"},
		{"", "/", true, ""},
		{"/a/", "/a/", true, ""},
		{"/a/", "/a", false, ""},
		{"/a/", "/a/b/c", true, "b/c"},
		{"/a/", "/ab/", false, ""},
		{"/api/profile_images/*/*/upload", "/api/profile_images/v1/ana/upload", true, ""},
		{"/api/profile_images/*/*/upload", "/api/profile_images/v1/ana/x/upload", false, ""},
		{"/api/profile_images/*/*/upload", "/api/profile_images/v1//upload", false, ""},
		{"/api/profile_images/*/*/upload", "/api/profile_images/v1/ana/upload/", false, ""},
		{"/*/assets/", "/x/assets/y", true, "y"},
		{"/*/assets/", "//assets/y", false, ""},
		{"/*", "/x", true, ""},
		{"/*", "/", false, ""},
	}
	for _, c := range cases {
		s := one(1, "127.0.0.1:1", routes.Ready)
		s.Hosts[0].Rules = []routes.Rule{{Path: c.rule}}
		if err := checkSnapshot(&s); err != nil {
			t.Fatalf("%q: %v", c.rule, err)
		}
		table := newTable(s, newGate)
		d, found := table.find("lms.test", c.path)
		if !found || (d.rule != nil) != c.ok || d.rest != c.rest {
			t.Errorf("%q on %q: matched %v, rest %q", c.rule, c.path, d.rule != nil, d.rest)
		}
	}
}

func TestRules(t *testing.T) {
	lms, mfe := upstreamServer(t, echo()), upstreamServer(t, echo())
	r := start(t)
	s := routes.Snapshot{Schema: 1, Generation: 1, TLS: routes.TLS{Mode: "local"}, Hosts: []routes.Host{
		{
			Name: "lms.test", Site: "default", Service: "lms", Upstream: address(lms), State: routes.Ready,
			Rules: []routes.Rule{{Path: "/favicon.ico", Rewrite: "/theming/asset/images/favicon.ico"}},
		},
		{
			Name: "apps.test", Site: "default", Service: "mfe", Upstream: address(mfe), State: routes.Ready,
			Rules: []routes.Rule{
				{Path: "/", Redirect: "https://lms.test/"},
				{Path: "/course-authoring/", Redirect: "/authoring/"},
				{Path: "/api/mfe_config/", Upstream: address(lms), Service: "lms", Host: "lms.test"},
				{Path: "/old/", Rewrite: "/new/"},
			},
		},
		{Name: "www.lms.test", Site: "default", Redirect: "https://lms.test"},
	}}
	r.put(s)
	browser := r.browser(true)
	for _, c := range []struct{ url, status, location, host, uri string }{
		{"https://lms.test/favicon.ico?v=1", "200", "", "lms.test", "/theming/asset/images/favicon.ico?v=1"},
		{"https://apps.test/", "302", "https://lms.test/", "", ""},
		{"https://apps.test/x", "200", "", "apps.test", "/x"},
		{"https://apps.test/course-authoring/a%20b?c=d", "302", "/authoring/a%20b?c=d", "", ""},
		{"https://apps.test/course-authoring//evil.test/%5C", "302", "/authoring/evil.test/%5C", "", ""},
		{"https://apps.test/api/mfe_config/v1?mfe=learning", "200", "", "lms.test", "/api/mfe_config/v1?mfe=learning"},
		{"https://apps.test/old/way", "200", "", "apps.test", "/new/way"},
		{"https://www.lms.test/a/b?c", "308", "https://lms.test/a/b?c", "", ""},
	} {
		resp, body := r.get(browser, c.url)
		if !strings.HasPrefix(resp.Status, c.status) || resp.Header.Get("Location") != c.location {
			t.Errorf("%s: %s to %q", c.url, resp.Status, resp.Header.Get("Location"))
			continue
		}
		if c.status == "200" {
			var s seen
			if err := json.Unmarshal([]byte(body), &s); err != nil || s.Host != c.host || s.URI != c.uri {
				t.Errorf("%s: the upstream saw %q %q (%v)", c.url, s.Host, s.URI, err)
			}
		}
	}
	// A rule's service drains as its own host's would.
	s.Generation, s.Hosts[0].State = 2, routes.Down
	r.put(s)
	if resp, _ := r.get(browser, "https://apps.test/api/mfe_config/v1"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("rule to a service that is down: %s", resp.Status)
	}
	if resp, _ := r.get(browser, "https://apps.test/x"); resp.StatusCode != http.StatusOK {
		t.Errorf("host beside it: %s", resp.Status)
	}
}

func TestBadSnapshots(t *testing.T) {
	change := map[string]func(*routes.Snapshot){
		"schema 0":           func(s *routes.Snapshot) { s.Schema = 0 },
		"newer schema":       func(s *routes.Snapshot) { s.Schema = routes.Schema + 1 },
		"mode":               func(s *routes.Snapshot) { s.TLS.Mode = "magic" },
		"directory":          func(s *routes.Snapshot) { s.TLS.Directory = "http://ca.test/dir" },
		"upper case":         func(s *routes.Snapshot) { s.Hosts[0].Name = "LMS.test" },
		"host with a port":   func(s *routes.Snapshot) { s.Hosts[0].Name = "lms.test:1" },
		"host with a path":   func(s *routes.Snapshot) { s.Hosts[0].Name = "lms.test/x" },
		"no host":            func(s *routes.Snapshot) { s.Hosts[0].Name = "" },
		"host twice":         func(s *routes.Snapshot) { s.Hosts = append(s.Hosts, s.Hosts[0]) },
		"too many hosts":     func(s *routes.Snapshot) { s.Hosts = make([]routes.Host, maxHosts+1) },
		"too many rules":     func(s *routes.Snapshot) { s.Hosts[0].Rules = make([]routes.Rule, maxRules+1) },
		"no site":            func(s *routes.Snapshot) { s.Hosts[0].Site = "" },
		"site leads upwards": func(s *routes.Snapshot) { s.Hosts[0].Site = ".." },
		"upstream by name":   func(s *routes.Snapshot) { s.Hosts[0].Upstream = "evil.test:80" },
		"upstream port 0":    func(s *routes.Snapshot) { s.Hosts[0].Upstream = "10.0.0.1:0" },
		"state":              func(s *routes.Snapshot) { s.Hosts[0].State = "perhaps" },
		"negative limit":     func(s *routes.Snapshot) { s.Hosts[0].MaxBody = -1 },
		"redirect to itself": func(s *routes.Snapshot) { s.Hosts[0].Redirect = "https://lms.test/" },
		"redirect scheme":    func(s *routes.Snapshot) { s.Hosts[0].Redirect = "javascript:alert(1)" },
		"control character":  func(s *routes.Snapshot) { s.Page.SiteName = "a\nb" },
		"two states": func(s *routes.Snapshot) {
			h := s.Hosts[0]
			h.Name, h.State = "cms.test", routes.Down
			s.Hosts = append(s.Hosts, h)
		},
		"rule path":           withRule(routes.Rule{Path: "x"}),
		"rule two things":     withRule(routes.Rule{Path: "/", Redirect: "/x", Root: "y"}),
		"rule other host":     withRule(routes.Rule{Path: "/", Redirect: "//evil.test"}),
		"rule other host 2":   withRule(routes.Rule{Path: "/", Redirect: `/\evil.test`}),
		"rule root upwards":   withRule(routes.Rule{Path: "/", Root: "../other"}),
		"rule root inside":    withRule(routes.Rule{Path: "/", Root: "a/../../b"}),
		"rule root absolute":  withRule(routes.Rule{Path: "/", Root: "/etc"}),
		"rule rewrite dots":   withRule(routes.Rule{Path: "/", Rewrite: "/a/../b"}),
		"rule rewrite rel":    withRule(routes.Rule{Path: "/", Rewrite: "a"}),
		"rule host splits":    withRule(routes.Rule{Path: "/", Upstream: "10.0.0.1:80", Host: "a\r\nX: y"}),
		"rule upstream":       withRule(routes.Rule{Path: "/", Upstream: "x"}),
		"rule service states": withRule(routes.Rule{Path: "/", Upstream: "10.0.0.1:80", Service: "lms", State: routes.Down}),
	}
	r := start(t)
	good := one(7, "127.0.0.1:1", routes.Ready)
	r.put(good)
	for name, f := range change {
		t.Run(name, func(t *testing.T) {
			bad := one(8, "127.0.0.1:1", routes.Ready)
			f(&bad)
			ack, err := r.client.Put(t.Context(), bad)
			if err != nil || ack.Generation != 7 || !strings.Contains(ack.Error, routes.ErrInvalid.Error()) {
				t.Errorf("%+v, %v", ack, err)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		bad := one(8, "127.0.0.1:1", routes.Ready)
		bad.Page.SiteName = strings.Repeat("x", maxSnapshotBytes)
		if ack, err := r.client.Put(t.Context(), bad); err == nil && ack.Error == "" {
			t.Error("taken")
		}
	})
	state, err := r.client.State(t.Context())
	if err != nil || state.Generation != 7 {
		t.Errorf("serving %d, %v", state.Generation, err)
	}
}

func withRule(r routes.Rule) func(*routes.Snapshot) {
	return func(s *routes.Snapshot) { s.Hosts[0].Rules = []routes.Rule{r} }
}

func TestGenerations(t *testing.T) {
	r := start(t)
	r.put(one(5, "127.0.0.1:1", routes.Ready))
	r.put(one(5, "127.0.0.1:1", routes.Ready))
	for _, s := range []routes.Snapshot{one(4, "127.0.0.1:1", routes.Ready), one(5, "127.0.0.1:2", routes.Ready)} {
		if ack, err := r.client.Put(t.Context(), s); err != nil || ack.Generation != 5 || !strings.Contains(ack.Error, routes.ErrStale.Error()) {
			t.Errorf("%+v, %v", ack, err)
		}
	}
	r.put(one(6, "127.0.0.1:2", routes.Ready))
}

func TestServesFromMemoryAlone(t *testing.T) {
	up := upstreamServer(t, echo())
	first := start(t)
	first.put(one(3, address(up), routes.Ready))
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := start(t, func(c *Config) { c.Dir = first.cfg.Dir })
	if resp, body := second.get(second.browser(true), "https://lms.test/"); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestDamagedMemory(t *testing.T) {
	up := upstreamServer(t, echo())
	damage := map[string]func([]byte) []byte{
		"empty":        func([]byte) []byte { return nil },
		"short":        func(b []byte) []byte { return b[:len(b)/2] },
		"one bit":      func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"zeros":        func(b []byte) []byte { return make([]byte, len(b)) },
		"other schema": func([]byte) []byte { return []byte("tarima-routes 9 abc\n{}") },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := saveSnapshot(dir, one(3, address(up), routes.Ready)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, snapshotFile)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, f(data), 0o600); err != nil {
				t.Fatal(err)
			}
			r := start(t, func(c *Config) { c.Dir = dir })
			state, err := r.client.State(t.Context())
			if err != nil || state.Generation != 0 || len(state.Trouble) != 1 {
				t.Errorf("%+v, %v", state, err)
			}
			if aside, _ := filepath.Glob(file + ".bad-*"); len(aside) != 1 {
				t.Errorf("set aside: %q", aside)
			}
			r.put(one(1, address(up), routes.Ready))
			if resp, _ := r.get(r.browser(true), "https://lms.test/"); resp.StatusCode != http.StatusOK {
				t.Errorf("after new routes: %s", resp.Status)
			}
			if state, _ := r.client.State(t.Context()); len(state.Trouble) != 0 {
				t.Errorf("trouble stays: %q", state.Trouble)
			}
		})
	}
}

// Any sequence of snapshots and requests keeps the gates' counts right: when
// all requests have left, nothing is inside, and a drain is told exactly when
// it is over.
func TestGateCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := newEventLog()
		b := newSwitchboard(nil, events, newWaitingRoom(Hold{}), func(routes.Snapshot) {})
		generation, inside := uint64(0), 0
		var g *gate
		state := routes.Down
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"enter", "leave", "put"}).Draw(t, "step") {
			case "put":
				generation++
				state = rapid.SampledFrom([]routes.State{routes.Ready, routes.Hold, routes.Draining, routes.Down}).Draw(t, "state")
				before := events.seq
				if _, err := b.apply(one(generation, "127.0.0.1:1", state)); err != nil {
					t.Fatal(err)
				}
				g = b.gates[serviceKey{"default", "lms"}]
				if told := events.seq > before; told != (state == routes.Draining && inside == 0) {
					t.Fatalf("state %s with %d inside: told %v", state, inside, told)
				}
			case "enter":
				if g == nil {
					continue
				}
				if ok, _ := g.enter(true); ok != (state == routes.Ready) {
					t.Fatalf("entered %v in state %s", ok, state)
				} else if ok {
					inside++
				}
			case "leave":
				if inside == 0 {
					continue
				}
				inside--
				before := events.seq
				b.leave(g)
				if told := events.seq > before; told != (state == routes.Draining && inside == 0) {
					t.Fatalf("left %d inside in state %s: told %v", inside, state, told)
				}
			}
			if g != nil {
				if _, n := g.status(); n != inside {
					t.Fatalf("%d inside, want %d", n, inside)
				}
			}
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	good, err := json.Marshal(one(1, "127.0.0.1:1", routes.Ready))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"schema":1,"tls":{"mode":"local"},"hosts":[{"name":"a.b","site":"s","service":"x","state":"ready","rules":[{"path":"/*/x/","rewrite":"/y/"},{"path":"","root":"a","spa":true}]}]}`))
	f.Add([]byte(`{"schema":1,"tls":{"mode":"local"},"hosts":[{"name":"::1","site":"s","redirect":"https://x.y"}]}`))
	f.Add([]byte(`{"schema":1,"tls":{"mode":"none"},"trusted":["10.0.0.0/8"],"hosts":[{"name":"a.b","site":"s","service":"x","state":"ready","upstream":"10.0.0.1:1","upstreams":["10.0.0.2:1"],"hsts":60,"headers":{"a":"b","c":""},"closed":true,"proof":true,"auth":{"realm":"r","users":{"u":"$2a$04$abcdefghijklmnopqrstuuSDlkjlkjlkjlkjlkjlkjlkjlkjlkjlk"}},"maintenance":{"until":"2026-01-02T03:04:05Z","pass":"0123456789abcdef","networks":["192.0.2.0/24"]},"limits":[{"name":"l","path":"/*/x/","methods":["POST"],"burst":3,"every":1000000000}],"rules":[{"path":"/x","status":404,"headers":{"d":"e"}}]}]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeSnapshot(data)
		if err != nil {
			if !errors.Is(err, routes.ErrInvalid) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		// What was taken can be written, read and served.
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeSnapshot(again); err != nil && len(again) <= maxSnapshotBytes {
			t.Errorf("not read again: %v", err)
		}
		table := newTable(s, newGate)
		for _, h := range s.Hosts {
			if _, ok := table.find(h.Name, "/a/b"); !ok && !strings.Contains(h.Name, ":") {
				t.Errorf("host %q is not found", h.Name)
			}
		}
	})
}

func FuzzRule(f *testing.F) {
	f.Add("/a/*/c/", "/a/b/c/d", "/x/")
	f.Add("/", "/", "https://a.b/")
	f.Add("", "//x", "/")
	f.Fuzz(func(t *testing.T, pattern, path, to string) {
		if path == "" || path[0] != '/' {
			return
		}
		s := one(1, "127.0.0.1:1", routes.Ready)
		s.Hosts[0].Rules = []routes.Rule{{Path: pattern, Redirect: to}}
		if checkSnapshot(&s) != nil {
			return
		}
		d, ok := newTable(s, newGate).find("lms.test", path)
		if !ok {
			t.Fatal("host lost")
		}
		if d.rule == nil {
			return
		}
		if !strings.HasSuffix(path, d.rest) {
			t.Errorf("rest %q is no end of %q", d.rest, path)
		}
		if !strings.Contains(pattern, "*") && pattern != "" && !strings.HasPrefix(path, pattern) {
			t.Errorf("%q matched %q", pattern, path)
		}
		// Whatever a visitor asks, a redirect stays where the rule points.
		where := d.rule.target(to, escapedRest(d.rest))
		if !strings.HasPrefix(where, to) || strings.HasPrefix(to, "/") && (strings.HasPrefix(where, "//") || strings.HasPrefix(where, `/\`)) {
			t.Errorf("redirect %q became %q", to, where)
		}
	})
}
