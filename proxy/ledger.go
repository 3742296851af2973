package proxy

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"
)

// A client may send what its requests explain and a little more. Without such
// an account a connection could keep this process busy with bytes that are no
// request: PING and SETTINGS frames, empty DATA, parts of a head that never
// ends, streams opened and reset. net/http bounds the memory of each of them,
// but not how long it goes on.
//
// The numbers are generous: an ordinary client needs a thousandth of them.
const (
	// spareBytes covers what is on its way at a time: the window of the
	// connection, the heads of all streams that may be open.
	spareBytes = 3 << 20
	// spareRate covers PINGs and the like on a connection that stays, in
	// bytes per second.
	spareRate = 4 << 10
	// headWorth of one request, and what a body byte may cost on the wire:
	// a byte in a DATA frame of its own in a TLS record of its own has 32.
	headWorth = 64 << 10
	bodyWorth = 64

	// Requests that a client may give up on before it is thought to do nothing
	// else, which it must have done with more than half of them.
	spareResets = 200
)

var (
	// errUnexplained is a connection that sent much beside its requests.
	errUnexplained = errors.New("many bytes that belong to no request")
	// errResets is a connection that gave up on most of its requests.
	errResets = errors.New("most requests were reset")
	// errNoRequest is a connection without a request for too long.
	errNoRequest = errors.New("no request came")
)

// ledger is the account of one connection.
type ledger struct {
	since     time.Time
	read      atomic.Int64 // bytes that came
	explained atomic.Int64 // bytes that requests explain
	requests  atomic.Int64
	resets    atomic.Int64
	open      atomic.Bool // no account any more: it is a websocket
}

// took says whether n more bytes are within the bounds.
func (l *ledger) took(n int) bool {
	read := l.read.Add(int64(n))
	if read <= spareBytes || l.open.Load() {
		return true
	}
	left := spareBytes + l.explained.Load() - read
	return left >= 0 || left+int64(time.Since(l.since).Seconds()*spareRate) >= 0
}

// request begins one.
func (l *ledger) request(r *http.Request) {
	l.requests.Add(1)
	worth := int64(headWorth)
	if r.ContentLength != 0 {
		worth += h2Window // which it may send before anybody says no
	}
	l.explained.Add(worth)
}

// reset counts a request that the client gave up on, and says whether that is
// still what a person does.
func (l *ledger) reset() bool {
	resets := l.resets.Add(1)
	return resets <= spareResets || 2*resets <= l.requests.Load()
}
