package proxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// How long a websocket's client has to answer the frame that closes it, and a
// message under way to end before that frame.
const farewellFor = 2 * time.Second

// farewell is an unmasked close frame with status 1001, "going away": RFC 6455
// sections 5.5.1 and 7.4.1. Browsers' libraries connect again after it.
var farewell = []byte{0x88, 0x02, 0x03, 0xe9}

// socket is a client's connection that became a websocket. It belongs to the
// requests inside its gate and is told to go when the service drains.
type socket struct {
	net.Conn
	gate *gate

	// begun: the head of the answer was written past this wrapper, and from
	// now on there are frames.
	begun   atomic.Bool
	leaving atomic.Bool

	mu     sync.Mutex // of writes, which are frames for the client
	frames frames
	said   bool // farewell was written, the upstream's words are over
}

func newSocket(c net.Conn, g *gate) net.Conn {
	s := &socket{Conn: c, gate: g}
	if g.begin(s) {
		_ = s.Close() // a drain came first
	}
	return s
}

// Read is first called when the head of the answer has been written.
func (s *socket) Read(p []byte) (int, error) {
	if !s.begun.Swap(true) && s.leaving.Load() {
		s.leave()
	}
	return s.Conn.Read(p)
}

// Write passes frames of the upstream on. Between two of them there is place
// for ours.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said {
		return len(p), nil
	}
	if !s.leaving.Load() {
		s.frames.pass(p)
		return s.Conn.Write(p)
	}
	rest := s.frames.finish(p)
	if n, err := s.Conn.Write(p[:rest]); err != nil {
		return n, err
	}
	s.say()
	return len(p), nil
}

// say writes the farewell if no frame is under way. It needs mu.
func (s *socket) say() {
	if s.said || !s.frames.between() {
		return
	}
	s.said = true
	_, _ = s.Conn.Write(farewell) // who cannot hear it is closed on all the same
}

// leave tells the client to go. It answers with a close frame of its own, which
// goes on to the upstream, and that one's end ends the connection; if not,
// farewellFor does.
func (s *socket) leave() {
	if !s.leaving.Swap(true) {
		time.AfterFunc(farewellFor, func() { _ = s.Close() }) // it is over either way
	}
	if !s.begun.Load() {
		return // the first Read comes back here
	}
	_ = s.Conn.SetWriteDeadline(time.Now().Add(farewellFor)) // frees mu
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say()
}

func (s *socket) Close() error {
	s.gate.forget(s)
	return s.Conn.Close()
}

// frames follows where frames begin and end in one direction of a websocket:
// RFC 6455 section 5.2.
type frames struct {
	head []byte // of the frame that begins, as far as it is here
	left uint64 // bytes of the payload under way
}

// between says that the next byte begins a frame.
func (f *frames) between() bool { return f.left == 0 && len(f.head) == 0 }

// pass follows all of p.
func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		p = p[f.step(p):]
	}
}

// finish follows p to the end of the frame that is under way, or of p.
func (f *frames) finish(p []byte) (n int) {
	for n < len(p) && !f.between() {
		n += f.step(p[n:])
	}
	return n
}

// step follows p no farther than to the end of a head or of a payload, and at
// least one byte.
func (f *frames) step(p []byte) int {
	if f.left > 0 {
		n := min(f.left, uint64(len(p)))
		f.left -= n
		return int(n) //nolint:gosec // at most len(p)
	}
	f.head = append(f.head, p[0])
	if size, length := f.size(); len(f.head) == size {
		f.head, f.left = f.head[:0], length
	}
	return 1
}

// size of the head that is here in part, and of the payload behind it once the
// head is whole.
func (f *frames) size() (head int, payload uint64) {
	if len(f.head) < 2 {
		return 2, 0
	}
	head, short := 2, f.head[1]&0x7f
	extended := 0
	switch short {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	head += extended
	if f.head[1]&0x80 != 0 {
		head += 4 // a masking key, which a server should not send
	}
	if len(f.head) < head {
		return head, 0
	}
	if extended == 0 {
		return head, uint64(short)
	}
	for _, b := range f.head[2 : 2+extended] {
		payload = payload<<8 | uint64(b)
	}
	return head, payload
}
