//go:build e2e

package door

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarima/test/host"
)

const bigPage = 1 << 20

// slowSite has a page, a large one, and reads what it is sent.
func slowSite(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/large":
		w.Header().Set("Content-Length", strconv.Itoa(bigPage))
		_, _ = w.Write(make([]byte, bigPage)) // the asker is free to go away
	case "/page":
		_, _ = io.WriteString(w, "page")
	default:
		n, _ := io.Copy(io.Discard, r.Body) // cut off, as it should be
		_, _ = fmt.Fprint(w, n)
	}
}

// Others are answered while slowhttptest keeps connections busy in each of its
// modes, and nothing of it stays.
func TestSlowHTTPTest(t *testing.T) {
	program, err := exec.LookPath("slowhttptest")
	if err != nil {
		t.Fatalf("%v: test/setup e2e installs it", err)
	}
	d := shipped(t)
	s := site(1, application(t, slowSite))
	// The tool's own TLS gives up with the first handshake that takes a moment:
	// without TLS it is the clients alone that are slow.
	s.TLS.Mode = "none"
	attacked := s.Hosts[0] // the tool names whom it connects to
	attacked.Name = "127.0.0.1"
	s.Hosts = append(s.Hosts, attacked)
	d.put(s)
	for _, c := range []struct {
		name string
		path string
		args []string
	}{
		{"slow headers", "/page", []string{"-H", "-i", "1", "-x", "24"}},
		{"slow body", "/upload", []string{"-B", "-i", "1", "-x", "10", "-s", "8192"}},
		{"ranges", "/large", []string{"-R", "-a", "1", "-b", "3000"}},
		{"slow read", "/large", []string{"-X", "-w", "10", "-y", "20", "-n", "2", "-z", "8", "-k", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			crowd := newCrowd(t)
			transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				dialer := net.Dialer{LocalAddr: local(10)}
				return dialer.DialContext(ctx, network, d.http)
			}}
			t.Cleanup(transport.CloseIdleConnections)
			visitor := &http.Client{Transport: transport}
			crowd.join(2, "another visitor", func() error { return page(visitor, "http://lms.test/page", "page") })
			// A new connection each time, as a newcomer has it; without a pause the
			// kernel would run out of ports.
			crowd.join(2, "a newcomer", func() error {
				<-time.After(10 * time.Millisecond)
				defer visitor.CloseIdleConnections()
				return page(visitor, "http://lms.test/page", "page")
			})
			accepted := d.gauge("connections_accepted_total")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			args := append(c.args, "-c", "400", "-r", "200", "-l", strconv.Itoa(seconds(6, 30)), "-p", "5", "-u", "http://"+d.http+c.path)
			attack := exec.CommandContext(ctx, program, args...)
			out, err := attack.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if n := d.gauge("connections_accepted_total") - accepted; n < 400 {
				t.Errorf("%g connections came: this was no attack\n%.2000s", n, out)
			}
			crowd.goOn(t, 10)
			crowd.end(t)
		})
	}
}

// kinds of clients that take their time.
var slowKinds = []struct{ name, request, more string }{
	{"head", "GET /page HTTP/1.1\r\nHost: lms.test\r\n", "X-More: 1\r\n"},
	{"body", "POST /upload HTTP/1.1\r\nHost: lms.test\r\nContent-Length: 10000000\r\n\r\n", "abcdefgh"},
	{"reading", "GET /large HTTP/1.1\r\nHost: lms.test\r\n\r\n", ""},
}

// mostOfConnection is what the limit of connections reckons with for each that
// reads slowly (proxy/capacity.go), mostBeside what does not grow with them:
// the program, and the buffers of answers (16 MiB by default).
const (
	mostOfConnection = 125 << 10
	mostBeside       = 80 << 20
)

// 5,000 connections that are slow in all ways keep nobody from being answered,
// and the proxy's memory within what its limit of connections allows; those
// above the limit wait and are let in when the slow ones are cut.
func TestSlowConnectionsHaveBoundedMemory(t *testing.T) {
	const slow, room = 5000, 5050
	d := wide(t, room)
	d.put(site(1, application(t, slowSite)))
	before := d.pss()
	browser := d.browser(true, 0)
	if err := page(browser, "https://lms.test/page", "page"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var open sync.WaitGroup
	defer open.Wait()
	defer stop()
	var most atomic.Int64
	turn := make(chan struct{}, 32)
	var failed atomic.Pointer[error]
	begun := sync.WaitGroup{}
	config := d.trust()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	for i := range slow {
		turn <- struct{}{}
		begun.Add(1)
		open.Go(func() {
			c, err := dawdle(d.https, config, i)
			<-turn
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			begun.Done()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			trickle(ctx, c, i%len(slowKinds))
		})
		if i%100 == 0 {
			most.Store(max(most.Load(), d.pss()))
		}
	}
	begun.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	for range seconds(5, 25) * 4 {
		most.Store(max(most.Load(), d.pss()))
		if err := page(browser, "https://lms.test/page", "page"); err != nil {
			t.Errorf("another visitor: %v", err)
		}
		<-time.After(250 * time.Millisecond)
	}
	limit := int64(room*mostOfConnection + mostBeside)
	t.Logf("PSS %d MB at first, at most %d MB with %d slow connections (%g open at the end); the limit of %d connections allows %d MB",
		before>>20, most.Load()>>20, slow, d.gauge("connections"), room, limit>>20)
	if most.Load() > limit {
		t.Errorf("%d MB are more than %d MB", most.Load()>>20, limit>>20)
	}
	stop()
	open.Wait()
	eventually(t, "all are let go of", func() bool { return d.gauge("connections") < 20 })
	if err := page(d.browser(false, 1), "https://lms.test/page", "page"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// As many connections as there is room for, and more: the surplus waits in the
// kernel's queue, and is served as soon as the slow ones were cut.
func TestSurplusConnectionsWait(t *testing.T) {
	const room = 200
	d := wide(t, room)
	d.put(site(1, application(t, slowSite)))
	config := d.trust()
	var slow []net.Conn
	for range room {
		c, err := net.Dial("tcp", d.https)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		slow = append(slow, c)
	}
	// Each of the two listeners keeps a place for the next one to come.
	eventually(t, "no room is left", func() bool { return d.gauge("connections") >= room-2 })
	late, err := net.Dial("tcp", d.https)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Close() }()
	_ = late.SetDeadline(time.Now().Add(60 * time.Second)) // the read tells
	if _, err := io.WriteString(tls.Client(late, config), "GET /page HTTP/1.1\r\nHost: lms.test\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatalf("the one who waited: %v", err)
	}
	if n := d.gauge("connections"); n > room {
		t.Errorf("%g connections, room for %d", n, room)
	}
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(60 * time.Second)) // the read tells
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, unix.EAGAIN) || err == nil {
			t.Fatalf("a silent connection is not closed: %v", err)
		}
	}
}

func dawdle(to string, config *tls.Config, number int) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 30 * time.Second, LocalAddr: local(10 + number/250), Control: host.SlowNetwork}
	raw, err := dialer.Dial("tcp", to)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, config)
	_ = c.SetDeadline(time.Now().Add(60 * time.Second)) // the write tells
	if _, err := io.WriteString(c, slowKinds[number%len(slowKinds)].request); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}

func trickle(ctx context.Context, c net.Conn, kind int) {
	in := bufio.NewReaderSize(c, 512)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		if more := slowKinds[kind].more; more != "" {
			_, err = io.WriteString(c, more)
		} else {
			_, err = io.ReadFull(in, make([]byte, 256))
		}
		if err != nil {
			return // cut, as it may be
		}
	}
}
