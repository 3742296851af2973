package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarima/proxy/routes"
)

// A supervisor that stays gets its routes into every proxy that comes, and its
// events from each.
func TestClientSurvivesRestarts(t *testing.T) {
	up := upstreamServer(t, echo())
	first := start(t)
	client := first.client
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := client.Events(ctx)
	first.put(one(4, address(up), routes.Draining))
	next := func(instance string, since time.Time) {
		t.Helper()
		deadline := time.NewTimer(20 * time.Second)
		defer deadline.Stop()
		for {
			select {
			case e := <-events:
				if e.Kind == routes.Drained && e.Generation == 4 && !e.At.Before(since) {
					return
				}
			case <-deadline.C:
				t.Fatalf("no event from the %s proxy", instance)
			}
		}
	}
	next("first", time.Time{})
	for _, instance := range []string{"second", "third"} {
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		since := time.Now()
		// Another folder: this one remembers nothing.
		first = start(t, func(c *Config) { c.Socket = first.cfg.Socket })
		next(instance, since)
		if s, err := client.State(ctx); err != nil || s.Generation != 4 {
			t.Errorf("%s proxy: %+v, %v", instance, s, err)
		}
	}
	cancel()
	until(t, "the events are closed", func() bool { _, open := <-events; return !open })
}

func TestEventsAfter(t *testing.T) {
	l := newEventLog()
	for range keptEvents + 10 {
		l.add(routes.Event{Kind: routes.Wanted})
	}
	news, open := l.after(t.Context(), keptEvents)
	if !open || len(news) != 10 || news[0].Seq != keptEvents+1 {
		t.Errorf("%d events, open %v", len(news), open)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if news, open := l.after(ended, keptEvents+10); len(news) != 0 || !open {
		t.Errorf("%d events, open %v", len(news), open)
	}
	l.close()
	l.add(routes.Event{})
	if _, open := l.after(t.Context(), keptEvents+10); open {
		t.Error("open after the end")
	}
}

func TestOldEventsAreNotNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newEventLog()
		l.add(routes.Event{Kind: routes.Wanted, Name: "old"})
		<-time.After(2 * freshEvents)
		l.add(routes.Event{Kind: routes.Wanted, Name: "new"})
		if news, _ := l.after(t.Context(), 0); len(news) != 1 || news[0].Name != "new" {
			t.Errorf("a newcomer hears %+v", news)
		}
		if news, _ := l.after(t.Context(), 1); len(news) != 1 {
			t.Errorf("who knows the first hears %+v", news)
		}
	})
}

func TestControlSocket(t *testing.T) {
	r := start(t)
	info, err := os.Stat(r.cfg.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := r.client.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	second := r.cfg
	second.Listeners = nil
	second.HTTP, second.HTTPS = []string{"127.0.0.1:0"}, nil
	if err := Run(t.Context(), second); !errors.Is(err, ErrInUse) {
		t.Errorf("a second proxy on the socket: %v", err)
	}
	if err := r.client.Healthy(t.Context()); err != nil {
		t.Errorf("after the second one: %v", err)
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/v1/events?after=x", 400}, {"GET", "/v1/routes", 405}, {"PUT", "/v1/state", 405}, {"GET", "/v2/x", 404},
	} {
		status, _ := r.client.call(t.Context(), c.method, c.path, nil, nil)
		if status != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, status, c.status)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

// A socket that a killed proxy left does not keep the next one away.
func TestStaleSocket(t *testing.T) {
	var path string
	r := start(t, func(c *Config) {
		path = c.Socket
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
	if err := r.client.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWrongConfigurations(t *testing.T) {
	busy := listenLocal(t)
	defer func() { _ = busy.Close() }()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no address":      {Config{Dir: dir, Socket: dir + "/s"}, "no address"},
		"address":         {Config{HTTP: []string{"80"}, Dir: dir, Socket: dir + "/s"}, `"80"`},
		"no folder":       {Config{HTTP: []string{":0"}, Socket: dir + "/s"}, "Dir"},
		"long socket":     {Config{HTTP: []string{":0"}, Dir: dir, Socket: "/" + strings.Repeat("x", 120)}, "98"},
		"port in use":     {Config{HTTP: []string{busy.Addr().String()}, Dir: dir, Socket: dir + "/s"}, "has this port"},
		"folder a file":   {Config{HTTP: []string{":0"}, Dir: os.Args[0], Socket: dir + "/s"}, os.Args[0]},
		"socket's folder": {Config{HTTP: []string{":0"}, Dir: dir, Socket: dir + "/none/s"}, "control socket"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Run(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if left, _ := os.ReadDir(dir); len(left) > 1 || len(left) == 1 && left[0].Name() != "ca" {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestWatchdog(t *testing.T) {
	beats := make(chan struct{}, 100)
	r := start(t, func(c *Config) {
		notify := c.Notify
		c.Watchdog = 20 * time.Millisecond
		c.Notify = func(s string) {
			if strings.HasPrefix(s, "WATCHDOG=1") {
				select {
				case beats <- struct{}{}:
				default:
				}
			}
			notify(s)
		}
	})
	for range 3 {
		<-beats
	}
	r.put(one(1, "127.0.0.1:1", routes.Ready))
}

// A full disk must not keep routes from changing.
func TestRoutesChangeOnAFullDisk(t *testing.T) {
	up := upstreamServer(t, echo())
	r := start(t)
	r.put(one(1, "127.0.0.1:1", routes.Down))
	// Root writes everywhere; a folder in the file's place stops it as well.
	file := r.cfg.Dir + "/" + snapshotFile
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(file+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	r.put(one(2, address(up), routes.Ready))
	if resp, _ := r.get(r.browser(true), "https://lms.test/"); resp.StatusCode != http.StatusOK {
		t.Errorf("%s", resp.Status)
	}
	if s, _ := r.client.State(t.Context()); len(s.Trouble) != 1 {
		t.Errorf("trouble %q", s.Trouble)
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	r.put(one(3, address(up), routes.Ready))
	if s, _ := r.client.State(t.Context()); len(s.Trouble) != 0 {
		t.Errorf("trouble stays %q", s.Trouble)
	}
}

// TestClientWithoutProxy: what the administrator reads says what to do.
func TestClientWithoutProxy(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "nobody.sock")).Put(t.Context(), routes.Snapshot{})
	if err == nil || !strings.Contains(err.Error(), "systemctl start tarima-proxy") {
		t.Errorf("put without a proxy: %v, want how it is started", err)
	}
}
