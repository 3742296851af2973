package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"

	"tarima/store/durable"
)

const (
	// quicKeyFile holds the secrets that a successor needs to tell clients of
	// its predecessor that their connection is gone.
	quicKeyFile = "quic.key"
	// quicLockFile is locked by the one process that reads the UDP sockets:
	// two readers would take each other's packets.
	quicLockFile = "quic.lock"
	// How long a browser may remember that there is HTTP/3.
	altSvcAge = time.Hour
	// goodBuffer of a UDP socket holds what comes while this process waits for
	// a processor; quic-go asks for 7 MB.
	goodBuffer = 2 << 20
)

// quicDoors serve HTTP/3 on the ports of HTTPS.
type quicDoors struct {
	s       *server
	sockets []*net.UDPConn
	doors   []listener // without sockets of their own
	tls     []*tls.Config

	lock       *os.File
	transports []*quic.Transport
	listeners  []*quic.Listener
	servers    []*http3.Server
}

// openQUIC opens or inherits a UDP socket beside each TLS listener. The TCP
// side serves on when there is none.
func openQUIC(s *server, listeners []listener) (*quicDoors, error) {
	q := &quicDoors{s: s}
	inherited := s.cfg.Packets
	defer func() {
		for _, c := range inherited {
			_ = c.Close() // nobody uses it
		}
	}()
	if !s.cfg.HTTP3 {
		return q, nil
	}
	for _, l := range listeners {
		tcp, ok := l.Addr().(*net.TCPAddr)
		if !l.tls || !ok {
			continue
		}
		var conn *net.UDPConn
		for i, c := range inherited {
			if a, ok := c.LocalAddr().(*net.UDPAddr); ok && a.Port == tcp.Port && a.IP.Equal(tcp.IP) {
				conn = c
				inherited = append(inherited[:i:i], inherited[i+1:]...)
				break
			}
		}
		if conn == nil {
			var err error
			if conn, err = net.ListenUDP("udp", &net.UDPAddr{IP: tcp.IP, Port: tcp.Port, Zone: tcp.Zone}); err != nil {
				q.closeSockets()
				return nil, fmt.Errorf("listen on UDP %s for HTTP/3: %w", tcp, err)
			}
		}
		q.sockets, q.doors = append(q.sockets, conn), append(q.doors, listener{door: l.door})
		q.tls = append(q.tls, s.publicServer(l).TLSConfig)
	}
	return q, nil
}

func (q *quicDoors) closeSockets() {
	for _, c := range q.sockets {
		_ = c.Close() // nothing is buffered
	}
}

// serve as soon as a predecessor has let the sockets go.
func (q *quicDoors) serve(ctx context.Context) {
	if len(q.sockets) == 0 {
		return
	}
	defer q.closeSockets()
	if err := q.waitForLock(ctx); err != nil {
		if ctx.Err() == nil {
			q.s.logger.Error("no HTTP/3", "error", err)
		}
		return
	}
	defer func() { _ = q.lock.Close() }() // and with it the lock
	reset, token, err := quicKeys(q.s.cfg.Dir)
	if err != nil {
		q.s.logger.Error("no HTTP/3", "error", err)
		return
	}
	// quic-go would write about small buffers to standard error.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") // fails for bad names only
	for i, conn := range q.sockets {
		t := &quic.Transport{
			Conn: conn, StatelessResetKey: &reset, TokenGeneratorKey: &token,
			ConnContext: q.admit,
			// A sender that may be invented proves its address when there are many.
			VerifySourceAddress: func(net.Addr) bool { return q.s.limits.open() > cap(q.s.limits.slots)/2 },
		}
		limits := &q.s.cfg.Limits
		listener, err := t.Listen(http3.ConfigureTLSConfig(q.tls[i]), &quic.Config{
			HandshakeIdleTimeout: limits.HeadTimeout / 2, MaxIdleTimeout: limits.IdleTimeout,
			MaxIncomingStreams: 128, MaxIncomingUniStreams: 8,
			MaxStreamReceiveWindow: h2Window, MaxConnectionReceiveWindow: 2 * h2Window,
			Allow0RTT: false, // a request in it could be sent again by anybody
		})
		if err != nil {
			_ = t.Close() // the first error is told
			q.s.logger.Error("no HTTP/3", "address", conn.LocalAddr(), "error", err)
			continue
		}
		server := &http3.Server{
			Handler:        q.s.handle(q.doors[i]),
			MaxHeaderBytes: max(64<<10, 2*limits.Head), IdleTimeout: limits.IdleTimeout,
		}
		q.transports, q.listeners, q.servers = append(q.transports, t), append(q.listeners, listener), append(q.servers, server)
		q.s.logger.Info("listening", "address", conn.LocalAddr().String(), "http", 3)
		if n := receiveBuffer(conn); n > 0 && n < goodBuffer {
			q.s.logger.Info("the socket's buffer is small for HTTP/3; net.core.rmem_max of 7500000 is better", "bytes", n)
		}
	}
	if len(q.servers) == 0 {
		return
	}
	q.s.altSvc.Store(&[]string{fmt.Sprintf(`h3=":%d"; ma=%d`, q.s.httpsPort, int(altSvcAge.Seconds()))})
	served := make(chan struct{})
	for i, server := range q.servers {
		go func() {
			if err := server.ServeListener(q.listeners[i]); !errors.Is(err, http.ErrServerClosed) {
				q.s.logger.Error("HTTP/3 ended", "error", err)
			}
			served <- struct{}{}
		}()
	}
	<-ctx.Done()
	q.s.altSvc.Store(nil)
	q.end()
	for range q.servers {
		<-served
	}
}

// receiveBuffer is what the kernel gave; 0: unknown.
func receiveBuffer(conn *net.UDPConn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	if err := raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) }); err != nil {
		return 0
	}
	return n
}

// end lets requests end, for as long as clients are parted from, and gives the
// sockets up. New clients are kept in the sockets' queues for a successor, or
// turn to TCP.
func (q *quicDoors) end() {
	ctx, cancel := context.WithTimeout(context.Background(), min(partingFor, q.s.cfg.Grace))
	defer cancel()
	for _, l := range q.listeners {
		_ = l.Close() // no new connections; those that are open stay
	}
	ended := make(chan struct{})
	for _, server := range q.servers {
		go func() {
			_ = server.Shutdown(ctx) // time is over: what is left is cut
			ended <- struct{}{}
		}()
	}
	for range q.servers {
		<-ended
	}
	for _, t := range q.transports {
		_ = t.Close() // the socket is closed by serve
	}
}

// admit counts a connection as those of TCP are counted.
func (q *quicDoors) admit(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
	limits := q.s.limits
	select {
	case limits.slots <- struct{}{}:
	default:
		return nil, errors.New("no connection is free")
	}
	a := network(peerAddr(client.RemoteAddr.String()))
	if !limits.enter(a) {
		<-limits.slots
		limits.refused.Add(1)
		return nil, fmt.Errorf("too many connections of %s", a)
	}
	limits.accepted.Add(1)
	limits.present.Add(1)
	context.AfterFunc(ctx, func() {
		limits.present.Add(-1)
		limits.leave(a)
		<-limits.slots
	})
	return ctx, nil
}

func (q *quicDoors) waitForLock(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(q.s.cfg.Dir, quicLockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock of the UDP sockets: %w", err)
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			q.lock = f
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close() // the first error is told
			return fmt.Errorf("lock of the UDP sockets: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close() // nothing was written
			return ctx.Err()
		}
	}
}

// quicKeys are made once and kept.
func quicKeys(dir string) (reset quic.StatelessResetKey, token quic.TokenGeneratorKey, err error) {
	path := filepath.Join(dir, quicKeyFile)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return reset, token, fmt.Errorf("keys of HTTP/3: %w", err)
	}
	if len(data) != len(reset)+len(token) {
		// None yet, or damaged: clients of before wait until they give up.
		data = make([]byte, len(reset)+len(token))
		if _, err := io.ReadFull(rand.Reader, data); err != nil {
			return reset, token, fmt.Errorf("keys of HTTP/3: %w", err)
		}
		if err := durable.Write(path, data, 0o600); err != nil {
			return reset, token, fmt.Errorf("keys of HTTP/3: %w", err)
		}
	}
	copy(reset[:], data)
	copy(token[:], data[len(reset):])
	return reset, token, nil
}

// files are duplicates of the UDP sockets for a successor.
func (q *quicDoors) files() ([]*os.File, error) {
	var all []*os.File
	for _, c := range q.sockets {
		f, err := socketFile(c)
		if err != nil {
			for _, f := range all {
				_ = f.Close() // the first error is told
			}
			return nil, fmt.Errorf("hand over UDP %s: %w", c.LocalAddr(), err)
		}
		all = append(all, f)
	}
	return all, nil
}
