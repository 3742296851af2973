package proxy

import "net"

// socket is a client's connection that became a websocket. It belongs to the
// requests inside its gate and is closed when the service drains.
type socket struct {
	net.Conn
	gate *gate
}

func newSocket(c net.Conn, g *gate) net.Conn {
	s := &socket{Conn: c, gate: g}
	if g.upgrade(s) {
		_ = s.Close() // a drain came first
	}
	return s
}

func (s *socket) Close() error {
	s.gate.forget(s)
	return s.Conn.Close()
}
