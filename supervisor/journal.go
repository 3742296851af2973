package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"tarima/store/record"
)

// journalMost bounds the events that wait for a store that does not take them.
const journalMost = 2000

// journal writes events to the store in their order, on a goroutine of its
// own: a disk that stalls must not stall the loop.
type journal struct {
	site   string
	engine Engine
	store  Store
	log    *slog.Logger

	mu      sync.Mutex
	queue   []entry
	dropped int // events lost and not yet written down as such
	pushed  int // events ever pushed off the front
	poke    chan struct{}
	grown   chan struct{} // closed and made anew after each event that was stored
	trouble func(string)  // told "" when the store takes events again
}

// entry is an event before it is stored. With tailOf the last lines of that
// container's log are added; then gets the event as stored.
type entry struct {
	event  record.Event
	tailOf string
	then   func(record.Event)
}

const tailLines = 20

func newJournal(cfg Config, log *slog.Logger) *journal {
	return &journal{
		site: cfg.Site, engine: cfg.Engine, store: cfg.Store, log: log,
		poke: make(chan struct{}, 1), grown: make(chan struct{}), trouble: func(string) {},
	}
}

// add queues an event. It never blocks.
func (j *journal) add(e entry) {
	j.mu.Lock()
	if len(j.queue) >= journalMost {
		j.queue = j.queue[1:]
		j.dropped++
		j.pushed++
	}
	j.queue = append(j.queue, e)
	j.mu.Unlock()
	select {
	case j.poke <- struct{}{}:
	default:
	}
}

// run stores events until ctx ends, and then those that wait already, once.
func (j *journal) run(ctx context.Context) {
	wait := time.Duration(0)
	for {
		if wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		} else {
			select {
			case <-ctx.Done():
			case <-j.poke:
			}
		}
		err := j.flush()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			j.trouble(fmt.Sprintf("store: events cannot be written: %v", err))
			wait = min(max(2*wait, time.Second), 30*time.Second)
		case wait > 0:
			j.trouble("")
			wait = 0
		}
	}
}

// flush stores what is queued; an event that cannot be stored stays in front.
func (j *journal) flush() error {
	for {
		j.mu.Lock()
		if len(j.queue) == 0 {
			j.mu.Unlock()
			return nil
		}
		e := j.queue[0]
		dropped, pushed := j.dropped, j.pushed
		j.mu.Unlock()

		if e.tailOf != "" && e.event.LogTail == nil {
			e.event.LogTail = j.engine.LogTail(e.tailOf, tailLines)
		}
		if dropped > 0 {
			lost := record.Event{At: e.event.At, Kind: record.Trouble, Reason: fmt.Sprintf("%d events were lost while the store took none", dropped)}
			if _, err := j.store.AppendEvent(j.site, lost); err != nil {
				return fmt.Errorf("append an event: %w", err)
			}
			j.mu.Lock()
			j.dropped -= dropped
			j.mu.Unlock()
		}
		stored, err := j.store.AppendEvent(j.site, e.event)
		if err != nil {
			return fmt.Errorf("append an event: %w", err)
		}
		j.mu.Lock()
		// The queue may have dropped this very event from its front meanwhile.
		if j.pushed == pushed {
			j.queue = j.queue[1:]
		} else {
			j.dropped--
		}
		close(j.grown)
		j.grown = make(chan struct{})
		j.mu.Unlock()
		attrs := []any{"kind", stored.Kind, "service", stored.Service, "reason", stored.Reason}
		if stored.ExitCode != nil {
			attrs = append(attrs, "exitCode", *stored.ExitCode)
		}
		j.log.Info("event", attrs...)
		if e.then != nil {
			e.then(stored)
		}
	}
}

// more is closed when another event has been stored.
func (j *journal) more() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.grown
}

// tell journals an event of a service.
func (s *Supervisor) tell(kind record.EventKind, service, reason string, at time.Time) {
	s.journal.add(entry{event: record.Event{At: at, Kind: kind, Service: service, Reason: reason}})
}

// Subscribe delivers every event with a sequence number above after, in order,
// until ctx ends. A slow reader loses none: it reads on from the store.
func (s *Supervisor) Subscribe(ctx context.Context, after uint64) <-chan record.Event {
	out := make(chan record.Event)
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			more := s.journal.more()
			events, err := s.cfg.Store.Events(s.cfg.Site, after, 100)
			if err != nil {
				select { // the store's trouble is reported by the journal
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
				continue
			}
			for _, e := range events {
				select {
				case out <- e:
					after = e.Seq
				case <-ctx.Done():
					return
				}
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-more:
			case <-ctx.Done():
			}
		}
	}()
	return out
}
