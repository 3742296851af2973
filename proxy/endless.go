package proxy

import (
	"io"
	"mime"
	"net/http"
	"sync/atomic"
)

// endless is an answer that does not end by itself: a websocket or a stream of
// events. A drain has to end it.
type endless interface {
	// leave ends it as its protocol wants it, soon. It may be called more
	// than once and does not wait for the client.
	leave()
}

func leaveAll(all []endless) {
	for _, e := range all {
		go e.leave() // a client that does not read may hold up its own
	}
}

// eventStream is the body of an answer of server-sent events. A browser that
// sees its end asks again, and waits then as any other request.
type eventStream struct {
	io.ReadCloser
	gate  *gate
	ended atomic.Bool
}

// follow makes the body of an endless answer one that a drain can end.
func (g *gate) follow(answer *http.Response) error {
	if answer.ContentLength >= 0 {
		return nil
	}
	kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if err != nil || kind != "text/event-stream" {
		return nil
	}
	e := &eventStream{ReadCloser: answer.Body, gate: g}
	answer.Body = e
	if g.begin(e) {
		e.leave() // a drain came first
	}
	return nil
}

func (e *eventStream) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && e.ended.Load() {
		err = io.EOF
	}
	return n, err
}

func (e *eventStream) leave() {
	if !e.ended.Swap(true) {
		_ = e.ReadCloser.Close() // it ends the read under way
	}
}

func (e *eventStream) Close() error {
	e.gate.forget(e)
	return e.ReadCloser.Close()
}
