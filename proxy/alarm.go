package proxy

import (
	"net/http"
	"sync"
	"time"
)

// alarm is the deadline of a read or a write. For HTTP/2, net/http sends a
// message to the connection's goroutine for each that is set, and another for
// each that is taken back: there a timer of our own sets one only when the
// time is really over.
type alarm struct {
	set   func(time.Time) error
	timed bool // by our own timer

	mu    sync.Mutex
	timer *time.Timer
	due   time.Time // zero: not armed
}

// newAlarm makes an alarm of a request. A connection that knows no deadlines
// has none to outlive either: errors of set do not matter.
func newAlarm(r *http.Request, set func(time.Time) error) alarm {
	return alarm{set: set, timed: r.ProtoMajor == 2}
}

// arm begins a read or write that may take so long.
func (a *alarm) arm(now time.Time, patience time.Duration) {
	if !a.timed {
		_ = a.set(now.Add(patience)) // see newAlarm
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due = now.Add(patience)
	if a.timer == nil {
		a.timer = time.AfterFunc(patience, a.ring)
	} else {
		a.timer.Reset(patience)
	}
}

// disarm ends it.
func (a *alarm) disarm() {
	if !a.timed {
		_ = a.set(time.Time{}) // see newAlarm
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due = time.Time{}
	a.timer.Stop()
}

// ring holds the lock, so that nothing is set after disarm, when the handler
// may have returned.
func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	// It may be late, and another read or write under way.
	if !a.due.IsZero() && !time.Now().Before(a.due) {
		_ = a.set(time.Unix(1, 0)) // see newAlarm
	}
}
