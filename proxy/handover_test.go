package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarima/proxy/routes"
)

// passed is the configuration of a proxy in a process of its own.
type passed struct {
	HTTP, HTTPS, Dir, Socket string
	HTTP3                    bool
	Door                     string // one more address for HTTP, or ""
}

// successorProcess is a proxy in a process of its own: SIGUSR2 hands over,
// SIGTERM ends.
func successorProcess(text string) int {
	var p passed
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return 2
	}
	cfg := Config{
		HTTP: []string{p.HTTP}, HTTPS: []string{p.HTTPS}, Dir: p.Dir, Socket: p.Socket, HTTP3: p.HTTP3,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if p.Door != "" {
		cfg.HTTP = append(cfg.HTTP, p.Door)
	}
	if err := Inherit(&cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	handover := make(chan struct{}, 1)
	cfg.Handover = handover
	usr2 := make(chan os.Signal, 1)
	signal.Notify(usr2, syscall.SIGUSR2)
	go func() {
		for range usr2 {
			handover <- struct{}{}
		}
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestHandover(t *testing.T) {
	release := make(chan struct{})
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") != "":
			websocketEcho().ServeHTTP(w, r)
			return
		case r.URL.Path == "/slow":
			<-release
		}
		_, _ = w.Write([]byte("ok"))
	}))
	handover := make(chan struct{}, 1)
	var notes lines
	r := start(t, func(c *Config) {
		c.Handover = handover
		notify := c.Notify
		c.Notify = func(s string) { _, _ = notes.Write([]byte(s + "\n")); notify(s) }
		cfg, err := json.Marshal(passed{c.HTTP[0], c.HTTPS[0], c.Dir, c.Socket, false, ""})
		if err != nil {
			t.Fatal(err)
		}
		c.Successor = func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "PROXY_TEST_SUCCESSOR="+string(cfg), "WATCHDOG_PID=1")
			cmd.Stderr = os.Stderr
			return cmd
		}
	})
	s := one(1, address(up), routes.Ready)
	s.Hosts = append(s.Hosts, routes.Host{Name: "cms.test", Site: "default", Service: "cms", State: routes.Hold})
	r.put(s)
	pid := func() int {
		state, err := r.client.State(context.Background())
		if err != nil {
			return 0
		}
		return state.PID
	}

	// Whatever fails below, no process is left.
	t.Cleanup(func() {
		if p := pid(); p != 0 && p != os.Getpid() {
			_ = syscall.Kill(p, syscall.SIGTERM)
		}
	})

	// In flight in the first process: a slow answer, a held request, a
	// websocket.
	ask := func(url string) <-chan string {
		answer := make(chan string, 1)
		browser := r.browser(false)
		go func() {
			resp, err := browser.Get(url)
			if err != nil {
				answer <- err.Error()
				return
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			answer <- fmt.Sprint(resp.StatusCode, string(body), err)
		}()
		return answer
	}
	slow := ask("https://lms.test/slow")
	held := ask("https://cms.test/")
	ws := r.dialTLS("lms.test", "http/1.1")
	_, _ = io.WriteString(ws, "GET /ws HTTP/1.1\r\nHost: lms.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	in := bufio.NewReader(ws)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("websocket: %v %v", resp, err)
	}
	until(t, "all three are inside", func() bool {
		state, err := r.client.State(context.Background())
		return err == nil && slices.ContainsFunc(state.Services, func(s serviceState) bool { return s.Inside == 2 }) &&
			slices.ContainsFunc(state.Services, func(s serviceState) bool { return s.Waiting == 1 })
	})

	load := startLoad(6, r.browser(false), "https://lms.test/page")
	progress := func() {
		t.Helper()
		before := load.ok.Load()
		until(t, "answers", func() bool { return load.ok.Load() > before+50 || load.failed.Load() > 0 })
	}
	progress()
	handover <- struct{}{}
	until(t, "another process answers", func() bool { p := pid(); return p != 0 && p != os.Getpid() })
	first := pid()
	until(t, "the manager is told", func() bool { return strings.Contains(notes.String(), fmt.Sprintf("MAINPID=%d\n", first)) })
	progress()

	// The second process hands over as well.
	if err := syscall.Kill(first, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	until(t, "a third process answers", func() bool { p := pid(); return p != 0 && p != first })
	second := pid()
	progress()
	load.end(t)

	// What is in flight in the first process goes on, and learns of new
	// routes.
	_, _ = io.WriteString(ws, frame("still here"))
	got := make([]byte, len(frame("still here")))
	if _, err := io.ReadFull(in, got); err != nil {
		t.Errorf("websocket after two handovers: %v", err)
	}
	s.Generation, s.Hosts[1].State, s.Hosts[1].Upstream = 2, routes.Ready, address(up)
	r.put(s)
	if a := <-held; !strings.HasPrefix(a, "200ok") {
		t.Errorf("held request: %s", a)
	}

	// A service is drained when the requests in the first process have ended
	// too: its websocket is closed, its slow answer is waited for.
	events := NewClient(r.cfg.Socket).Events(t.Context())
	s.Generation, s.Hosts[0].State = 3, routes.Draining
	r.put(s)
	if rest, err := io.ReadAll(in); string(rest) != string(farewell) || isTimeout(err) {
		t.Errorf("the last words of the websocket in the first process are %q, %v", rest, err)
	}
	until(t, "the first process says that one is left", func() bool {
		files, _ := filepath.Glob(filepath.Join(r.cfg.Dir, eldersDir, "*.json"))
		return slices.ContainsFunc(files, func(name string) bool {
			w, gone := read(name)
			return !gone && w.Generation == 3 && w.Inside["default/lms"] == 1
		})
	})
	// Events come in order: that of the other service shows that there was
	// none before.
	s.Generation, s.Hosts[1].State = 4, routes.Draining
	r.put(s)
	next := func(service string) {
		t.Helper()
		deadline := time.NewTimer(20 * time.Second)
		defer deadline.Stop()
		for {
			select {
			case e := <-events:
				switch {
				case e.Kind != routes.Drained:
				case e.Service == service && e.Generation == 4:
					return
				default:
					t.Errorf("%s of generation %d is told as drained with a request in the first process", e.Service, e.Generation)
				}
			case <-deadline.C:
				t.Fatalf("%s is not told as drained", service)
			}
		}
	}
	next("cms")
	close(release)
	next("lms")
	s.Generation, s.Hosts[0].State, s.Hosts[1].State = 5, routes.Ready, routes.Ready
	r.put(s)
	if a := <-slow; !strings.HasPrefix(a, "200ok") {
		t.Errorf("slow request: %s", a)
	}
	_ = ws.Close()
	if resp, body := r.get(r.browser(true), "https://cms.test/"); resp.StatusCode != http.StatusOK {
		t.Errorf("the successor: %s %s", resp.Status, body)
	}
	if err := r.stop(); err != nil { // ends by itself, its requests are gone
		t.Error(err)
	}
	if _, err := os.Stat(r.cfg.Socket); err != nil {
		t.Errorf("the successor's socket: %v", err)
	}
	if err := syscall.Kill(second, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "the last process is gone", func() bool { return syscall.Kill(second, 0) != nil || zombie(second) })
}

// zombie: the container's first process may not reap orphans.
func zombie(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestFailedHandoverChangesNothing(t *testing.T) {
	for name, command := range map[string]*exec.Cmd{
		"ends":        exec.Command("false"),
		"ends well":   exec.Command("true"),
		"not a thing": exec.Command("/nonexistent/program"),
	} {
		t.Run(name, func(t *testing.T) {
			handover := make(chan struct{}, 1)
			up := upstreamServer(t, echo())
			r := start(t, func(c *Config) {
				c.Handover = handover
				c.Successor = func() *exec.Cmd { return command }
			})
			r.put(one(1, address(up), routes.Ready))
			handover <- struct{}{}
			until(t, "the failure is logged", func() bool { return strings.Contains(r.logs.String(), "no handover") })
			if resp, _ := r.get(r.browser(true), "https://lms.test/"); resp.StatusCode != http.StatusOK {
				t.Errorf("%s", resp.Status)
			}
			r.put(one(2, address(up), routes.Ready))
		})
	}
}

// The descriptor store gets a copy of each public socket, which still accepts
// when the proxy is gone.
func TestStoresItsSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manager.Close() }()
	if err := manager.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// A socket of an earlier configuration leaves the store.
	old := listenLocal(t)
	r := start(t, func(c *Config) { c.Store, c.Listeners = path, append(c.Listeners, old) })
	for _, name := range []string{"http", "https"} {
		text := make([]byte, 1024)
		n, err := manager.Read(text)
		if want := fmt.Sprintf("FDSTOREREMOVE=1\nFDNAME=%s-%d", name, portOf(old.Addr())); err != nil || string(text[:n]) != want {
			t.Errorf("%q, %v, want %q", text[:n], err, want)
		}
	}
	if _, err := old.Accept(); err == nil {
		t.Error("the old socket is still open")
	}
	stored := map[string]net.Listener{}
	for range 2 {
		text, rights := make([]byte, 1024), make([]byte, 1024)
		n, m, _, _, err := manager.ReadMsgUnix(text, rights)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(rights[:m])
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d messages, %v", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("%d descriptors, %v", len(fds), err)
		}
		f := os.NewFile(uintptr(fds[0]), "stored")
		l, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		stored[string(text[:n])] = l
	}
	for address, name := range map[string]string{r.http: "http", r.https: "https"} {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if l := stored["FDSTORE=1\nFDNAME="+name+"-"+port]; l == nil || l.Addr().String() != address {
			t.Errorf("%s is not among %v", address, stored)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	// A client connects while nobody serves, and the next process, which the
	// sockets are handed to, answers.
	var wait sync.WaitGroup
	c, err := net.Dial("tcp", r.http)
	if err != nil {
		t.Fatalf("refused although the socket is stored: %v", err)
	}
	defer func() { _ = c.Close() }()
	answer := ""
	wait.Go(func() { answer = raw(t, c, "GET /-/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") })
	start(t, func(c *Config) {
		for _, l := range c.Listeners {
			_ = l.Close()
		}
		c.HTTP, c.HTTPS, c.Listeners = []string{r.http}, []string{r.https}, nil
		for _, l := range stored {
			c.Listeners = append(c.Listeners, l)
		}
	})
	wait.Wait()
	if !strings.HasPrefix(answer, "200") {
		t.Errorf("answer %q", answer)
	}
}
