package proxy

import (
	"context"
	"crypto/tls"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// partingFor is how long clients have after a handover to turn to the
// successor. http.Server.Shutdown closes an idle connection on the spot, and a
// request that is on its way to it would be lost.
const partingFor = 10 * time.Second

// partFrom the clients of this process, until none is connected or partingFor
// is over. HTTP/1 is told in the next answer, HTTP/2 at once.
func (s *server) partFrom(ctx context.Context) {
	s.leaving.Store(true)
	s.parting.each((*partingConn).part)
	over := time.NewTimer(min(partingFor, s.cfg.HandoverLimit))
	defer over.Stop()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for s.limits.open() > 0 {
		select {
		case <-tick.C:
		case <-over.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// partings are the HTTP/2 connections that are open.
type partings struct {
	mu   sync.Mutex
	open map[*partingConn]struct{}
}

func (p *partings) each(do func(*partingConn)) {
	p.mu.Lock()
	all := make([]*partingConn, 0, len(p.open))
	for c := range p.open {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		go do(c) // a client that does not read may hold up its own
	}
}

// configure makes an HTTP/2 server out of srv whose connections can be parted
// from.
func (p *partings) configure(srv *http.Server, leaving func() bool) {
	// net/http's own HTTP/2 is the same code but takes no connection other
	// than crypto/tls's.
	h2 := &http2.Server{}                                  //nolint:staticcheck // see above; its bounds are those of srv
	if err := http2.ConfigureServer(srv, h2); err != nil { //nolint:staticcheck // see above
		panic("proxy: cipher suites that HTTP/2 cannot use: " + err.Error()) // which are constants
	}
	srv.TLSNextProto[http2.NextProtoTLS] = func(hs *http.Server, c *tls.Conn, h http.Handler) {
		conn := &partingConn{Conn: c}
		p.mu.Lock()
		if p.open == nil {
			p.open = map[*partingConn]struct{}{}
		}
		p.open[conn] = struct{}{}
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			delete(p.open, conn)
			p.mu.Unlock()
		}()
		if leaving() {
			conn.part() // it came at the last moment
		}
		opts := &http2.ServeConnOpts{Handler: h, BaseConfig: hs} //nolint:staticcheck // see above
		// As net/http gives the connection's context to its own HTTP/2.
		if b, ok := h.(interface{ BaseContext() context.Context }); ok {
			opts.Context = b.BaseContext()
		}
		h2.ServeConn(conn, opts) //nolint:staticcheck // see above
	}
}

// partingConn can tell an HTTP/2 client to open no further stream without
// losing one that is on its way: RFC 9113 section 6.8 wants a GOAWAY with the
// greatest stream for that, where net/http sends the last one it saw and
// ignores what comes after it. A client whose request was ignored may send it
// again, unless it was an upload that it does not have any more.
type partingConn struct {
	*tls.Conn

	mu      sync.Mutex // of writes
	head    [9]byte    // of the frame that is being written: RFC 9113 section 4.1
	in      int        // bytes of head
	left    int        // bytes of its payload
	begun   bool       // the server's own SETTINGS have to come first
	pending bool
}

// goAway with the greatest stream and no error.
var goAway = []byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}

// part tells the client, as soon as no frame is half written.
func (c *partingConn) part() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = true
	if c.begun && c.between() {
		// An error is the next write's as well.
		_ = c.say()
	}
}

func (c *partingConn) between() bool { return c.in == 0 && c.left == 0 }

func (c *partingConn) say() error {
	c.pending = false
	_, err := c.Conn.Write(goAway)
	return err
}

func (c *partingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pending {
		c.follow(p, false)
		return c.Conn.Write(p)
	}
	// To the end of the frame under way; the rest after ours.
	n := c.follow(p, true)
	written, err := c.Conn.Write(p[:n])
	if err != nil {
		return written, err
	}
	if c.between() {
		if err := c.say(); err != nil {
			return written, err
		}
	}
	if n == len(p) {
		return n, nil
	}
	c.follow(p[n:], false)
	more, err := c.Conn.Write(p[n:])
	return n + more, err
}

// follow the frames in p, all of them or to the end of the first that ends.
func (c *partingConn) follow(p []byte, first bool) (n int) {
	for n < len(p) {
		if c.left > 0 {
			m := min(c.left, len(p)-n)
			c.left -= m
			n += m
		} else {
			c.begun = true
			m := copy(c.head[c.in:], p[n:])
			c.in += m
			n += m
			if c.in == len(c.head) {
				c.in = 0
				c.left = int(c.head[0])<<16 | int(c.head[1])<<8 | int(c.head[2])
			}
		}
		if first && c.between() {
			break
		}
	}
	return n
}
