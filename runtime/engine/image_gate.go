package engine

import (
	"context"
	"fmt"
	"sync"
)

// gate lets work in until it is closed; then it cancels what is inside and
// waits for its end. The databases below must not close under a pull. Its zero
// value is open.
type gate struct {
	mu     sync.Mutex
	closed bool
	inside map[*context.CancelCauseFunc]bool
	left   sync.WaitGroup
}

// enter returns a context that ends, with the cause ErrClosed, when the gate
// closes. leave must be called when the work is done.
func (g *gate) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, nil, ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if g.inside == nil {
		g.inside = map[*context.CancelCauseFunc]bool{}
	}
	g.inside[&cancel] = true
	g.left.Add(1)
	return ctx, func() {
		g.mu.Lock()
		delete(g.inside, &cancel)
		g.mu.Unlock()
		cancel(nil)
		g.left.Done()
	}, nil
}

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	for cancel := range g.inside {
		(*cancel)(ErrClosed)
	}
	g.mu.Unlock()
	g.left.Wait()
}

// through runs work inside the gate. Work that the gate's closing ended fails
// with ErrClosed.
func through[T any](ctx context.Context, g *gate, work func(context.Context) (T, error)) (T, error) {
	ctx, leave, err := g.enter(ctx)
	if err != nil {
		var none T
		return none, err
	}
	defer leave()
	result, err := work(ctx)
	if err != nil && context.Cause(ctx) == ErrClosed { //nolint:errorlint // the very value that close gives
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return result, err
}
