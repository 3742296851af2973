package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// direct is an HTTP/1.1 client for requests without a body that may be sent
// twice. It writes and reads in the goroutine of the request, where
// http.Transport needs two more for each connection: that is a third of what a
// proxied page costs. Everything that makes a client difficult (bodies,
// upgrades, 100-continue) is left to http.Transport.
type direct struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	head time.Duration // until an answer's head is there
	max  int64         // bytes of an answer's head, 1xx before it included

	idleTime time.Duration // a connection is kept this long
	perHost  int           // connections kept for one address

	mu     sync.Mutex
	idle   map[string][]*directConn // the one used last is the last
	sweeps *time.Timer              // nil: nothing is kept
}

// directConn is one connection to an upstream.
type directConn struct {
	net.Conn
	owner   *direct
	address string
	r       *bufio.Reader
	w       *bufio.Writer
	left    int64 // of the head; negative: the head is read
	since   time.Time
}

var (
	errLongHead = errors.New("the head of the upstream's answer is too long")
	errUpgraded = errors.New("the upstream changed to another protocol unasked")
)

// Read bounds the head.
func (c *directConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errLongHead
	}
	if c.left > 0 && int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.Conn.Read(p)
	if c.left > 0 {
		c.left -= int64(n)
	}
	return n, err
}

// RoundTrip serves http.RoundTripper. A kept connection that gives no byte was
// closed by the upstream while nobody looked: then a new one is made.
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	address := r.URL.Host
	if c := d.takeQuiet(address); c != nil {
		resp, silent, err := c.roundTrip(r)
		if err == nil || !silent || r.Context().Err() != nil {
			return resp, err
		}
		// An upstream that was started anew has closed all of them.
		d.forget(address)
	}
	conn, err := d.dial(r.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &directConn{Conn: conn, owner: d, address: address}
	c.r, c.w = bufio.NewReader(c), bufio.NewWriter(conn)
	resp, _, err := c.roundTrip(r)
	return resp, err
}

// roundTrip closes the connection when it returns an error; silent says that
// no byte of an answer came.
func (c *directConn) roundTrip(r *http.Request) (resp *http.Response, silent bool, err error) {
	ctx := r.Context()
	// Closing is what ends a read or a write at once.
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer func() {
		if err != nil {
			stop()
			_ = c.Close() // it is of no use any more
			if cause := ctx.Err(); cause != nil {
				err = cause
			}
		}
	}()
	if err := c.SetDeadline(time.Now().Add(c.owner.head)); err != nil {
		return nil, true, fmt.Errorf("connection to %s: %w", c.address, err)
	}
	c.left = c.owner.max
	if err := r.Write(c.w); err != nil {
		return nil, true, fmt.Errorf("write to %s: %w", c.address, err)
	}
	if err := c.w.Flush(); err != nil {
		return nil, true, fmt.Errorf("write to %s: %w", c.address, err)
	}
	if _, err := c.r.Peek(1); err != nil {
		return nil, !isTimeout(err), fmt.Errorf("read from %s: %w", c.address, err)
	}
	for {
		if resp, err = http.ReadResponse(c.r, r); err != nil {
			return nil, false, fmt.Errorf("answer of %s: %w", c.address, err)
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return nil, false, fmt.Errorf("answer of %s: %w", c.address, errUpgraded)
		}
		if resp.StatusCode >= 200 {
			break
		}
		if t := httptrace.ContextClientTrace(ctx); t != nil && t.Got1xxResponse != nil {
			if err := t.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, false, err
			}
		}
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, false, fmt.Errorf("connection to %s: %w", c.address, err)
	}
	c.left = -1
	b := &directBody{conn: c, inner: resp.Body, stop: stop, keep: !resp.Close}
	if resp.Body == http.NoBody {
		b.end(true)
	} else {
		resp.Body = b
	}
	return resp, false, nil
}

// directBody is an answer's body, which gives the connection back.
type directBody struct {
	conn  *directConn
	inner io.Reader
	stop  func() bool
	keep  bool
	once  sync.Once
}

func (b *directBody) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	if err != nil {
		b.end(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close may come while another goroutine reads, and ends its read.
func (b *directBody) Close() error {
	b.end(false)
	return nil
}

func (b *directBody) end(whole bool) {
	b.once.Do(func() {
		// One that was closed in the meantime is no use, and neither is one
		// that says more than it was asked.
		if !b.stop() || !whole || !b.keep || b.conn.r.Buffered() > 0 || !b.conn.owner.give(b.conn) {
			_ = b.conn.Close() // it is over either way
		}
	})
}

// takeQuiet returns a kept connection on which nothing came in the meantime, or
// nil. What an upstream sends unasked (an application whose answer is longer
// than its Content-Length) would be taken for the answer to somebody else.
func (d *direct) takeQuiet(address string) *directConn {
	for {
		c := d.take(address)
		if c == nil || quiet(c.Conn) {
			return c
		}
		_ = c.Close() // closed by the upstream, or out of step
	}
}

// quiet says that a connection is open and that there is nothing to read.
func quiet(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		open = errors.Is(err, unix.EAGAIN)
	})
	return err == nil && open
}

// take returns the kept connection that was used last, or nil.
func (d *direct) take(address string) *directConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.idle[address]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	list[len(list)-1] = nil
	d.idle[address] = list[:len(list)-1]
	return c
}

func (d *direct) give(c *directConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.idle[c.address]) >= d.perHost {
		return false
	}
	if d.sweeps == nil {
		d.sweeps = time.AfterFunc(d.idleTime/2, d.sweep)
	}
	c.since = time.Now()
	d.idle[c.address] = append(d.idle[c.address], c)
	return true
}

// sweep closes the connections that nobody has used for long.
func (d *direct) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	oldest := time.Now().Add(-d.idleTime)
	for address, list := range d.idle {
		n := 0
		for n < len(list) && list[n].since.Before(oldest) {
			_ = list[n].Close() // nothing is under way
			n++
		}
		if n == len(list) {
			delete(d.idle, address)
		} else {
			d.idle[address] = append([]*directConn(nil), list[n:]...)
		}
	}
	if len(d.idle) > 0 {
		d.sweeps = time.AfterFunc(d.idleTime/2, d.sweep)
	} else {
		d.sweeps = nil
	}
}

// forget closes the kept connections of an address.
func (d *direct) forget(address string) {
	d.mu.Lock()
	list := d.idle[address]
	delete(d.idle, address)
	d.mu.Unlock()
	for _, c := range list {
		_ = c.Close() // nothing is under way
	}
}

// close closes all kept connections.
func (d *direct) close() {
	d.mu.Lock()
	all := d.idle
	d.idle = map[string][]*directConn{}
	if d.sweeps != nil {
		d.sweeps.Stop()
		d.sweeps = nil
	}
	d.mu.Unlock()
	for _, list := range all {
		for _, c := range list {
			_ = c.Close() // nothing is under way
		}
	}
}
