package main

import (
	"context"
	"strings"
	"unicode"

	"tarima/proxy/routes"
	"tarima/supervisor/control"
)

// Requests implements control.Backend.
func (a *appliance) Requests(ctx context.Context) (routes.Requests, error) {
	r, err := a.router.Requests(ctx)
	if err != nil {
		return r, control.Conflict("%v", err)
	}
	return believable(r), nil
}

// believable bounds what the proxy tells: it faces the internet and may be in
// other hands.
func believable(r routes.Requests) routes.Requests {
	r.Requests = r.Requests[:min(len(r.Requests), routes.MaxRequests)]
	r.InFlight = max(r.InFlight, len(r.Requests))
	r.Held = min(max(r.Held, 0), r.InFlight)
	if r.Requests == nil {
		r.Requests = []routes.Request{}
	}
	for i := range r.Requests {
		q := &r.Requests[i]
		q.ID, q.Client, q.Method = printable(q.ID, 128), printable(q.Client, 64), printable(q.Method, 16)
		q.Host, q.Path, q.Proto = printable(q.Host, 256), printable(q.Path, 2048), printable(q.Proto, 16)
		q.Age, q.Received, q.Sent = max(q.Age, 0), max(q.Received, 0), max(q.Sent, 0)
		switch q.State {
		case routes.RequestReading, routes.RequestHeld, routes.RequestWaiting, routes.RequestSending, routes.RequestOpen:
		default:
			q.State = routes.RequestWaiting
		}
	}
	return r
}

// printable cuts a text to at most limit bytes and takes from it what a
// terminal would not show as itself.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
