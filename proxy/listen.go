package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// listener is one public door.
type listener struct {
	net.Listener
	tls  bool
	port int
}

// openListeners opens what is configured, taking over those that are open
// already. On an error nothing stays open.
func openListeners(cfg *Config, limits *connectionLimits) (all []listener, err error) {
	inherited := append([]net.Listener{}, cfg.Listeners...)
	defer func() {
		for _, l := range inherited {
			cfg.Logger.Warn("an inherited socket fits no configured address and is closed", "address", l.Addr())
			if cfg.Store != "" {
				if err := unstore(cfg.Store, l); err != nil {
					cfg.Logger.Warn("it stays in the descriptor store", "address", l.Addr(), "error", err)
				}
			}
			_ = l.Close() // nobody uses it
		}
		if err != nil {
			for _, l := range all {
				_ = l.Close() // the first error is told
			}
			all = nil
		}
	}()
	open := func(address string, tls bool) error {
		var l net.Listener
		for i, in := range inherited {
			if boundTo(in, address) {
				l = in
				inherited = append(inherited[:i], inherited[i+1:]...)
				break
			}
		}
		if l == nil {
			var err error
			if l, err = net.Listen("tcp", address); err != nil {
				switch {
				case errors.Is(err, syscall.EADDRINUSE):
					if who := holder(portIn(address)); who != "" {
						return fmt.Errorf("listen on %s: %s has this port: %w", address, who, err)
					}
					return fmt.Errorf("listen on %s: another program has this port (ss -ltnp shows which): %w", address, err)
				case errors.Is(err, syscall.EACCES):
					return fmt.Errorf("listen on %s: ports below 1024 need CAP_NET_BIND_SERVICE: %w", address, err)
				}
				return fmt.Errorf("listen on %s: %w", address, err)
			}
		}
		all = append(all, listener{
			Listener: &limitedListener{Listener: l, limits: limits, done: make(chan struct{})},
			tls:      tls, port: portOf(l.Addr()),
		})
		return nil
	}
	for _, a := range cfg.HTTPS {
		if err := open(a, true); err != nil {
			return all, err
		}
	}
	for _, a := range cfg.HTTP {
		if err := open(a, false); err != nil {
			return all, err
		}
	}
	return all, nil
}

// portIn is the port of an address as it stands in a configuration; 0 when it
// has none.
func portIn(address string) int {
	_, text, _ := net.SplitHostPort(address) // one that cannot be split has no port
	port, _ := strconv.Atoi(text)
	return port
}

// boundTo compares a socket with an address as it stands in a configuration.
func boundTo(l net.Listener, address string) bool {
	bound, ok := l.Addr().(*net.TCPAddr)
	host, port, err := net.SplitHostPort(address)
	if !ok || err != nil || port != strconv.Itoa(bound.Port) {
		return false
	}
	if host == "" {
		return bound.IP.IsUnspecified()
	}
	ip := net.ParseIP(host)
	return ip != nil && (ip.Equal(bound.IP) || ip.IsUnspecified() && bound.IP.IsUnspecified())
}

// connectionLimits are shared by all listeners.
type connectionLimits struct {
	slots   chan struct{}
	perAddr int

	mu    sync.Mutex
	addrs map[netip.Addr]int
}

func newConnectionLimits(l Limits) *connectionLimits {
	return &connectionLimits{
		slots: make(chan struct{}, l.Connections), perAddr: l.ConnectionsPerAddr, addrs: map[netip.Addr]int{},
	}
}

func (c *connectionLimits) enter(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.addrs[a] >= c.perAddr {
		return false
	}
	c.addrs[a]++
	return true
}

func (c *connectionLimits) leave(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.addrs[a]--; c.addrs[a] <= 0 {
		delete(c.addrs, a)
	}
}

// limitedListener accepts no more while all slots are taken: the kernel's
// queue holds newcomers. One address with too many connections is closed on.
type limitedListener struct {
	net.Listener
	limits *connectionLimits
	done   chan struct{}
	once   sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		select {
		case l.limits.slots <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.limits.slots
			return nil, err
		}
		addr := network(peerAddr(c.RemoteAddr().String()))
		if !l.limits.enter(addr) {
			_ = c.Close() // refused
			<-l.limits.slots
			continue
		}
		leave := sync.OnceFunc(func() {
			l.limits.leave(addr)
			<-l.limits.slots
		})
		if t, ok := c.(*net.TCPConn); ok {
			return &limitedTCPConn{TCPConn: t, leave: leave}, nil
		}
		return &limitedConn{Conn: c, leave: leave}, nil
	}
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// pause lets the kernel keep newcomers for another process that has the same
// socket; who was accepted before is served.
func pause(l net.Listener) {
	if limited, ok := l.(*limitedListener); ok {
		l = limited.Listener
	}
	if d, ok := l.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Unix(1, 0)) // at worst they are accepted here
	}
}

// limitedTCPConn keeps what net/http uses of a TCP connection beside Conn:
// ReadFrom for sendfile, CloseWrite.
type limitedTCPConn struct {
	*net.TCPConn
	leave func()
}

func (c *limitedTCPConn) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
