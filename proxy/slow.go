package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// pace cuts peers that stand still or trickle. Only time that is spent waiting
// for the peer counts, so that a slow upstream is never held against a client.
type pace struct {
	limits *Limits
	spent  time.Duration
	bytes  int64
}

// patience is how long the next read or write may take: Stall, and in all no
// longer than Stall beyond what MinRate gives for the bytes so far.
func (p *pace) patience() time.Duration {
	left := p.limits.Stall + time.Duration(float64(p.bytes)/float64(p.limits.MinRate)*float64(time.Second)) - p.spent
	return max(min(p.limits.Stall, left), time.Millisecond)
}

func (p *pace) add(n int64, took time.Duration) {
	p.bytes += n
	p.spent += took
}

// body is a request body with a size limit and a pace. Close does nothing, so
// that another attempt may read it; finish ends it.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	alarm   alarm
	request *http.Request
	limit   int64  // 0: none; set before the first read
	guest   *guest // nil: not of a connection

	mu   sync.Mutex // held during a read: the Transport's may outlive the attempt
	pace pace
	err  error // of the client's side: io.EOF, errTooLarge, errSlow, or net/http's

	read atomic.Int64
	end  atomic.Bool // err is io.EOF
}

func newBody(r *http.Request, control *http.ResponseController, limits *Limits) *body {
	return &body{ReadCloser: r.Body, request: r, control: control, alarm: newAlarm(r, control.SetReadDeadline), pace: pace{limits: limits}}
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	// One byte more than the limit shows that there is more.
	if left := b.limit - b.read.Load() + 1; b.limit > 0 && int64(len(p)) > left {
		p = p[:left]
	}
	start := time.Now()
	b.alarm.arm(start, b.pace.patience())
	n, err := b.ReadCloser.Read(p)
	// Left over, a deadline would end an HTTP/1 request whose upstream is
	// still thinking, and reset an HTTP/2 stream that is merely not read.
	b.alarm.disarm()
	b.pace.add(int64(n), time.Since(start))
	read := b.read.Add(int64(n))
	if b.guest != nil {
		b.guest.ledger.explained.Add(int64(n) * bodyWorth)
	}
	switch {
	case b.limit > 0 && read > b.limit:
		b.err = errTooLarge
		return 0, b.err
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.err = errSlow
		return n, b.err
	case err != nil:
		b.err = err
		if errors.Is(err, io.EOF) {
			b.end.Store(true)
			// Trailers are here now, and may not say what headers may not.
			clean(b.request.Trailer)
		}
	}
	return n, err
}

// Close serves the Transport, which closes the body of a failed attempt.
func (b *body) Close() error { return nil }

// unfinished says that a part of the body was not read.
func (b *body) unfinished() bool {
	l := b.request.ContentLength
	return !b.end.Load() && (l < 0 || b.read.Load() < l)
}

// What is left of a body that nobody wants is read for at most this long.
const bodyRest = 250 * time.Millisecond

// finish ends a read that is under way and allows no other: after its handler
// has returned, a request must not touch the connection. It returns how the
// client's side ended, nil when it did not.
func (b *body) finish() error {
	if !b.mu.TryLock() {
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
		b.mu.Lock()
		_ = b.control.SetReadDeadline(time.Time{})
	}
	defer b.mu.Unlock()
	err := b.err
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	if b.request.ProtoMajor == 1 && b.unfinished() {
		// net/http reads on without a deadline of its own before it closes.
		_ = b.control.SetReadDeadline(time.Now().Add(bodyRest))
	}
	return err
}

// writer is the one wrapper around net/http's: it sets deadlines, and counts
// for the access log. It forwards ReadFrom, without which files would be
// copied through a buffer.
type writer struct {
	http.ResponseWriter
	control *http.ResponseController
	alarm   alarm
	body    *body // nil: the request has none
	pace    pace
	status  int
	bytes   atomic.Int64
	hijack  func(net.Conn) net.Conn // nil: no upgrade allowed
	guest   *guest                  // nil: not of a connection
	old     bool                    // HTTP/1, whose connections end with an answer that says so
	leaving *atomic.Bool            // this process wants no further request on the connection

	edits, ruleEdits edits // of the answer's headers

	exchange          *exchange // that it answers; nil: of nobody who looks
	sending, hijacked atomic.Bool
}

// Chunk of ReadFrom, so that a large file does not run under one deadline.
const readFromChunk = 256 << 10

// Unwrap serves http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) WriteHeader(status int) {
	// 1xx are not the answer yet.
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
		w.sending.Store(true)
		if w.exchange != nil {
			w.exchange.stamp(w.Header(), status) // first, so that a host may take it away
		}
		w.edits.apply(w.Header())
		w.ruleEdits.apply(w.Header())
		if w.leaving.Load() && w.old && status != http.StatusSwitchingProtocols {
			w.Header().Set("Connection", "close")
		}
		if w.body != nil && w.body.unfinished() && w.body.request.ProtoMajor == 1 {
			// Without it net/http would first read the rest, for as long as
			// the client likes.
			w.Header().Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// timed runs one write under its deadline. The deadline is cleared directly
// afterwards: for HTTP/2 it is a timer that fires without any pending write.
func (w *writer) timed(write func() (int64, error)) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	start := time.Now()
	w.alarm.arm(start, w.pace.patience())
	n, err := write()
	w.alarm.disarm()
	w.pace.add(n, time.Since(start))
	w.bytes.Add(n)
	if w.guest != nil {
		w.guest.ledger.explained.Add(n) // windows are opened for it
	}
	return n, err
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.timed(func() (int64, error) {
		n, err := w.ResponseWriter.Write(p)
		return int64(n), err
	})
	return int(n), err
}

// ReadFrom serves io.Copy.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	inner, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok { // HTTP/2
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	// A limit around a limit would hide a file from sendfile.
	whole, limited := src.(*io.LimitedReader)
	if limited {
		src = whole.R
	}
	var total int64
	for {
		chunk := io.LimitedReader{R: src, N: readFromChunk}
		if limited {
			chunk.N = min(chunk.N, whole.N)
		}
		asked := chunk.N
		n, err := w.timed(func() (int64, error) { return inner.ReadFrom(&chunk) })
		total += n
		if limited {
			whole.N -= asked - chunk.N
		}
		if err != nil || chunk.N > 0 || limited && whole.N <= 0 {
			return total, err
		}
	}
}

// FlushError serves http.ResponseController and the reverse proxy.
func (w *writer) FlushError() error {
	_, err := w.timed(func() (int64, error) { return 0, w.control.Flush() })
	return err
}

// Hijack hands out the connection, with what the client sent already, for a
// websocket.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.hijack == nil {
		return nil, nil, http.ErrNotSupported
	}
	conn, rw, err := w.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.status = http.StatusSwitchingProtocols
	w.hijacked.Store(true)
	if w.guest != nil {
		w.guest.ledger.open.Store(true)
	}
	var early []byte
	if n := rw.Reader.Buffered(); n > 0 {
		early = make([]byte, n)
		// They are buffered: it cannot fail.
		_, _ = io.ReadFull(rw.Reader, early)
	}
	return w.hijack(&earlyConn{Conn: conn, early: early}), rw, nil
}

// earlyConn gives first what came in the same packet as the request.
type earlyConn struct {
	net.Conn
	early []byte
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
