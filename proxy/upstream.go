package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// upstreams are the two ways of speaking to an application server.
type upstreams struct {
	// kept reuses connections, for requests that may be sent twice: an
	// application server that closes a kept connection without a word makes
	// the first attempt fail.
	kept *direct
	// single opens a connection for each request that must not be repeated.
	// With kept ones, up to a quarter of the POSTs to such a server fail.
	single *http.Transport
}

func newUpstreams(l Limits) *upstreams {
	dialer := net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	const maxHead = 256 << 10
	return &upstreams{
		kept: &direct{
			dial: dialer.DialContext, head: l.Upstream, max: maxHead,
			idleTime: 30 * time.Second, perHost: 256, idle: map[string][]*directConn{},
		},
		single: &http.Transport{
			DialContext:            dialer.DialContext,
			DisableKeepAlives:      true,
			DisableCompression:     true, // the client's wish passes as it is
			ResponseHeaderTimeout:  l.Upstream,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxHead,
			Protocols:              protocols,
		},
	}
}

func (u *upstreams) of(repeatable bool) http.RoundTripper {
	if repeatable {
		return u.kept
	}
	return u.single
}

func (u *upstreams) close() {
	u.kept.close()
	u.single.CloseIdleConnections()
}

// isRepeatable: RFC 9110 section 9.2.2, and nothing to send again.
func isRepeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return r.ContentLength == 0 && len(r.TransferEncoding) == 0
	}
	return false
}

// notReached says that an upstream got nothing of a request.
func notReached(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !errors.Is(err, context.Canceled)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// buffers serves the copies of answers.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{pool: sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
}

// Get serves httputil.BufferPool.
func (b *buffers) Get() []byte {
	buf, _ := b.pool.Get().(*[]byte) // New makes nothing else
	return *buf
}

// Put serves httputil.BufferPool.
func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }
