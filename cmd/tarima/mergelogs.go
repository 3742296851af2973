package main

import (
	"context"
	"iter"
	"sync"

	"tarima/runtime/engine"
	"tarima/supervisor/control"
)

// openLog reads one service's log.
type openLog func(ctx context.Context, name string) iter.Seq2[engine.LogLine, error]

// mergeLogs reads several logs. Without follow their lines come in the order
// of their times; what follows comes as it is written.
func mergeLogs(ctx context.Context, names []string, follow bool, open openLog, emit func(control.LogLine) error) error {
	if follow {
		return followLogs(ctx, names, open, emit)
	}
	type reader struct {
		name string
		next func() (engine.LogLine, error, bool)
		head engine.LogLine
	}
	var readers []*reader
	for _, name := range names {
		next, stop := iter.Pull2(open(ctx, name))
		defer stop()
		readers = append(readers, &reader{name: name, next: next})
	}
	advance := func(r *reader) (bool, error) {
		line, err, ok := r.next()
		r.head = line
		return ok && err == nil, err
	}
	left := readers[:0]
	for _, r := range readers {
		more, err := advance(r)
		if err != nil {
			return err
		}
		if more {
			left = append(left, r)
		}
	}
	for len(left) > 0 {
		oldest := 0
		for i, r := range left {
			if r.head.Time.Before(left[oldest].head.Time) {
				oldest = i
			}
		}
		r := left[oldest]
		if err := emit(logLine(r.name, r.head)); err != nil {
			return err
		}
		more, err := advance(r)
		if err != nil {
			return err
		}
		if !more {
			left = append(left[:oldest], left[oldest+1:]...)
		}
	}
	return nil
}

func followLogs(ctx context.Context, names []string, open openLog, emit func(control.LogLine) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // emit is not made for several at once
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() {
			for line, err := range open(ctx, name) {
				if err == nil {
					mu.Lock()
					err = emit(logLine(name, line))
					mu.Unlock()
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

func logLine(service string, l engine.LogLine) control.LogLine {
	return control.LogLine{Service: service, At: l.Time, Stream: l.Stream, Text: l.Text}
}
