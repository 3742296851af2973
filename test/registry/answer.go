package registry

import (
	"net/http"
	"time"
)

// answer counts what is sent and lets the request's fault act on the content.
// It hides the writer's other methods on purpose: sendfile would pass by Write.
type answer struct {
	http.ResponseWriter
	request *http.Request
	fault   *Fault
	faulty  bool // content follows, not an error page: the fault may act on it
	status  int
	sent    int64
	began   time.Time
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Write sends content, in pieces that end where the fault is to act.
func (a *answer) Write(p []byte) (int, error) {
	if a.fault == nil || !a.faulty {
		n, err := a.ResponseWriter.Write(p)
		a.sent += int64(n)
		return n, err
	}
	if a.fault.CutAfter < 0 {
		a.cut()
	}
	written := 0
	for len(p) > 0 {
		piece := p
		for _, mark := range []int64{a.fault.CutAfter, a.fault.StallAfter} {
			if left := mark - a.sent; mark > 0 && left < int64(len(piece)) {
				piece = piece[:max(left, 0)]
			}
		}
		if rate := a.fault.Rate; rate > 0 {
			// Ten pieces a second are smooth enough to look like a slow line.
			piece = piece[:min(int64(len(piece)), max(rate/10, 1))]
		}
		if a.fault.Corrupt && a.sent == 0 && len(piece) > 0 {
			piece = append([]byte{^piece[0]}, piece[1:]...)
		}
		n, err := a.ResponseWriter.Write(piece)
		a.sent += int64(n)
		written += n
		p = p[n:]
		if err != nil {
			return written, err
		}
		if !a.act() {
			return written, a.request.Context().Err()
		}
	}
	return written, nil
}

// act does what the fault does at this point of the content; false: the client
// has left.
func (a *answer) act() bool {
	if a.began.IsZero() {
		a.began = time.Now()
	}
	switch fault := a.fault; {
	case fault.CutAfter > 0 && a.sent >= fault.CutAfter:
		a.cut()
	case fault.StallAfter > 0 && a.sent >= fault.StallAfter:
		_ = http.NewResponseController(a.ResponseWriter).Flush()
		fault.reached()
		<-a.request.Context().Done()
		return false
	case fault.Rate > 0:
		_ = http.NewResponseController(a.ResponseWriter).Flush()
		due := a.began.Add(time.Duration(float64(a.sent) / float64(fault.Rate) * float64(time.Second)))
		return pause(a.request.Context(), time.Until(due))
	}
	return true
}

// cut closes the connection without an end of the body. What was sent before
// arrives.
func (a *answer) cut() {
	_ = http.NewResponseController(a.ResponseWriter).Flush()
	a.fault.reached()
	panic(http.ErrAbortHandler)
}
