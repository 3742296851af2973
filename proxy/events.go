package proxy

import (
	"context"
	"sync"
	"time"

	"tarima/proxy/routes"
)

// A supervisor that knows no event yet hears of the last ones only: who wanted
// a service an hour ago waits no longer, and drains are told again when their
// snapshot is put again.
const freshEvents = time.Minute

// Events kept for a supervisor that comes back after a while.
const keptEvents = 1024

// eventLog numbers events and keeps the last ones.
type eventLog struct {
	mu     sync.Mutex
	kept   []routes.Event
	seq    uint64
	grown  chan struct{} // closed by the next event
	closed bool
}

func newEventLog() *eventLog { return &eventLog{grown: make(chan struct{})} }

func (l *eventLog) add(e routes.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.seq++
	e.Seq, e.At = l.seq, time.Now().UTC()
	if len(l.kept) == keptEvents {
		l.kept = append(l.kept[:0:0], l.kept[keptEvents/2:]...)
	}
	l.kept = append(l.kept, e)
	close(l.grown)
	l.grown = make(chan struct{})
}

// after returns the events later than seq, waiting for one as long as there
// is none and ctx lasts. open is false when there will never be another.
func (l *eventLog) after(ctx context.Context, seq uint64) (news []routes.Event, open bool) {
	for {
		l.mu.Lock()
		grown, closed := l.grown, l.closed
		for i, e := range l.kept {
			if e.Seq > seq && (seq > 0 || time.Since(e.At) < freshEvents) {
				news = append(news, l.kept[i:]...)
				break
			}
		}
		l.mu.Unlock()
		if len(news) > 0 {
			return news, true
		}
		if closed {
			return nil, false
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, true
		}
	}
}

func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.grown)
	}
}
