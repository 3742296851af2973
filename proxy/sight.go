package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"tarima/proxy/accesslog"
	"tarima/proxy/meters"
	"tarima/proxy/routes"
)

// Sight is what can be seen of the proxy's work, beside Config.AccessLog.
type Sight struct {
	// Log is the file of the access log; without a Path: none. Reopen lets go
	// of it, for whoever moved it away.
	Log    accesslog.File
	Reopen <-chan struct{}
	// Fields and Addresses of both access logs; see accesslog.Config.
	Fields    []string
	Addresses accesslog.Addresses
	// Slow is what the server may take for a request, the time that it waits
	// for the visitor left out, before the journal is told; 0: for ever.
	Slow time.Duration
	// Metrics is a loopback address:port on which figures for Prometheus are
	// served at /metrics, as they always are on the control socket; "": none.
	Metrics string
}

func (s *Sight) check() error {
	if s.Slow < 0 {
		return fmt.Errorf("%w: Slow %s", ErrConfig, s.Slow)
	}
	if s.Metrics == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(s.Metrics)
	if err != nil {
		return fmt.Errorf("%w: Metrics: %w", ErrConfig, err)
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return fmt.Errorf("%w: Metrics: %q is no address of this machine alone", ErrConfig, s.Metrics)
	}
	return nil
}

// slowEvery keeps the journal from being flooded when everything is slow.
const slowEvery = time.Second

// sight sees what the door does.
type sight struct {
	logs     []*accesslog.Log
	meters   *meters.Meters
	live     live
	slow     time.Duration
	slowTold *seldom
}

// openSight begins the logs and the figures. closeSight ends them.
func (s *server) openSight() error {
	v := &s.sight
	v.slow, v.slowTold = s.cfg.Sight.Slow, newSeldom(slowEvery)
	v.meters = meters.New(meters.Source{
		InFlight: v.live.count, Held: s.room.total,
		Connections: func() int { return int(s.limits.present.Load()) }, Accepted: s.limits.accepted.Load, Refused: s.limits.refused.Load,
		LostLines: v.lost, Certificates: s.expiries,
	})
	s.meterContent(v.meters)
	common := accesslog.Config{
		Fields: s.cfg.Sight.Fields, Addresses: s.cfg.Sight.Addresses, Logger: s.logger,
		Trouble: func(err error) { s.trouble.set("access log", err) },
	}
	add := func(c accesslog.Config) error {
		l, err := accesslog.Open(c)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
		v.logs = append(v.logs, l)
		return nil
	}
	if s.cfg.AccessLog != nil {
		c := common
		c.Writer = s.cfg.AccessLog
		if err := add(c); err != nil {
			return err
		}
	}
	if s.cfg.Sight.Log.Path != "" {
		c := common
		c.File = s.cfg.Sight.Log
		return add(c)
	}
	return nil
}

func (s *server) closeSight() {
	for _, l := range s.sight.logs {
		if err := l.Close(); err != nil {
			s.logger.Warn("the last lines of the access log are lost", "error", err)
		}
	}
}

// reopenLogs does so whenever it is asked to, until ctx ends.
func (s *server) reopenLogs(ctx context.Context) {
	for {
		select {
		case <-s.cfg.Sight.Reopen:
			for _, l := range s.sight.logs {
				l.Reopen()
			}
		case <-ctx.Done():
			return
		}
	}
}

func (v *sight) lost() (n uint64) {
	for _, l := range v.logs {
		n += l.Lost()
	}
	return n
}

func (s *server) expiries() []meters.Certificate {
	states := s.keeper.States()
	all := make([]meters.Certificate, len(states))
	for i, c := range states {
		all[i] = meters.Certificate{Name: c.Name, NotAfter: c.NotAfter}
	}
	return all
}

// served tells the figures which hosts there are.
func (v *sight) served(snapshot routes.Snapshot) {
	names := make([]string, len(snapshot.Hosts))
	for i, h := range snapshot.Hosts {
		names[i] = h.Name
	}
	v.meters.Keep(names)
}

// view is what is seen of one exchange.
type view struct {
	host         string       // that is served; "": none
	class        meters.Class // "": the proxy's own
	id           string       // of the request
	names        [2]string    // traceparent and X-Request-Id, as applications get them
	begun        bool         // the trace begins here
	timing       bool         // the visitor is told of times
	asked        bool
	upstreamTook time.Duration
	waiting      atomic.Bool // for its service

	prev, next *exchange // of live
}

// see begins to look at an exchange.
func (x *exchange) see() {
	x.w.exchange = x
	x.identify()
	x.s.sight.live.add(x) // what is set by now may be read by others
}

// seen ends it: the request is over, whatever became of it.
func (x *exchange) seen() {
	v := &x.s.sight
	v.live.remove(x)
	took := time.Since(x.start)
	status := x.w.status
	if status == 0 {
		status = http.StatusOK
	}
	class := x.class
	switch {
	case status == http.StatusSwitchingProtocols:
		class = meters.Websocket
	case class == "":
		class = meters.Own
	}
	var in int64
	if x.body != nil {
		in = x.body.read.Load()
	}
	v.meters.Done(meters.Request{
		Host: x.host, Class: class, Status: status, Took: took, Asked: x.asked, UpstreamTook: x.upstreamTook,
		Held: x.held, In: in, Out: x.w.bytes.Load(),
	})
	if v.slow > 0 && took > v.slow && class != meters.Websocket {
		x.slowness(took, status)
	}
	if len(v.logs) == 0 {
		return
	}
	e := accesslog.Entry{
		Time: x.start, Client: x.client.addr, Method: x.r.Method, Host: x.r.Host, Path: x.r.URL.Path, Proto: x.r.Proto,
		Status: status, Bytes: x.w.bytes.Load(), Took: took,
		Upstream: x.upstream, UpstreamTook: x.upstreamTook, Held: x.held,
		Agent: x.r.Header.Get("User-Agent"), Referer: x.r.Header.Get("Referer"), Trace: x.trace(), Request: x.id, Note: x.note,
	}
	for _, l := range v.logs {
		l.Add(&e)
	}
}

// slowness tells of a request that took long, unless it was the visitor who
// did: a film takes as long as it takes.
func (x *exchange) slowness(took time.Duration, status int) {
	v := &x.s.sight
	ours := took - x.w.pace.spent
	if x.body != nil {
		ours -= x.body.pace.spent // nobody reads it any more
	}
	if ours <= v.slow || strings.HasPrefix(x.w.Header().Get("Content-Type"), "text/event-stream") {
		return
	}
	v.meters.Slow()
	unsaid, say := v.slowTold.now()
	if !say {
		return
	}
	x.s.logger.Warn("a slow request", "host", x.r.Host, "method", x.r.Method, "path", accesslog.RedactPath(x.r.URL.Path), "status", status,
		"took", took, "upstream", x.upstream, "upstream took", x.upstreamTook, "held", x.held,
		"visitor took", took-ours, "request", x.id, "trace", x.trace(), "others unsaid", unsaid)
}

// stamp completes the head of an answer.
func (x *exchange) stamp(h http.Header, status int) {
	if status >= http.StatusBadRequest && x.id != "" && h["X-Request-Id"] == nil {
		h["X-Request-Id"] = []string{x.id} // to be quoted by who asks for help
	}
	if x.timing {
		h["Server-Timing"] = append(h["Server-Timing"], x.timings())
	}
}

// timings in milliseconds: Server-Timing, section 3.
func (x *exchange) timings() string {
	b := make([]byte, 0, 48)
	b = append(b, "held;dur="...)
	b = strconv.AppendFloat(b, float64(x.held.Microseconds())/1000, 'f', 1, 64)
	if x.asked {
		b = append(b, ", upstream;dur="...)
		b = strconv.AppendFloat(b, float64(x.upstreamTook.Microseconds())/1000, 'f', 1, 64)
	}
	return string(b)
}

// ask begins an attempt at an upstream.
func (x *exchange) ask() (began time.Time) {
	x.asked = true
	return time.Now()
}

// answered ends it, with an answer or without.
func (x *exchange) answered(began time.Time) { x.upstreamTook += time.Since(began) }

// upstreamFailed counts an attempt that failed, whatever comes of the request.
func (x *exchange) upstreamFailed(err error) {
	kind := meters.Broken
	switch {
	case notReached(err):
		kind = meters.Refused
	case isTimeout(err):
		kind = meters.Late
	}
	x.s.sight.meters.Failed(x.host, kind)
}

// greeted counts a handshake.
func (s *server) greeted(c tls.ConnectionState) error {
	s.sight.meters.Handshake(c.Version)
	return nil
}
