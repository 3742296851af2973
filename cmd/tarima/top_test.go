package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tarima/proxy"
	"tarima/proxy/routes"
	"tarima/supervisor/control"
)

func speaker(t *testing.T, language string) (*cli, *bytes.Buffer) {
	t.Helper()
	said, err := newText([]string{"--lang", language}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	return &cli{text: said, out: out, err: out}, out
}

func someRequests() routes.Requests {
	return routes.Requests{InFlight: 12, Held: 1, Requests: []routes.Request{
		{Client: "203.0.113.7", Method: "GET", Host: "learn.test", Path: "/courses/" + strings.Repeat("ñ", 200), State: routes.RequestHeld, Age: 65 * time.Second},
		{Client: "2001:db8::1", Method: "POST", Host: "learn.test", Path: "/upload", State: routes.RequestReading, Age: 1500 * time.Millisecond, Received: 2048},
		{Client: "local", Method: "GET", Host: "learn.test", Path: "/ws", State: routes.RequestOpen, Age: 50 * time.Hour},
	}}
}

func TestTopTable(t *testing.T) {
	for language, wants := range map[string][]string{
		"en": {"12 requests under way, 1 wait for their service", "VISITOR", "held", "sends its body", "websocket", "1.5s", "1m", "2d", "2.0 KB", "POST /upload", "and 9 more"},
		"es": {"12 peticiones en curso, 1 esperan a su servicio", "VISITANTE", "retenida", "envía su cuerpo", "y 9 más"},
	} {
		c, out := speaker(t, language)
		c.printRequests(out, someRequests(), 100, 40)
		for _, want := range wants {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", language, want, out)
			}
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
				t.Errorf("%s: a line of %d characters in a terminal of 100: %s", language, n, line)
			}
		}
	}
	c, out := speaker(t, "en")
	c.printRequests(out, someRequests(), 100, 5)
	if n := strings.Count(out.String(), "\n"); n > 5 {
		t.Errorf("%d lines on a screen of 5:\n%s", n, out)
	}
	out.Reset()
	c.printRequests(out, routes.Requests{}, 0, 0)
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("nothing under way: %s", out)
	}
}

// TestProxyIsNotBelieved: a proxy in other hands can neither write on the
// administrator's terminal nor send numbers that mean nothing.
func TestProxyIsNotBelieved(t *testing.T) {
	evil := routes.Request{
		ID: strings.Repeat("x", 5000), Client: "\x1b[2J", Method: "G\nET", Host: "h\u202e", Path: "/" + strings.Repeat("y", 5000), Proto: "\x00",
		State: "\x1b]0;", Age: -1, Received: -5, Sent: -5,
	}
	r := routes.Requests{InFlight: -3, Held: 99999}
	for range routes.MaxRequests + 5 {
		r.Requests = append(r.Requests, evil)
	}
	got := believable(r)
	if len(got.Requests) != routes.MaxRequests || got.InFlight != routes.MaxRequests || got.Held != routes.MaxRequests {
		t.Errorf("%d requests, %d in flight, %d held", len(got.Requests), got.InFlight, got.Held)
	}
	q := got.Requests[0]
	for _, s := range []string{q.ID, q.Client, q.Method, q.Host, q.Path, q.Proto, string(q.State)} {
		if strings.ContainsAny(s, "\x1b\n\x00\u202e") || len(s) > 2048 {
			t.Errorf("%q", s)
		}
	}
	if q.Age != 0 || q.Received != 0 || q.Sent != 0 || q.State != routes.RequestWaiting {
		t.Errorf("%+v", q)
	}
}

func TestAccessText(t *testing.T) {
	c, _ := speaker(t, "en")
	for line, want := range map[string]string{
		`{"time":"2026-03-01T12:00:00.005Z","client":"203.0.113.7","method":"GET","host":"learn.test","path":"/a","status":503,"bytes":12,"took":2.5,` +
			`"upstream":"10.0.0.2:8000","upstream_took":0.25,"held":2.1,"note":"x\u001b[2J"}`: "2026-03-01T12:00:00.005Z 503 2.500s 203.0.113.7 GET learn.test/a 12 B 10.0.0.2:8000 0.250s held 2.100s (x\ufffd[2J)",
		`{"time":"2026-03-01T12:00:00.005Z","lost":17}`: "2026-03-01T12:00:00.005Z 17 lines are missing here: the disk was slow or full",
		"no JSON\x1b[2J": "no JSON\ufffd[2J",
	} {
		if got := c.accessText([]byte(line)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestTopAsksTheProxy: what a client of the daemon is told is what the proxy
// serves, and without a proxy it is told what to do.
func TestTopAsksTheProxy(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "routes.sock")
	a := &appliance{router: proxy.NewClient(socket)}
	var problem *control.Problem
	if _, err := a.Requests(t.Context()); !errors.As(err, &problem) || !strings.Contains(err.Error(), "systemctl start tarima-proxy") {
		t.Errorf("no proxy: %v", err)
	}
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- proxy.Run(ctx, proxy.Config{
			HTTP: []string{door.Addr().String()}, Listeners: []net.Listener{door}, Dir: filepath.Join(dir, "proxy"), Socket: socket,
			Logger: slog.New(slog.DiscardHandler),
		})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	waitFor(t, "a proxy", func() bool { return a.router.Healthy(t.Context()) == nil })
	got, err := a.Requests(t.Context())
	if err != nil || got.InFlight != 0 || got.Requests == nil {
		t.Errorf("%+v, %v", got, err)
	}
	snapshot := routes.Snapshot{
		Schema: routes.Schema, Generation: 1, TLS: routes.TLS{Mode: "local"},
		Hosts: []routes.Host{{Name: "learn.test", Site: "default", Service: "lms", State: routes.Hold}},
	}
	if ack, err := a.router.Put(t.Context(), snapshot); err != nil || ack.Error != "" {
		t.Fatalf("%+v, %v", ack, err)
	}
	visitor, err := net.Dial("tcp", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = visitor.Close() }()
	if _, err := io.WriteString(visitor, "GET /activate/s3cret?token=s3cret HTTP/1.1\r\nHost: learn.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the request", func() bool {
		got, err = a.Requests(t.Context())
		return err == nil && got.Held == 1 && len(got.Requests) == 1 && got.Requests[0].State == routes.RequestHeld
	})
	if q := got.Requests[0]; q.Path != "/activate/[hidden]" || q.Host != "learn.test" || q.Client != "127.0.0.1" {
		t.Errorf("%+v", q)
	}
}
