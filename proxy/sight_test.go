package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarima/proxy/accesslog"
	"tarima/proxy/routes"
)

// figures scrapes the control socket.
func (r *running) figures() string {
	r.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.cfg.Socket)
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://proxy/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(body)
}

func TestTraceparent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for s, want := range map[string]bool{
		good: true, "": false, good[:54]: false, good + "-x": false, "01" + good[2:] + "-x": true, "01" + good[2:] + "x": false,
		"ff" + good[2:]: false, strings.ToUpper(good): false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": false,
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00": true,
	} {
		if isTraceparent(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if s := newTraceparent(); !isTraceparent(s) {
			t.Fatalf("%q", s)
		}
	})
}

// TestNamesOfRequests: what the application is told is what the log says, and
// nobody but a trusted proxy chooses it.
func TestNamesOfRequests(t *testing.T) {
	const theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	for _, c := range []struct {
		what          string
		trusted       bool
		header        []string
		parent, state string // "": made here
		id            string
	}{
		{what: "nothing"},
		{what: "a trace of the page", header: []string{"Traceparent", theirs, "Tracestate", "a=b"}, parent: theirs, state: "a=b"},
		{what: "nonsense", header: []string{"Traceparent", "00-xyz", "Tracestate", "a=b"}},
		{what: "two traces", header: []string{"Traceparent", theirs, "Traceparent", theirs}},
		{what: "a name by anybody", header: []string{"X-Request-Id", "mine"}},
		{what: "a name by a proxy", trusted: true, header: []string{"X-Request-Id", "edge-77"}, id: "edge-77"},
		{what: "a bad name by a proxy", trusted: true, header: []string{"X-Request-Id", "a\"b"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			up := upstreamServer(t, echo())
			r := start(t, func(cfg *Config) {
				if c.trusted {
					cfg.Trusted = append(cfg.Trusted, loopback)
				}
			})
			r.put(one(1, address(up), routes.Ready))
			_, body := r.get(r.browser(true), "https://lms.test/x", c.header...)
			var s seen
			if err := json.Unmarshal([]byte(body), &s); err != nil {
				t.Fatal(err)
			}
			parent, id := s.Header.Values("Traceparent"), s.Header.Values("X-Request-Id")
			if len(parent) != 1 || len(id) != 1 || !isTraceparent(parent[0]) {
				t.Fatalf("the application was told %q, %q", parent, id)
			}
			if c.parent != "" && parent[0] != c.parent || c.parent == "" && parent[0] == theirs {
				t.Errorf("trace %s", parent[0])
			}
			if got := s.Header.Get("Tracestate"); got != c.state {
				t.Errorf("state %q", got)
			}
			if c.id != "" && id[0] != c.id || c.id == "" && (len(id[0]) != 32 || id[0] == "mine") {
				t.Errorf("id %q", id[0])
			}
			log := r.logged()
			if !strings.Contains(log, `"trace":"`+parent[0][3:35]+`","request":"`+id[0]+`"`) {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// TestErrorIsQuotable: who asks for help can say which request it was.
func TestErrorIsQuotable(t *testing.T) {
	r := start(t)
	r.put(one(1, "127.0.0.1:1", routes.Down))
	resp, _ := r.get(r.browser(true), "https://lms.test/x")
	id := resp.Header.Get("X-Request-Id")
	if resp.StatusCode != http.StatusServiceUnavailable || id == "" {
		t.Fatalf("%s, %q", resp.Status, id)
	}
	if log := r.logged(); !strings.Contains(log, `"request":"`+id+`"`) {
		t.Errorf("log: %s", log)
	}
}

func TestServerTiming(t *testing.T) {
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Server-Timing", "db;dur=1") }))
	r := start(t)
	s := one(1, address(up), routes.Ready)
	r.put(s)
	browser := r.browser(true)
	if resp, _ := r.get(browser, "https://lms.test/"); len(resp.Header.Values("Server-Timing")) != 1 {
		t.Errorf("nobody asked: %q", resp.Header.Values("Server-Timing"))
	}
	s = one(2, address(up), routes.Ready)
	s.Hosts[0].ServerTiming = true
	r.put(s)
	resp, _ := r.get(browser, "https://lms.test/")
	got := resp.Header.Values("Server-Timing")
	if len(got) != 2 || got[0] != "db;dur=1" || !strings.HasPrefix(got[1], "held;dur=0.0, upstream;dur=") {
		t.Errorf("%q", got)
	}
}

// TestRequestsUnderWay shows requests in each of their states.
func TestRequestsUnderWay(t *testing.T) {
	release := make(chan struct{})
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sending":
			_, _ = io.WriteString(w, "begin")
			_ = http.NewResponseController(w).Flush()
		case "/reading":
			_, _ = io.Copy(io.Discard, r.Body)
		}
		<-release
	}))
	r := start(t)
	s := one(1, address(up), routes.Ready)
	s.Hosts = append(s.Hosts, routes.Host{Name: "cms.test", Site: "default", Service: "cms", State: routes.Hold})
	r.put(s)
	client := r.browser(false)
	body, feed := io.Pipe()
	ended := make(chan error, 4)
	for _, q := range []struct {
		method, url string
		body        io.Reader
	}{
		{"GET", "https://lms.test/activate/s3cret?token=s3cret", nil},
		{"GET", "https://lms.test/sending", nil},
		{"POST", "https://lms.test/reading", body},
		{"GET", "https://cms.test/held", nil},
	} {
		req, err := http.NewRequest(q.method, q.url, q.body)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			resp, err := client.Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				err = errors.Join(err, resp.Body.Close())
			}
			ended <- err
		}()
	}
	if _, err := feed.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	want := map[string]routes.RequestState{
		"/activate/[hidden]": routes.RequestWaiting, "/sending": routes.RequestSending, "/reading": routes.RequestReading, "/held": routes.RequestHeld,
	}
	var last routes.Requests
	until(t, "all states", func() bool {
		var err error
		if last, err = r.client.Requests(t.Context()); err != nil {
			t.Fatal(err)
		}
		right := 0
		for _, q := range last.Requests {
			if q.State == want[q.Path] && (q.Path != "/reading" || q.Received == 5) && (q.Path != "/sending" || q.Sent == 5) {
				right++
			}
		}
		return right == len(want)
	})
	if last.InFlight != 4 || last.Held != 1 || len(last.Requests) != 4 {
		t.Errorf("%+v", last)
	}
	for i, q := range last.Requests {
		if q.ID == "" || q.Client != "127.0.0.1" || q.Age <= 0 || q.Method == "" || q.Proto == "" || i > 0 && q.Age > last.Requests[i-1].Age {
			t.Errorf("request %d: %+v", i, q)
		}
	}
	figures := r.figures()
	for _, line := range []string{"tarima_proxy_requests_in_flight 4\n", "tarima_proxy_requests_held 1\n", "tarima_proxy_connections 4\n"} {
		if !strings.Contains(figures, line) {
			t.Errorf("no %s", line)
		}
	}
	close(release)
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	s.Generation = 2
	s.Hosts[1].State = routes.Down
	r.put(s)
	for range 4 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	until(t, "nothing under way", func() bool {
		l, err := r.client.Requests(t.Context())
		return err == nil && l.InFlight == 0 && len(l.Requests) == 0
	})
}

// TestFiguresOfTheDoor: each kind of request is counted where it belongs, and
// what visitors invent is not.
func TestFiguresOfTheDoor(t *testing.T) {
	up := upstreamServer(t, echo())
	metrics := listenLocal(t)
	where := metrics.Addr().String()
	r := start(t, func(c *Config) { c.Sight.Metrics = where }) // taken, as by a predecessor
	s := one(1, address(up), routes.Ready)
	s.Hosts[0].Limits = []routes.RateLimit{{Name: "login", Path: "/login", Burst: 1, Every: time.Hour}}
	s.Hosts[0].Rules = []routes.Rule{{Path: "/away", Redirect: "https://else.test/"}, {Path: "/dead/", Upstream: "127.0.0.1:1"}}
	s.Hosts[0].Headers = map[string]string{"X-Own": "1"}
	r.put(s)
	browser := r.browser(true)
	for _, path := range []string{"/a", "/login", "/login", "/away"} {
		r.get(browser, "https://lms.test"+path)
	}
	resp, err := http.Get("http://" + r.http + "/invented") //nolint:forbidigo // a test
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://lms.test/dead/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := browser.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	until(t, "a refused connection", func() bool {
		return strings.Contains(r.figures(), `tarima_proxy_upstream_failures_total{host="lms.test",kind="refused"}`)
	})
	cancel()
	<-gone
	if err := metrics.Close(); err != nil { // the predecessor is gone
		t.Fatal(err)
	}
	var figures string
	until(t, "figures over TCP", func() bool {
		resp, err := http.Get("http://" + where + "/metrics") //nolint:forbidigo // a test
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		figures = string(body)
		return err == nil
	})
	for _, line := range []string{
		`requests_total{class="upstream",host="lms.test",status="2xx"} 2`,
		`requests_total{class="own",host="lms.test",status="4xx"} 1`,
		`requests_total{class="redirect",host="lms.test",status="3xx"} 1`,
		`requests_total{class="own",host="other",status="4xx"} 1`,
		`rate_limited_total{host="lms.test",limit="login"} 1`,
		`tls_handshakes_total{version="1.3"} 1`,
		`certificate_not_after_timestamp_seconds{name="lms.test"} `,
	} {
		if !strings.Contains(figures, "\ntarima_proxy_"+line) {
			t.Errorf("no line %s", line)
		}
	}
	if t.Failed() {
		t.Log(figures)
	}
}

// TestSlowRequest: the journal is told of what took long here, and not of a
// visitor who is slow.
func TestSlowRequest(t *testing.T) {
	release := make(chan struct{})
	up := upstreamServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasPrefix(r.URL.Path, "/slow") {
			<-release
		}
	}))
	const slow = 200 * time.Millisecond
	r := start(t, func(c *Config) { c.Sight.Slow = slow })
	r.put(one(1, address(up), routes.Ready))
	browser := r.browser(false)
	body, feed := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, "https://lms.test/visitor", body)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*slow, func() { _ = feed.Close() })
	r.do(browser, req)
	time.AfterFunc(2*slow, func() { close(release) })
	r.get(browser, "https://lms.test/slow?token=s3cret")
	until(t, "a word on it", func() bool { return strings.Contains(r.logs.String(), "a slow request") })
	logs := r.logs.String()
	if strings.Contains(logs, "path=/visitor") || !strings.Contains(logs, "path=/slow") || strings.Contains(logs, "s3cret") {
		t.Errorf("%s", logs)
	}
	if !strings.Contains(r.figures(), "tarima_proxy_slow_requests_total 1\n") {
		t.Error("it is not counted")
	}
}

func TestAccessFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "access.log")
	up := upstreamServer(t, echo())
	r := start(t, func(c *Config) {
		c.Sight.Log = accesslog.File{Path: path}
		c.Sight.Fields = []string{"path", "client"}
		c.Sight.Addresses = accesslog.Short
	})
	r.put(one(1, address(up), routes.Ready))
	r.get(r.browser(true), "https://lms.test/-/pass/s3cret?token=s3cret")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(data); got != `{"client":"127.0.0.0/24","path":"/-/pass/[hidden]"}`+"\n" {
		t.Errorf("%s", got)
	}
}

func TestWrongSight(t *testing.T) {
	for _, s := range []Sight{
		{Metrics: "0.0.0.0:9460"}, {Metrics: "nonsense"}, {Slow: -1}, {Log: accesslog.File{Path: "relative"}},
	} {
		c := Config{HTTP: []string{"127.0.0.1:0"}, Dir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "s"), Sight: s}
		if err := Run(t.Context(), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// BenchmarkSight is what logs, figures and names cost a request.
func BenchmarkSight(b *testing.B) {
	r := start(b, func(c *Config) { c.AccessLog = io.Discard; c.Sight.Slow = 3 * time.Second })
	r.put(one(1, "127.0.0.1:1", routes.Ready))
	s := &server{cfg: r.cfg, logger: r.cfg.Logger, room: newWaitingRoom(r.cfg.Hold)}
	s.limits = newConnectionLimits(&s.cfg, newTrust(nil))
	if err := s.openSight(); err != nil {
		b.Fatal(err)
	}
	defer s.closeSight()
	s.sight.served(one(1, "", routes.Ready))
	req, err := http.NewRequest(http.MethodGet, "https://lms.test/courses/course-v1:A+B+C/course/", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	req.Header.Set("Referer", "https://lms.test/dashboard")
	c := client{addr: loopback.Addr(), proto: "https"}
	out := http.Header{}
	b.ReportAllocs()
	for b.Loop() {
		x := &exchange{s: s, r: req, start: time.Now(), client: c, w: &writer{status: http.StatusOK}}
		x.see()
		x.host, x.class, x.upstream = "lms.test", "upstream", "10.0.0.2:8000"
		began := x.ask()
		x.passNames(out)
		x.answered(began)
		x.stamp(out, http.StatusOK)
		x.seen()
	}
}
