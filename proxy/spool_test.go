package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"tarima/proxy/routes"
)

// crew is an application server whose crew are busy until the kernel
// has taken the whole answer, of which it takes little.
type crew struct {
	page []byte
	busy atomic.Int64
}

func (a *crew) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.busy.Add(1)
	defer a.busy.Add(-1)
	switch r.URL.Path {
	case "/chunked":
		w.(http.Flusher).Flush()
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		w.Header().Set("Content-Length", strconv.Itoa(len(a.page)))
	case "/asked":
		w.Header().Set("X-Accel-Buffering", "no")
		w.Header().Set("Content-Length", strconv.Itoa(len(a.page)))
	default:
		w.Header().Set("Content-Length", strconv.Itoa(len(a.page)))
	}
	if r.URL.Path == "/cut" {
		_, _ = w.Write(a.page[:len(a.page)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(a.page) // the client may be gone
}

// application serves with small buffers in the kernel.
func application(t *testing.T, page []byte) (*crew, string) {
	t.Helper()
	a := &crew{page: page}
	s := httptest.NewUnstartedServer(a)
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(32 << 10)
		return ctx
	}
	s.Start()
	t.Cleanup(s.Close)
	return a, address(s)
}

func random(t testing.TB, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if _, err := rand.Read(p); err != nil {
		t.Fatal(err)
	}
	return p
}

// reader asks for a path and reads nothing yet.
func (r *running) reader(path string) *http.Response {
	r.t.Helper()
	// As on a phone's network: the kernel keeps little that is on its way.
	// Segments as large as the loopback's would let it keep megabytes.
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if cerr := raw.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 32<<10))
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	c, err := tls.DialWithDialer(&dialer, "tcp", r.https, &tls.Config{RootCAs: r.pool(), ServerName: "lms.test", NextProtos: []string{"http/1.1"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: lms.test\r\nConnection: close\r\n\r\n", path); err != nil {
		r.t.Fatal(err)
	}
	return &http.Response{Body: c}
}

// readAnswer reads the answer of reader to its end.
func readAnswer(t *testing.T, resp *http.Response) ([]byte, error) {
	t.Helper()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	_, body, found := bytes.Cut(all, []byte("\r\n\r\n"))
	if !found {
		return nil, errors.New("no head")
	}
	return body, nil
}

func buffered(r *running) BufferedState {
	r.t.Helper()
	s, err := r.client.State(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return s.Buffered
}

// Fifty clients that read nothing leave every worker free: some of their
// answers lie in memory, the others on disk, and arrive whole.
func TestSlowReadersOccupyNoWorker(t *testing.T) {
	const readers = 50
	page := random(t, 2<<20)
	app, up := application(t, page)
	r := start(t, func(c *Config) { c.Buffers.Memory, c.Buffers.MemoryEach = 8<<20, 1<<20 })
	r.put(one(1, up, routes.Ready))
	var answers []*http.Response
	for range readers {
		answers = append(answers, r.reader("/"))
	}
	until(t, "all answers are on their way", func() bool { return buffered(r).Memory+buffered(r).Disk > 0 })
	until(t, "no worker is busy", func() bool { return app.busy.Load() == 0 })
	b := buffered(r)
	if b.Memory == 0 || b.Memory > 8<<20 {
		t.Errorf("%d bytes in memory, at most %d are allowed", b.Memory, 8<<20)
	}
	if b.Disk == 0 {
		t.Error("nothing is on disk")
	}
	if left, err := filepath.Glob(filepath.Join(r.cfg.Dir, ".answer*")); err != nil || len(left) > 0 {
		t.Errorf("files with a name: %q, %v", left, err)
	}
	// The service is free to stop although its clients still read.
	r.put(one(2, up, routes.Draining))
	until(t, "the service is empty", func() bool {
		s, err := r.client.State(context.Background())
		return err == nil && s.Services[0].Inside == 0
	})
	var wait sync.WaitGroup
	for _, a := range answers {
		wait.Go(func() {
			if body, err := readAnswer(t, a); err != nil || !bytes.Equal(body, page) {
				t.Errorf("answer of %d bytes, %v", len(body), err)
			}
		})
	}
	wait.Wait()
	until(t, "everything is given back", func() bool { return buffered(r) == BufferedState{} })
}

func TestWhatIsNotKept(t *testing.T) {
	page := random(t, 3<<20)
	for _, path := range []string{"/chunked", "/events", "/asked", "/stream/x"} {
		t.Run(path, func(t *testing.T) {
			app, up := application(t, page)
			r := start(t)
			s := one(1, up, routes.Ready)
			s.Hosts[0].Rules = []routes.Rule{{Path: "/stream/", Upstream: up, Service: "lms", Stream: true}}
			r.put(s)
			slow := r.reader(path)
			// One that is kept is begun after it and ends before it.
			kept := r.reader("/")
			until(t, "one worker is free", func() bool { return app.busy.Load() == 1 && buffered(r).Disk > 0 })
			<-time.After(2 * slowAfter)
			if n := app.busy.Load(); n != 1 || buffered(r).Reading != 0 {
				t.Errorf("%d crew are busy, %+v", n, buffered(r))
			}
			for _, a := range []*http.Response{slow, kept} {
				if body, err := readAnswer(t, a); err != nil || !bytes.Contains(body, page[len(page)-1024:]) {
					t.Errorf("answer of %d bytes, %v", len(body), err)
				}
			}
		})
	}
}

// Without any room the answers still arrive, as slowly as they are read.
func TestNoRoomForAnswers(t *testing.T) {
	page := random(t, 1<<20)
	for name, b := range map[string]Buffers{
		"none":             {Memory: -1, Disk: -1},
		"little":           {Memory: 64 << 10, MemoryEach: 64 << 10, Disk: 200 << 10, DiskEach: 150 << 10},
		"no such folder":   {Memory: 64 << 10, Dir: "/nonexistent"},
		"a full device":    {Memory: 64 << 10, Dir: "/dev/full"},
		"memory alone":     {Disk: -1, Memory: 8 << 20, MemoryEach: 4 << 20},
		"disk and nothing": {Memory: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, up := application(t, page)
			r := start(t, func(c *Config) { c.Buffers = b })
			r.put(one(1, up, routes.Ready))
			var answers []*http.Response
			for range 3 {
				answers = append(answers, r.reader("/"))
			}
			<-time.After(2 * slowAfter)
			for _, a := range answers {
				if body, err := readAnswer(t, a); err != nil || !bytes.Equal(body, page) {
					t.Errorf("answer of %d bytes, %v", len(body), err)
				}
			}
			until(t, "everything is given back", func() bool { return buffered(r) == BufferedState{} })
			if told := strings.Count(r.logs.String(), "cannot be kept on disk"); strings.Contains(b.Dir, "/") != (told == 1) {
				t.Errorf("told %d times that there is no disk", told)
			}
		})
	}
}

// An answer that breaks off reaches the client as one that broke off, and a
// client that goes away takes its answer along.
func TestBrokenWhileKept(t *testing.T) {
	page := random(t, 3<<20)
	app, up := application(t, page)
	r := start(t)
	r.put(one(1, up, routes.Ready))
	cut := r.reader("/cut")
	gone := r.reader("/")
	until(t, "both are kept", func() bool { return app.busy.Load() == 0 && buffered(r).Disk > 0 })
	_ = gone.Body.Close()
	if body, err := readAnswer(t, cut); err == nil && len(body) >= len(page) {
		t.Errorf("%d bytes of an answer that broke off", len(body))
	}
	until(t, "everything is given back", func() bool { return buffered(r) == BufferedState{} })
}

// chunky gives pieces as they come from a channel.
type chunky struct {
	from chan []byte
	left []byte
	end  error
	shut chan struct{}
	once sync.Once
}

func (c *chunky) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		select {
		case next, ok := <-c.from:
			if !ok {
				return 0, c.end
			}
			c.left = next
		case <-c.shut:
			return 0, os.ErrClosed
		}
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *chunky) Close() error {
	c.once.Do(func() { close(c.shut) })
	return nil
}

// Whatever the sizes, the pauses and the bounds: what comes out is what went
// in, in order, with its end, and every byte of every budget is given back.
func TestSpoolProperty(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		limits := Buffers{
			Memory:     rapid.SampledFrom([]int64{-1, 32 << 10, 1 << 20}).Draw(rt, "memory"),
			MemoryEach: rapid.SampledFrom([]int64{32 << 10, 100 << 10}).Draw(rt, "memory of each"),
			Disk:       rapid.SampledFrom([]int64{-1, 50 << 10, 10 << 20}).Draw(rt, "disk"),
			DiskEach:   rapid.SampledFrom([]int64{40 << 10, 1 << 20}).Draw(rt, "disk of each"),
			Dir:        dir,
		}
		sizes := rapid.SliceOfN(rapid.IntRange(1, 60<<10), 0, 30).Draw(rt, "pieces")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 40), 1, 10).Draw(rt, "pauses of the reader, ms")
		stopAfter := rapid.IntRange(0, 60).Draw(rt, "reads before the client goes")
		end := rapid.SampledFrom([]error{io.EOF, io.ErrUnexpectedEOF}).Draw(rt, "end")
		synctest.Test(t, func(*testing.T) {
			s := newSpools(limits, slog.New(slog.DiscardHandler), newBuffers())
			src := &chunky{from: make(chan []byte), end: end, shut: make(chan struct{})}
			var want []byte
			for i, n := range sizes {
				want = append(want, bytes.Repeat([]byte{byte(i + 1)}, n)...)
			}
			var writer sync.WaitGroup
			defer writer.Wait()
			writer.Go(func() {
				defer close(src.from)
				at := 0
				for i, n := range sizes {
					if i%7 == 6 {
						<-time.After(30 * time.Millisecond)
					}
					select {
					case src.from <- want[at : at+n]:
					case <-src.shut:
						return
					}
					at += n
				}
			})
			var freed atomic.Int64
			body := s.wrap(src, func() { freed.Add(1) })
			var got []byte
			var err error
			buf := make([]byte, 20<<10)
			reads := 0
			for ; reads < stopAfter && err == nil; reads++ {
				var n int
				n, err = body.Read(buf)
				got = append(got, buf[:n]...)
				<-time.After(time.Duration(pauses[reads%len(pauses)]) * time.Millisecond)
			}
			if !bytes.HasPrefix(want, got) {
				rt.Fatalf("%d bytes came out of order", len(got))
			}
			if err != nil && (!errors.Is(err, end) || len(got) != len(want)) {
				rt.Fatalf("%d of %d bytes, end %v, want %v", len(got), len(want), err, end)
			}
			if errors.Is(err, io.EOF) && freed.Load() != 1 {
				rt.Fatalf("the upstream was freed %d times", freed.Load())
			}
			if cerr := body.Close(); cerr != nil {
				rt.Fatal(cerr)
			}
			synctest.Wait()
			if m, d, o := s.memory.used.Load(), s.disk.used.Load(), s.open.Load(); m != 0 || d != 0 || o != 0 {
				rt.Fatalf("not given back: %d of memory, %d of disk, %d answers", m, d, o)
			}
		})
	})
}
