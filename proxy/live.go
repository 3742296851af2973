package proxy

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"tarima/proxy/accesslog"
	"tarima/proxy/routes"
)

// live is the list of the requests under way, the oldest first.
type live struct {
	mu          sync.Mutex
	first, last *exchange
	n           int
}

func (l *live) add(x *exchange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		l.first = x
	} else {
		l.last.next, x.prev = x, l.last
	}
	l.last = x
	l.n++
}

func (l *live) remove(x *exchange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x.prev == nil {
		l.first = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		l.last = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.prev, x.next = nil, nil
	l.n--
}

func (l *live) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// list tells of the oldest requests. What it reads of them does not change, or
// may be read by anybody.
func (l *live) list(limit int, now time.Time) (all []routes.Request, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all = make([]routes.Request, 0, min(limit, l.n))
	for x := l.first; x != nil && len(all) < limit; x = x.next {
		all = append(all, x.now(now))
	}
	return all, l.n
}

// now is how far the request is.
func (x *exchange) now(at time.Time) routes.Request {
	r := routes.Request{
		ID: x.id, Client: x.client.name(), Method: x.r.Method, Host: x.r.Host, Path: accesslog.RedactPath(x.r.URL.Path), Proto: x.r.Proto,
		State: routes.RequestWaiting, Age: at.Sub(x.start), Sent: x.w.bytes.Load(),
	}
	if x.body != nil {
		r.Received = x.body.read.Load()
	}
	switch {
	case x.w.hijacked.Load():
		r.State = routes.RequestOpen
	case x.w.sending.Load():
		r.State = routes.RequestSending
	case x.waiting.Load():
		r.State = routes.RequestHeld
	case x.body != nil && x.body.unfinished():
		r.State = routes.RequestReading
	}
	return r
}

func (s *server) getRequests(w http.ResponseWriter, _ *http.Request) {
	list, n := s.sight.live.list(routes.MaxRequests, time.Now())
	writeJSON(w, http.StatusOK, routes.Requests{InFlight: n, Held: s.room.total(), Requests: list})
}

// Requests asks for the requests under way.
func (c *Client) Requests(ctx context.Context) (routes.Requests, error) {
	var r routes.Requests
	status, err := c.call(ctx, http.MethodGet, "/v1/requests", nil, &r)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answer %d", status)
	}
	if err != nil {
		return r, fmt.Errorf("requests under way: %w", err)
	}
	return r, nil
}
