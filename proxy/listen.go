package proxy

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// listener is one public door.
type listener struct {
	net.Listener
	door
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
			if l, err = listenAt(cfg, address); err != nil {
				return err
			}
		}
		d := doorOf(l, tls)
		all = append(all, listener{
			Listener: &limitedListener{Listener: l, door: d, limits: limits, done: make(chan struct{})},
			door:     d,
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

// connectionLimits are shared by all listeners.
type connectionLimits struct {
	slots   chan struct{}
	perAddr int
	guests  guestRules
	// Connections since the start, and those of addresses with too many.
	accepted, refused atomic.Uint64
	present           atomic.Int64 // slots, without those of listeners that wait

	mu    sync.Mutex
	addrs map[netip.Addr]int
}

func newConnectionLimits(cfg *Config, t *trust) *connectionLimits {
	return &connectionLimits{
		slots: make(chan struct{}, cfg.Limits.Connections), perAddr: cfg.Limits.ConnectionsPerAddr, addrs: map[netip.Addr]int{},
		guests: guestRules{
			proxied: cfg.ProxyProtocol, patience: cfg.Limits.HeadTimeout, trust: t, logger: cfg.Logger, complaints: newSeldom(complaintsEvery),
		},
	}
}

// open connections.
func (c *connectionLimits) open() int { return len(c.slots) }

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
// queue holds newcomers. One address with too many connections is closed on;
// a load balancer's or web server's own address is not counted, it has the
// connections of all its clients.
type limitedListener struct {
	net.Listener
	door   door
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
		if g := newGuest(c, l.door, l.limits); g != nil {
			l.limits.accepted.Add(1)
			l.limits.present.Add(1)
			return g, nil
		}
		l.limits.refused.Add(1)
		_ = c.Close() // refused
		<-l.limits.slots
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
