package engine

import (
	"context"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/typeurl/v2"

	"tarima/runtime/container"
)

// eventBuffer is how many events a slow consumer may be behind before its
// channel is closed; it then lists and asks again.
const eventBuffer = 1024

// Events delivers exits and memory kills until ctx ends or the engine is
// closed. The channel is closed early when the consumer falls too far behind
// or the engine lost the thread itself: list the containers and call again, in
// the other order (call, then list), and nothing is missed.
func (e *Engine) Events(ctx context.Context) <-chan container.Event {
	return e.events.subscribe(ctx)
}

// watch reads containerd's events from now on.
func (e *Engine) watch() error {
	ctx := e.contextFor(e.background)
	filters := []string{
		`topic=="` + runtime.TaskExitEventTopic + `",namespace==` + namespace,
		`topic=="` + runtime.TaskOOMEventTopic + `",namespace==` + namespace,
	}
	stream, failed := e.client.EventService().Subscribe(ctx, filters...)
	e.running.Go(func() {
		for {
			select {
			case envelope := <-stream:
				e.handle(envelope)
			case err := <-failed:
				if ctx.Err() != nil {
					return
				}
				// An external containerd was restarted. Whoever listens is told
				// by the end of the channel.
				e.log.Warn("containerd's events were cut; asking again", "error", err)
				e.events.drop()
				if !wait(ctx, time.Second) {
					return
				}
				stream, failed = e.client.EventService().Subscribe(ctx, filters...)
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// handle turns an event of containerd into ours.
func (e *Engine) handle(envelope *events.Envelope) {
	message, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		e.log.Warn("an event of containerd cannot be read", "topic", envelope.Topic, "error", err)
		return
	}
	switch event := message.(type) {
	case *eventsapi.TaskExit:
		if event.ID != event.ContainerID {
			return // a command run beside the main process
		}
		exit := e.seenExit(event)
		e.events.send(container.Event{Kind: container.EventExit, ID: event.ContainerID, PID: int(event.Pid), Exit: &exit, At: exit.At})
	case *eventsapi.TaskOOM:
		e.events.send(container.Event{Kind: container.EventOOM, ID: event.ContainerID, At: envelope.Timestamp})
	}
}

// seenExit completes an exit with the journal. One that no shim has journaled,
// because the shim itself was killed, is written down here. The news may come
// when the container has been removed or started anew: the journal is then of
// another run and gets nothing.
func (e *Engine) seenExit(event *eventsapi.TaskExit) container.Exit {
	id, at := event.ContainerID, event.ExitedAt.AsTime()
	plain := container.Exit{Code: int(event.ExitStatus), At: at}
	run, started := e.runOf(id)
	if run == "" || started.After(at) {
		return plain
	}
	entry := exitEntry{ID: id, Run: run, PID: int(event.Pid), Code: plain.Code, At: at}
	if err := writeMissingExit(e.exitFile(id), entry); err != nil {
		e.log.Warn("writing the exit journal", "container", id, "error", err)
	}
	exit := e.exitOf(id, run, plain.Code, at)
	if now, _ := e.runOf(id); now != run { // replaced between the two
		if left, err := readExit(e.exitFile(id)); err == nil && left.Run == run {
			if err := removeExit(e.exitFile(id)); err != nil {
				e.log.Warn("removing an entry of the exit journal", "container", id, "error", err)
			}
		}
	}
	return exit
}

// runOf is the present run of a container and when it began; "" when there is
// no such container.
func (e *Engine) runOf(id string) (run string, started time.Time) {
	c, err := e.client.ContainerService().Get(e.contextFor(e.background), id)
	if err != nil {
		return "", time.Time{}
	}
	record, err := recordOf(c)
	if err != nil {
		return "", time.Time{}
	}
	return record.Run, record.Started
}

// wait returns after d, or false when ctx has ended before.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// fanout hands each event to every subscriber.
type fanout struct {
	mu          sync.Mutex
	subscribers map[chan container.Event]struct{}
	closed      bool
}

func newFanout() *fanout { return &fanout{subscribers: map[chan container.Event]struct{}{}} }

func (f *fanout) subscribe(ctx context.Context) <-chan container.Event {
	ch := make(chan container.Event, eventBuffer)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || ctx.Err() != nil {
		close(ch)
		return ch
	}
	f.subscribers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.end(ch)
	})
	return ch
}

func (f *fanout) send(event container.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ch := range f.subscribers {
		select {
		case ch <- event:
		default:
			f.end(ch)
		}
	}
}

// drop ends every subscription.
func (f *fanout) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ch := range f.subscribers {
		f.end(ch)
	}
}

// end closes a channel once. f.mu is held.
func (f *fanout) end(ch chan container.Event) {
	if _, ok := f.subscribers[ch]; ok {
		delete(f.subscribers, ch)
		close(ch)
	}
}

func (f *fanout) close() {
	f.drop()
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
}
