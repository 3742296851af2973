package store_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"tarima/store"
	"tarima/store/record"
	"tarima/store/storetest"
)

func benchmarked(b *testing.B) *store.Store {
	s := storetest.OpenIn(b, store.Config{Dir: b.TempDir(), CopyDelay: -1})
	for i := range 2000 {
		must[record.Event](b)(s.AppendEvent("default", record.Event{Kind: record.Started, Service: fmt.Sprint("s", i%10)}))
	}
	b.ResetTimer()
	return s
}

func BenchmarkAppendEvent(b *testing.B) {
	s := benchmarked(b)
	for b.Loop() {
		must[record.Event](b)(s.AppendEvent("default", record.Event{Kind: record.ProbeFailed, Service: "lms", Reason: "no answer within 5s"}))
	}
}

func BenchmarkSetApplied(b *testing.B) {
	s := benchmarked(b)
	file := make([]byte, 4000)
	for g := uint64(1); b.Loop(); g++ {
		check(b, s.SetApplied("default", record.Applied{Generation: g, SiteFile: file}))
	}
}

func BenchmarkSetAppliedUnchanged(b *testing.B) {
	s := benchmarked(b)
	for b.Loop() {
		check(b, s.SetApplied("default", record.Applied{Generation: 1, SiteFile: []byte("x")}))
	}
}

// BenchmarkOpen opens a store with a full history, as a daemon does when it
// starts: it checks every page and every record.
func BenchmarkOpen(b *testing.B) {
	config := store.Config{Dir: inMemory(b, "128m"), CopyDelay: -1, Logger: textLogger(io.Discard)}
	s := must[*store.Store](b)(store.Open(context.Background(), config))
	for i := range 20_000 {
		must[record.Event](b)(s.AppendEvent("default", record.Event{
			Kind: record.ProbeFailed, Service: fmt.Sprint("s", i%10), Reason: "no answer within 5s",
			LogTail: []string{"a line of the log", "and another one, a little longer"},
		}))
	}
	check(b, s.Close())
	for b.Loop() {
		s := must[*store.Store](b)(store.Open(context.Background(), config))
		check(b, s.Close())
	}
}
