package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// newTransport makes connections to registries. Proxies come from the
// environment as it is now: the standard library's own function would keep the
// values that it saw first in this process.
func newTransport() *http.Transport {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &http.Transport{
		Proxy:                 func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   4,
		ForceAttemptHTTP2:     true,
	}
}

// patient is a round tripper that repeats a request while the registry is
// overloaded, failing or out of reach, and that takes a connection for cut when
// it brings nothing for a while.
type patient struct {
	base     http.RoundTripper
	attempts int
	backoff  time.Duration
	maxWait  time.Duration
	stall    time.Duration
	logger   *slog.Logger
}

// RoundTrip implements [http.RoundTripper]. What a registry answers with 429 or
// 5xx to the last attempt comes back as a *statusError and not as an answer:
// the resolver above would ask again at once.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		resp, err := p.once(r)
		if err == nil && !overloaded(resp.StatusCode) {
			return resp, nil
		}
		if ctxErr := r.Context().Err(); ctxErr != nil {
			if err == nil {
				_ = resp.Body.Close()
			}
			return nil, ctxErr
		}
		wait := backoff(attempt, p.backoff, p.maxWait)
		if err == nil {
			final := &statusError{status: resp.StatusCode, host: r.URL.Host, attempts: attempt}
			final.retryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
			_ = resp.Body.Close() // its text adds nothing to the status
			wait = max(wait, final.retryAfter)
			err = final
		} else {
			err = &connectionError{host: r.URL.Host, attempts: attempt, cause: err}
		}
		if attempt >= p.attempts || hopeless(err) || wait > p.maxWait || !repeatable(r) {
			return nil, err
		}
		p.logger.Warn("registry does not deliver, trying again",
			"host", r.URL.Host, "attempt", attempt, "of", p.attempts, "wait", wait, "error", redact(err.Error()))
		if err := sleep(r.Context(), wait); err != nil {
			return nil, err
		}
	}
}

func (p *patient) once(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	request := r.Clone(ctx)
	if r.Body != nil && r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			cancel()
			return nil, err
		}
		request.Body = body
	}
	resp, err := p.base.RoundTrip(request)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = newWatched(r, resp.Body, cancel, p.stall, p.logger)
	return resp, nil
}

// repeatable says whether the request's body, if it has one, can be sent again.
func repeatable(r *http.Request) bool {
	return r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
}

// overloaded are the statuses that may go away by waiting.
func overloaded(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// backoff is the wait after the attempt, counted from 1: the first wait,
// doubled each time, up to the longest, and up to a fifth less or more so that
// layers that failed together do not come back together.
func backoff(attempt int, first, longest time.Duration) time.Duration {
	wait := first
	for range attempt - 1 {
		if wait >= longest {
			break
		}
		wait *= 2
	}
	wait = min(wait, longest)
	spread := int64(wait / 5)
	if spread > 0 {
		wait += time.Duration(rand.Int64N(2*spread+1) - spread)
	}
	return min(wait, longest)
}

// retryAfter reads the header of that name: seconds or a date (RFC 9110,
// section 10.2.3). What cannot be read, or has passed, is 0.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watched is an answer's body that gives every kind of cut the same error,
// io.ErrUnexpectedEOF: at that one, and at no other, the resolver's reader
// connects again and goes on where it was.
type watched struct {
	request *http.Request
	body    io.ReadCloser
	cancel  context.CancelFunc
	timer   *time.Timer
	stall   time.Duration
	stalled atomic.Bool
	logger  *slog.Logger
}

func newWatched(r *http.Request, body io.ReadCloser, cancel context.CancelFunc, stall time.Duration, logger *slog.Logger) *watched {
	w := &watched{request: r, body: body, cancel: cancel, stall: stall, logger: logger}
	w.timer = time.AfterFunc(stall, func() { w.stalled.Store(true); cancel() })
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	// Only the wait for the network counts: a slow disk between two reads is
	// not the registry's fault.
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	w.timer.Stop()
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if ctxErr := w.request.Context().Err(); ctxErr != nil {
		return n, ctxErr
	}
	reason := redact(err.Error())
	if w.stalled.Load() {
		reason = "nothing came for " + w.stall.String()
	}
	w.logger.Warn("connection to registry broke off, going on where it was", "host", w.request.URL.Host, "reason", reason)
	return n, io.ErrUnexpectedEOF
}

func (w *watched) Close() error {
	w.timer.Stop()
	err := w.body.Close()
	w.cancel()
	return err
}
