package proxy

import (
	"mime"
	"net/http"
	"strings"
	"sync"
)

// stay is a request's place at an upstream, which it leaves once.
type stay struct {
	s    *server
	d    destination
	once sync.Once
}

// leave gives the place back: the upstream has done its part, whatever the
// client still has to read.
func (st *stay) leave() {
	st.once.Do(func() {
		st.s.board.leave(st.d.gate)
		if st.d.several != nil {
			st.s.fleet.done(st.d.upstream)
		}
	})
}

// receive looks at the head of an upstream's answer, and takes the rest of it
// off the upstream's hands if the client turns out to be slow.
func (st *stay) receive(resp *http.Response) error {
	if st.d.several != nil {
		st.s.fleet.worked(st.d.upstream)
	}
	if st.d.rule != nil && st.d.rule.Stream || !hasEnd(resp) {
		return st.s.gateOf(st.d).follow(resp)
	}
	resp.Body = st.s.spools.wrap(resp.Body, st.leave)
	return nil
}

// hasEnd says whether an answer is worth to be kept: it has a known end, more
// than a little, and nobody asked for it piece by piece. An upstream may say
// the last with X-Accel-Buffering, as to nginx.
func hasEnd(resp *http.Response) bool {
	if resp.ContentLength <= smallAnswer || resp.Body == http.NoBody || resp.StatusCode < 200 {
		return false
	}
	if strings.EqualFold(resp.Header.Get("X-Accel-Buffering"), "no") {
		return false
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err != nil || kind != "text/event-stream" && kind != "multipart/x-mixed-replace"
}
