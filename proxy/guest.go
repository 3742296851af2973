package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"tarima/proxy/proxyproto"
)

// guestRules are what connections of all doors are held to.
type guestRules struct {
	proxied    bool          // trusted peers begin with the PROXY protocol
	patience   time.Duration // for its header, for the handshake, for the first request
	trust      *trust
	logger     *slog.Logger
	complaints *seldom
}

// guest is one client's connection, below TLS. It keeps what net/http uses of
// a TCP connection beside net.Conn: ReadFrom for sendfile, CloseWrite.
type guest struct {
	net.Conn
	door   door
	limits *connectionLimits
	peer   netip.Addr // who connected; invalid for a unix socket
	// believed: peer is trusted, as it was when it connected.
	believed bool

	// What the header says is read in the connection's own goroutine, so that
	// a sender that is slow holds up nobody else.
	introduced sync.Once
	header     proxyproto.Header
	refused    error

	ledger ledger
	first  *time.Timer // ends a connection without a request

	looked bool // the first bytes are no PROXY header; of Read alone

	mu      sync.Mutex
	counted netip.Addr // in limits.addrs
	closed  bool
}

// newGuest returns nil when the address has too many connections.
func newGuest(c net.Conn, d door, limits *connectionLimits) *guest {
	g := &guest{Conn: c, door: d, limits: limits, peer: peerAddr(c.RemoteAddr().String())}
	g.believed = limits.guests.trust.current.Load().peer(d, g.peer)
	if !g.believed && !g.count(g.peer) {
		return nil
	}
	g.ledger.since = time.Now()
	// net/http has no bound for the first request of an HTTP/2 connection but
	// IdleTimeout: once HeadTimeout for the handshake, once for the head.
	g.mu.Lock() // it may ring at once
	g.first = time.AfterFunc(2*limits.guests.patience, func() { g.dismiss(errNoRequest) })
	g.mu.Unlock()
	return g
}

// begin a request.
func (g *guest) begin(r *http.Request) {
	g.first.Stop()
	g.ledger.request(r)
}

// end of a request. A client may hang up whenever it likes, but not ask only to
// do so.
func (g *guest) end(r *http.Request) {
	if r.Context().Err() != nil && r.ProtoMajor > 1 && !g.ledger.reset() {
		g.dismiss(errResets)
	}
}

// dismiss cuts a connection that does what no ordinary client does.
func (g *guest) dismiss(why error) {
	if !errors.Is(why, errNoRequest) { // browsers open some ahead
		g.limits.guests.complain("a connection is cut", "client", g.clientText(), "why", why)
	}
	_ = g.Close() // it is cut
}

// count takes a place among the connections of an address.
func (g *guest) count(a netip.Addr) bool {
	a = network(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !g.limits.enter(a) {
		return false
	}
	g.counted = a
	return true
}

// Close gives the places back, once.
func (g *guest) Close() error {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	if g.first != nil {
		g.first.Stop()
	}
	counted := g.counted
	g.mu.Unlock()
	if first {
		if counted.IsValid() {
			g.limits.leave(counted)
		}
		g.limits.present.Add(-1)
		defer func() { <-g.limits.slots }()
	}
	return g.Conn.Close()
}

// errUninvited is a PROXY header from who may not send one.
var errUninvited = errors.New("a PROXY protocol header that is not believed")

// introduce reads the PROXY header of a peer that has to send one. net/http
// asks for RemoteAddr before anything else, in the connection's goroutine.
func (g *guest) introduce() {
	g.introduced.Do(func() {
		rules := &g.limits.guests
		if !rules.proxied || !g.believed {
			return
		}
		g.looked = true
		_ = g.Conn.SetReadDeadline(time.Now().Add(rules.patience)) // a closed one fails to be read
		g.header, g.refused = proxyproto.Read(g.Conn)
		_ = g.Conn.SetReadDeadline(time.Time{})
		switch {
		case g.refused != nil:
			// That a balancer tries the port is no news.
			if !errors.Is(g.refused, io.EOF) && !errors.Is(g.refused, net.ErrClosed) {
				rules.complain("a trusted peer did not begin with a PROXY protocol header and is refused", "peer", g.peerText(), "error", g.refused)
			}
		case !g.header.Local && !g.count(g.header.Source.Addr()):
			g.refused = fmt.Errorf("too many connections of %s", g.header.Source.Addr())
		}
		if g.refused != nil {
			_ = g.Close() // the refusal is told
		}
	})
}

// clientText is the client as far as it is known already.
func (g *guest) clientText() string {
	if g.header.Source.IsValid() {
		return g.header.Source.Addr().String()
	}
	return g.peerText()
}

func (g *guest) peerText() string {
	if !g.peer.IsValid() {
		return "unix socket"
	}
	return g.peer.String()
}

// Read also finds out who speaks the PROXY protocol uninvited: without a word
// about it, an administrator would only see a handshake that fails.
func (g *guest) Read(p []byte) (int, error) {
	g.introduce()
	if g.refused != nil {
		return 0, g.refused
	}
	n, err := g.Conn.Read(p)
	if !g.ledger.took(n) {
		g.dismiss(errUnexplained)
		return 0, errUnexplained
	}
	if !g.looked && n > 0 {
		g.looked = true
		if proxyproto.Begins(p[:n]) {
			why := "not among the trusted networks"
			if g.believed {
				why = "the PROXY protocol is not switched on"
			}
			g.limits.guests.complain("a PROXY protocol header is refused", "peer", g.peerText(), "why", why)
			g.refused = errUninvited
			_ = g.Close() // the refusal is told
			return 0, g.refused
		}
	}
	return n, err
}

// RemoteAddr is the client, as far as it is known.
func (g *guest) RemoteAddr() net.Addr {
	g.introduce()
	if g.header.Source.IsValid() {
		return net.TCPAddrFromAddrPort(g.header.Source)
	}
	return g.Conn.RemoteAddr()
}

// port that the client connected to; 0: unknown.
func (g *guest) port() int {
	if g.header.Destination.IsValid() {
		return int(g.header.Destination.Port())
	}
	return g.door.port
}

// ReadFrom serves io.Copy, by sendfile where the kernel has it.
func (g *guest) ReadFrom(r io.Reader) (int64, error) {
	if f, ok := g.Conn.(io.ReaderFrom); ok {
		return f.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{g.Conn}, r)
}

// CloseWrite lets a client read the last answer before the connection ends.
func (g *guest) CloseWrite() error {
	if c, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// guestKey is the key of a connection in the context of its requests.
type guestKey struct{}

func withGuest(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if g, ok := c.(*guest); ok {
		return context.WithValue(ctx, guestKey{}, g)
	}
	return ctx
}

// guestOf a request; nil when it has none.
func guestOf(r *http.Request) *guest {
	g, _ := r.Context().Value(guestKey{}).(*guest) // nil otherwise
	return g
}

// What strangers cause is logged at most this often.
const complaintsEvery = 10 * time.Second

func (r *guestRules) complain(message string, attrs ...any) {
	if left, ok := r.complaints.now(); ok {
		r.logger.Warn(message, append(attrs, "unsaid", left)...)
	}
}

// seldom keeps a log from being flooded.
type seldom struct {
	every time.Duration

	mu     sync.Mutex
	next   time.Time
	unsaid int
}

func newSeldom(every time.Duration) *seldom { return &seldom{every: every} }

// now says whether it is time to speak, and how often it was not since.
func (s *seldom) now() (unsaid int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.After(s.next) {
		s.next = now.Add(s.every)
		unsaid, s.unsaid = s.unsaid, 0
		return unsaid, true
	}
	s.unsaid++
	return 0, false
}
