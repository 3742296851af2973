package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarima/proxy/routes"
)

// workers repeat what visitors do until they are stopped, and count.
type workers struct {
	t    *testing.T
	stop atomic.Bool
	wait sync.WaitGroup

	mu     sync.Mutex
	ok     map[string]int
	failed map[string][]string
}

func newWorkers(t *testing.T) *workers {
	w := &workers{t: t, ok: map[string]int{}, failed: map[string][]string{}}
	t.Cleanup(func() { w.stop.Store(true); w.wait.Wait() })
	return w
}

// run n goroutines that each do one thing after another.
func (w *workers) run(n int, what string, do func() error) {
	w.mu.Lock()
	w.ok[what] += 0
	w.mu.Unlock()
	for range n {
		w.wait.Go(func() {
			for !w.stop.Load() {
				err := do()
				w.mu.Lock()
				if err != nil {
					w.failed[what] = append(w.failed[what], err.Error())
				} else {
					w.ok[what]++
				}
				w.mu.Unlock()
			}
		})
	}
}

// progress waits until each of them has done its thing n more times.
func (w *workers) progress(n int) {
	w.t.Helper()
	w.mu.Lock()
	before := map[string]int{}
	for what, n := range w.ok {
		before[what] = n
	}
	w.mu.Unlock()
	until(w.t, "progress", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for what, ok := range w.ok {
			if ok < before[what]+n {
				return false
			}
		}
		return true
	})
}

// end returns how many failed.
func (w *workers) end() (failed int) {
	w.stop.Store(true)
	w.wait.Wait()
	for _, all := range w.failed {
		failed += len(all)
	}
	return failed
}

func answered(resp *http.Response, err error, want string) error {
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != want) {
		err = fmt.Errorf("%s %.80q", resp.Status, body)
	}
	return err
}

// visit is everything that a site's visitors do at the same time.
func (r *running) visit(w *workers) {
	get := func(browser *http.Client, url, want string) func() error {
		return func() error {
			resp, err := browser.Get(url)
			return answered(resp, err, want)
		}
	}
	post := func(browser *http.Client, size int64) func() error {
		return func() error {
			// No size and no second copy: it cannot be sent again.
			req, err := http.NewRequest(http.MethodPost, "https://lms.test/upload", &zeros{left: size})
			if err != nil {
				return err
			}
			resp, err := browser.Do(req)
			return answered(resp, err, fmt.Sprint(size))
		}
	}
	events := func(browser *http.Client) func() error {
		return func() error {
			resp, err := browser.Get("https://lms.test/events")
			return answered(resp, err, strings.Repeat("data: x\n\n", 20))
		}
	}
	w.run(3, "h1 page", get(r.browser(false), "https://lms.test/page", "page"))
	w.run(3, "h2 page", get(r.browser(true), "https://lms.test/page", "page"))
	w.run(2, "h1 upload", post(r.browser(false), 200_000))
	w.run(2, "h2 upload", post(r.browser(true), 200_000))
	w.run(1, "h1 events", events(r.browser(false)))
	w.run(1, "h2 events", events(r.browser(true)))
	w.run(2, "h1 held", get(r.browser(false), "https://cms.test/page", "page"))
	w.run(2, "h2 held", get(r.browser(true), "https://cms.test/page", "page"))
	w.run(2, "websocket", func() error { return r.talk(10) })
}

// overUnix is what a web server in front does.
func (r *running) overUnix(path string) func() error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	r.t.Cleanup(transport.CloseIdleConnections)
	return func() error {
		req, err := http.NewRequest(http.MethodPost, "http://lms.test/upload", &zeros{left: 50_000})
		if err != nil {
			return err
		}
		req.Header.Set("X-Forwarded-Proto", "https")
		resp, err := transport.RoundTrip(req)
		return answered(resp, err, "50000")
	}
}

// talk opens a websocket and says something n times.
func (r *running) talk(n int) error {
	c, in, err := r.websocket()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for range n {
		if err := say(c, in); err != nil {
			return err
		}
	}
	return nil
}

func (r *running) websocket() (*tls.Conn, *bufio.Reader, error) {
	c, err := r.tryTLS("lms.test", "http/1.1")
	if err != nil {
		return nil, nil, err
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, nil, err
	}
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: lms.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("websocket: %s", resp.Status)
	}
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return c, in, nil
}

func say(c io.Writer, in io.Reader) error {
	f := frame("hello")
	if _, err := io.WriteString(c, f); err != nil {
		return err
	}
	got := make([]byte, len(f))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != f {
		return fmt.Errorf("websocket: %q, %w", got, err)
	}
	return nil
}

// site is an upstream for visit.
func site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		<-time.After(2 * time.Millisecond)
		_, _ = io.WriteString(w, "page")
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		<-time.After(5 * time.Millisecond)
		_, _ = fmt.Fprint(w, n)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 20 {
			_, _ = io.WriteString(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			<-time.After(20 * time.Millisecond)
		}
	})
	mux.Handle("/ws", websocketEcho())
	return mux
}

// own runs the proxies of a test in processes of their own: this binary.
func own(t *testing.T, r *running) func() *exec.Cmd {
	return func() *exec.Cmd {
		door := ""
		if len(r.cfg.HTTP) > 1 {
			door = r.cfg.HTTP[1]
		}
		cfg, err := json.Marshal(passed{r.http, r.https, r.cfg.Dir, r.cfg.Socket, r.cfg.HTTP3, door})
		if err != nil {
			t.Error(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PROXY_TEST_SUCCESSOR="+string(cfg))
		cmd.Stderr = os.Stderr
		return cmd
	}
}

func (r *running) pid() int {
	// Cleanups ask as well, when the test's own context is over.
	state, err := r.client.State(context.Background())
	if err != nil {
		return 0
	}
	return state.PID
}

// Twenty planned restarts while visitors do all that they do, with no failure.
func TestTwentyHandoversLoseNothing(t *testing.T) {
	up := upstreamServer(t, site())
	handover := make(chan struct{}, 1)
	path := filepath.Join(t.TempDir(), "door.sock")
	r := start(t, func(c *Config) {
		c.Handover = handover
		c.HTTP = append(c.HTTP, unixScheme+path)
		c.Successor = own(t, &running{http: c.HTTP[0], https: c.HTTPS[0], cfg: *c})
	})
	s := one(1, address(up), routes.Ready)
	s.Hosts = append(s.Hosts, routes.Host{Name: "cms.test", Site: "default", Service: "cms", State: routes.Ready, Upstream: address(up)})
	r.put(s)
	t.Cleanup(func() {
		if p := r.pid(); p != 0 && p != os.Getpid() {
			_ = syscall.Kill(p, syscall.SIGTERM)
			until(t, "the last process is gone", func() bool { return syscall.Kill(p, 0) != nil || zombie(p) })
		}
	})
	// One visitor stays from the first process to the last.
	faithful, in, err := r.websocket()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = faithful.Close() }()

	w := newWorkers(t)
	r.visit(w)
	w.run(2, "unix page", r.overUnix(path))
	w.progress(1)
	current := os.Getpid()
	for i := range 20 {
		s.Generation++
		s.Hosts[1].State = routes.Hold
		r.put(s)
		if current == os.Getpid() {
			handover <- struct{}{}
		} else if err := syscall.Kill(current, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		until(t, "a successor answers", func() bool {
			p := r.pid()
			if p == 0 || p == current {
				return false
			}
			current = p
			return true
		})
		// Requests that are held in the process before go on as well.
		s.Generation++
		s.Hosts[1].State = routes.Ready
		r.put(s)
		w.progress(2)
		if err := say(faithful, in); err != nil {
			t.Fatalf("handover %d: %v", i+1, err)
		}
	}
	failed := w.end()
	t.Logf("%v", w.ok)
	if failed > 0 {
		for what, all := range w.failed {
			t.Errorf("%s: %d failed, such as %s", what, len(all), all[0])
		}
	}
}

// Websockets may stay with a predecessor up to the limit and are told then.
func TestHandoverLimitTellsWebsockets(t *testing.T) {
	up := upstreamServer(t, site())
	handover := make(chan struct{}, 1)
	r := start(t, func(c *Config) {
		c.Handover, c.HandoverLimit = handover, time.Second
		c.Successor = own(t, &running{http: c.HTTP[0], https: c.HTTPS[0], cfg: *c})
	})
	r.put(one(1, address(up), routes.Ready))
	t.Cleanup(func() {
		if p := r.pid(); p != 0 && p != os.Getpid() {
			_ = syscall.Kill(p, syscall.SIGTERM)
			until(t, "the successor is gone", func() bool { return syscall.Kill(p, 0) != nil || zombie(p) })
		}
	})
	c, in, err := r.websocket()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	handover <- struct{}{}
	if rest, err := io.ReadAll(in); string(rest) != string(farewell) || isTimeout(err) {
		t.Errorf("the last words are %q, %v", rest, err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	// Whoever comes back is served by the successor.
	if err := r.talk(1); err != nil {
		t.Error(err)
	}
}

// Killed, a proxy loses the requests that are in flight and nothing else: the
// service manager has kept the sockets.
func TestKilledProxyLosesWhatIsInFlight(t *testing.T) {
	up := upstreamServer(t, site())
	plain, secure := listenLocal(t), listenLocal(t)
	defer func() { _, _ = plain.Close(), secure.Close() }()
	dir := t.TempDir()
	r := &running{t: t, http: plain.Addr().String(), https: secure.Addr().String(), cfg: Config{Dir: dir + "/state", Socket: dir + "/proxy.sock"}}
	r.client = NewClient(r.cfg.Socket)
	t.Cleanup(r.client.close)
	begin := func() *exec.Cmd {
		t.Helper()
		cmd := own(t, r)()
		// The number of the process is known to itself alone before it runs.
		cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0"`, cmd.Path}
		cmd.Path = "/bin/sh"
		cmd.Env = append(cmd.Env, "LISTEN_FDS=2")
		for _, l := range []net.Listener{plain, secure} {
			f, err := socketFile(l)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "it serves", func() bool { return r.pid() == cmd.Process.Pid })
		return cmd
	}
	cmd := begin()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	r.put(one(1, address(up), routes.Ready))
	const visitors, kills = 6, 5
	w := newWorkers(t)
	for _, h2 := range []bool{false, true} {
		browser := r.browser(h2)
		w.run(visitors/2, fmt.Sprintf("page, h2 %v", h2), func() error {
			resp, err := browser.Post("https://lms.test/upload", "text/plain", bytes.NewReader(make([]byte, 1000)))
			return answered(resp, err, "1000")
		})
	}
	w.progress(5)
	for range kills {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		cmd = begin()
		w.progress(10)
	}
	failed := w.end()
	t.Logf("%d failed of %v", failed, w.ok)
	if failed > visitors*kills {
		t.Errorf("%d failed, in flight were at most %d", failed, visitors*kills)
	}
	for _, all := range w.failed {
		for _, why := range all {
			if strings.Contains(why, "refused") {
				t.Errorf("a visitor was refused: %s", why)
			}
		}
	}
}
