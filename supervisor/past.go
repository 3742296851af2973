package supervisor

import (
	"fmt"
	"time"

	"tarima/store/record"
)

// past is what the store's events tell of a service's life before this daemon.
type past struct {
	history History
	ready   bool      // it was ready when the last event was written
	lastEnd time.Time // the last end that was written down
}

// pastEvents is how far back the events of one service are read.
const pastEvents = 1000

// readPast rebuilds a service's history from its events.
func readPast(store Store, site, name string, p Policy) (past, error) {
	events, err := store.ServiceEvents(site, name, pastEvents)
	if err != nil {
		return past{}, fmt.Errorf("read the history of %s: %w", name, err)
	}
	var out past
	h := &out.history
	for i := len(events) - 1; i >= 0; i-- { // oldest first
		e := events[i]
		switch e.Kind {
		case record.Started, record.Restarted:
			if e.Kind == record.Restarted {
				h.Restarts++
			}
			h.StartedAt, h.Crashed, out.ready = e.At, false, false
		case record.ProbePassed:
			out.ready = true
		case record.ProbeFailed:
			out.ready = false
		case record.ExitedEvent, record.StartFailed:
			restarts, why := h.Restarts, recalled(e.Reason, e.ExitCode)
			*h = p.Failed(name, *h, e.At, why)
			h.Restarts, h.ExitCode, h.LogTail = restarts, e.ExitCode, e.LogTail
			out.ready, out.lastEnd = false, e.At
		case record.Recovered:
			*h = h.forgive()
		case record.Stopped:
			*h = h.forgive()
			h.EndedAt = e.At
			out.ready, out.lastEnd = false, e.At
		}
	}
	return out, nil
}
