package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"tarima/proxy/meters"
	"tarima/proxy/routes"
)

// Pauses between attempts to reach an upstream that does not answer the
// connect: an application server comes back within seconds.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 500 * time.Millisecond
	// A repeatable request is sent again at most this often after a
	// connection broke under it, so that one that kills its upstream does
	// not do so for ever.
	maxResends = 2
)

// exchange is one request on its way.
type exchange struct {
	s      *server
	w      *writer
	r      *http.Request
	client client
	start  time.Time
	table  *table
	body   *body // nil: none

	upstream string
	held     time.Duration
	deadline time.Time // of all waits, set by the first
	note     string    // for the log: why it ended as it did
	view

	until     time.Time  // for the page of a closed site; zero: nobody knows
	challenge *challenge // for the page that asks for work
}

// handle serves one listener.
func (s *server) handle(l listener) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		defer s.requests.Done()
		g := guestOf(r)
		if g != nil {
			g.begin(r)
			defer g.end(r)
		}
		if a := s.altSvc.Load(); a != nil && l.tls && r.ProtoMajor < 3 {
			rw.Header()["Alt-Svc"] = *a
		}
		control := http.NewResponseController(rw)
		x := &exchange{
			s: s, r: r, start: time.Now(), table: s.board.current.Load(),
			w:      &writer{ResponseWriter: rw, control: control, alarm: newAlarm(r, control.SetWriteDeadline), pace: pace{limits: &s.cfg.Limits}, leaving: &s.leaving, old: r.ProtoMajor == 1, guest: g},
			client: s.clientOf(r, l),
		}
		defer x.seen() // after the body's end
		if r.ContentLength != 0 {
			x.body = newBody(r, control, &s.cfg.Limits)
			x.body.guest = g
			x.w.body, r.Body = x.body, x.body
			defer func() { _ = x.body.finish() }() // told where it matters
		}
		x.see()
		x.serve(l)
		if r.ProtoMajor == 3 && r.Method == http.MethodHead {
			// quic-go would say Content-Length: 0, which may be wrong.
			_ = x.w.FlushError() // the client may be gone
		}
	})
}

func (x *exchange) serve(l listener) {
	r := x.r
	if no := screen(r, x.s.cfg.Limits.Head); no != nil {
		x.page(no.status, no.page)
		return
	}
	if r.URL.Path == healthPath && x.client.local {
		x.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = x.w.Write([]byte("ok\n")) // the asker is free to go away
		return
	}
	if !l.tls && x.s.keeper.Challenge(x.w, r, hostName(r.Host)) {
		return
	}
	clean(r.Header)
	clean(r.Trailer)
	websocket := upgrade(r)
	d, ok := x.table.find(r.Host, r.URL.Path)
	if !ok {
		x.unknownHost()
		return
	}
	x.host = d.host.Name
	// Behind a web server it is for that one to redirect: a second opinion
	// can only make a loop.
	if x.s.httpsPort != 0 && x.client.proto == "http" && !x.s.trust.current.Load().behind {
		if !x.uncertified(d.host.Name) {
			x.redirect("https://"+withPort(d.host.Name, x.s.httpsPort)+r.URL.RequestURI(), http.StatusPermanentRedirect)
		}
		return
	}
	if x.guard(d) {
		return
	}
	switch {
	case d.rule != nil && d.rule.Redirect != "":
		x.redirect(d.rule.target(d.rule.Redirect, escapedRest(d.rest))+querySuffix(r), http.StatusFound)
	case d.rule != nil && d.rule.Root != "":
		x.class = meters.Static
		x.static(d)
	case d.host.Redirect != "":
		x.redirect(strings.TrimSuffix(d.host.Redirect, "/")+r.URL.RequestURI(), http.StatusPermanentRedirect)
	default:
		x.class = meters.Upstream
		x.proxy(d, websocket)
	}
}

// healthPath answers callers on the machine itself, whatever the Host.
const healthPath = "/-/healthz"

func (x *exchange) unknownHost() {
	// RFC 9110 section 15.5.20: a client that reused a connection for
	// another name tries again on a new one.
	status := http.StatusNotFound
	if x.r.TLS != nil {
		status = http.StatusMisdirectedRequest
	}
	x.page(status, "host")
}

func (x *exchange) redirect(to string, status int) {
	x.class = meters.Redirect
	x.w.Header().Set("Location", to)
	x.w.Header().Set("Content-Length", "0")
	x.w.WriteHeader(status)
}

// escapedRest goes behind a path that ends in "/". More slashes in front of it
// could make a path into another host.
func escapedRest(rest string) string {
	return (&url.URL{Path: strings.TrimLeft(rest, `/\`)}).EscapedPath()
}

func querySuffix(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return "?" + r.URL.RawQuery
}

// proxy brings the request to its upstream, waiting for it as long as Hold
// allows.
func (x *exchange) proxy(d destination, websocket bool) {
	if d.maxBody > 0 && x.r.ContentLength > d.maxBody {
		x.page(http.StatusRequestEntityTooLarge, "body")
		return
	}
	if x.body != nil {
		x.body.limit = d.maxBody
	}
	repeatable := isRepeatable(x.r)
	pause := firstPause
	resends, others := 0, 0
	broken := "" // the address that failed last
	for {
		d, ok := x.admit(d)
		if !ok {
			return
		}
		if d.several != nil {
			d.upstream = x.s.fleet.pick(d.several, broken)
		}
		err := x.attempt(d, repeatable, websocket)
		if err == nil {
			return
		}
		again := notReached(err) // and so the body was not touched
		if again && d.several != nil {
			x.s.fleet.refused(d.upstream)
		}
		if !again && repeatable && x.w.status == 0 && !isTimeout(err) && resends < maxResends {
			resends++
			again = true
		}
		if x.r.Context().Err() != nil || !again {
			x.failed(err)
			return
		}
		x.upstreamFailed(err)
		broken = d.upstream
		if others++; others < len(d.several) {
			continue // another address may do better at once
		}
		others = 0
		if !x.rest(d, pause) {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// admit takes the request through the gate of its service. It answers the
// request itself when that is not to be.
func (x *exchange) admit(d destination) (destination, bool) {
	var t *ticket
	defer func() {
		if t != nil {
			x.s.room.leave(t)
		}
	}()
	for {
		// Routes may have changed while it waited.
		table := x.s.board.current.Load()
		if table != x.table {
			x.table = table
			next, ok := table.find(x.r.Host, x.r.URL.Path)
			if !ok || next.host.Redirect != "" || next.rule != nil && (next.rule.Redirect != "" || next.rule.Root != "") {
				x.unknownHost()
				return d, false
			}
			if x.guardHeld(next) {
				return d, false
			}
			d = next
		}
		if d.gate == nil {
			return d, true
		}
		ok, state := d.gate.enter(d.upstream != "")
		if ok {
			return d, true
		}
		if state == routes.Down {
			x.unavailable("down")
			return d, false
		}
		if t == nil || t.gate != d.gate {
			if t != nil {
				x.s.room.leave(t)
			}
			var err error
			if t, err = x.s.room.join(d.host.Name, d.gate, x.client.addr, x.weight()); err != nil {
				x.note = err.Error()
				x.unavailable("wait")
				return d, false
			}
			x.s.board.want(d.gate, d.host.Name)
			continue // what changed before the ticket was there calls nobody
		}
		if !x.wait(t, nil) {
			return d, false
		}
	}
}

// rest waits a moment after an upstream did not answer.
func (x *exchange) rest(d destination, pause time.Duration) bool {
	t, err := x.s.room.join(d.host.Name, x.s.gateOf(d), x.client.addr, x.weight())
	if err != nil {
		x.note = err.Error()
		x.unavailable("wait")
		return false
	}
	defer x.s.room.leave(t)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	return x.wait(t, timer.C)
}

// gateOf gives an address without a service the gate of nobody.
func (s *server) gateOf(d destination) *gate {
	if d.gate == nil {
		return s.nobody
	}
	return d.gate
}

// wait returns true when it is time to look again.
func (x *exchange) wait(t *ticket, again <-chan time.Time) bool {
	began := time.Now()
	if x.deadline.IsZero() {
		x.deadline = began.Add(x.s.cfg.Hold.Timeout)
	}
	over := time.NewTimer(time.Until(x.deadline))
	defer over.Stop()
	x.waiting.Store(true)
	defer func() {
		x.waiting.Store(false)
		x.held += time.Since(began)
	}()
	select {
	case <-t.called:
		return true
	case <-again:
		return true
	case <-t.out:
		x.note = t.why.Error()
	case <-over.C:
		x.note = errHeld.Error()
	case <-x.r.Context().Done():
		x.gone()
		return false
	}
	x.unavailable("wait")
	return false
}

// weight is the memory that a waiting request holds: its head, and from HTTP/2 on
// the part of the body that the client may send ahead.
func (x *exchange) weight() int64 {
	size := int64(4<<10 + len(x.r.RequestURI))
	for name, values := range x.r.Header {
		for _, v := range values {
			size += int64(len(name) + len(v))
		}
	}
	if x.r.ProtoMajor >= 2 && x.r.ContentLength != 0 {
		window := int64(h2Window)
		if l := x.r.ContentLength; l > 0 {
			window = min(window, l)
		}
		size += window
	}
	return size
}

// attempt sends the request to the upstream once. An error comes back only
// when nothing of an answer was passed on.
func (x *exchange) attempt(d destination, repeatable, websocket bool) (failure error) {
	place := &stay{s: x.s, d: d}
	defer place.leave()
	x.upstream = d.upstream
	began := x.ask()
	if websocket {
		x.w.hijack = func(c net.Conn) net.Conn { return newSocket(c, x.s.gateOf(d)) }
	}
	p := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			o := pr.Out
			o.URL.Scheme, o.URL.Host = "http", d.upstream
			// Django reads the query itself, and ";" is data there.
			o.URL.RawQuery = pr.In.URL.RawQuery
			o.Host = pr.In.Host
			if d.rule != nil {
				if d.rule.Host != "" {
					o.Host = d.rule.Host
				}
				if d.rule.Rewrite != "" {
					o.URL.Path, o.URL.RawPath = d.rule.target(d.rule.Rewrite, d.rest), ""
				}
			}
			// Filled when the body has been read, so it has to be the same map.
			o.Trailer = pr.In.Trailer
			x.client.forward(o.Header, pr.In.Host)
			x.passNames(o.Header)
		},
		Transport: x.s.upstreams.of(repeatable && !websocket),
		ModifyResponse: func(resp *http.Response) error {
			x.answered(began)
			err := place.receive(resp)
			x.compress(d, resp)
			return err
		},
		BufferPool: x.s.buffers,
		ErrorLog:   x.s.proxyLog,
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			x.answered(began)
			failure = err
		},
	}
	p.ServeHTTP(x.w, x.r)
	return failure
}

// failed answers a request whose upstream will not.
func (x *exchange) failed(err error) {
	x.note = err.Error()
	var bodyErr error
	if x.body != nil {
		bodyErr = x.body.finish()
	}
	switch {
	case x.w.status != 0:
		// Too late for another answer.
		panic(http.ErrAbortHandler)
	case errors.Is(bodyErr, errTooLarge):
		x.page(http.StatusRequestEntityTooLarge, "body")
	case errors.Is(bodyErr, errSlow):
		x.page(http.StatusRequestTimeout, "slow")
	case x.r.Context().Err() != nil:
		x.gone()
	case bodyErr != nil && !errors.Is(bodyErr, io.EOF):
		x.page(http.StatusBadRequest, "malformed")
	case isTimeout(err):
		x.upstreamFailed(err)
		x.s.logger.Warn("the upstream did not answer in time", "host", x.r.Host, "upstream", x.upstream, "error", err)
		x.page(http.StatusGatewayTimeout, "late")
	default:
		x.upstreamFailed(err)
		x.s.logger.Warn("the upstream failed", "host", x.r.Host, "upstream", x.upstream, "error", err)
		x.page(http.StatusBadGateway, "broken")
	}
}

// statusGone is for the log alone: the client did not wait for an answer.
const statusGone = 499

func (x *exchange) gone() {
	x.w.status = statusGone
	panic(http.ErrAbortHandler)
}
