package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// restInput is a site of n services at rest.
func restInput(n int) Input {
	d := Desired{Site: "default"}
	for i := range n {
		var requires []string
		for k := range min(i, 3) {
			requires = append(requires, fmt.Sprintf("s%d", i-1-k))
		}
		d.Services = append(d.Services, svc(fmt.Sprintf("s%d", i), container.Applications, requires...))
	}
	in := Input{Now: epoch, Desired: prepared(d), Observed: map[string]container.Status{}}
	_, end := preview(in)
	return end
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{12, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			in := restInput(n)
			if steps := Plan(in).Steps; len(steps) != 0 {
				b.Fatalf("not at rest: %+v", steps)
			}
			b.ReportAllocs()
			for b.Loop() {
				Plan(in)
			}
		})
	}
}

// liveRig runs a supervisor of n services in real time over the fake engine.
func liveRig(b *testing.B, n int) (*Supervisor, *fakeEngine, Desired, func()) {
	b.Helper()
	engine := newFakeEngine()
	s, d, stop := liveSupervisor(b, engine, newFakeStore(), n)
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if err := s.Wait(ctx, OverallReady); err != nil {
		b.Fatal(err)
	}
	return s, engine, d, stop
}

func liveSupervisor(b *testing.B, engine *fakeEngine, store *fakeStore, n int) (*Supervisor, Desired, func()) {
	b.Helper()
	s, err := New(Config{
		Site: "default", Engine: engine, Network: &fakeNetwork{attached: map[string]int{}}, Store: store,
		Router: &fakeRouter{drains: true}, Logger: slog.New(slog.DiscardHandler), Prefix4: prefix4,
		// Every kill in a row is to be answered at once, not backed off from.
		Policy: Policy{Base: time.Nanosecond, Cap: time.Nanosecond, FailingAfter: 1 << 30},
	})
	if err != nil {
		b.Fatal(err)
	}
	s.ask = engine.answer
	d := Desired{Site: "default"}
	for i := range n {
		d.Services = append(d.Services, svc(fmt.Sprintf("s%d", i), container.Applications))
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if err := s.Apply(ctx, d, record.Applied{Generation: 1}); err != nil {
		b.Fatal(err)
	}
	return s, d, func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}

// BenchmarkExitToRestart measures from the engine's exit event to the call that
// starts the container again.
func BenchmarkExitToRestart(b *testing.B) {
	_, engine, _, stop := liveRig(b, 12)
	defer stop()
	started := make(chan time.Time, 1)
	engine.mu.Lock()
	engine.check = func(string) string { started <- time.Now(); return "" }
	engine.mu.Unlock()
	var took []time.Duration
	for b.Loop() {
		at := time.Now()
		engine.kill("s7")
		took = append(took, (<-started).Sub(at))
		for engine.running()["s7"] == 0 {
			pause := time.NewTimer(100 * time.Microsecond)
			<-pause.C
		}
		pause := time.NewTimer(time.Millisecond) // the start's own end is taken in
		<-pause.C
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}

// BenchmarkAdoption measures from Run to a site that is known to be ready, over
// ten containers that run already.
func BenchmarkAdoption(b *testing.B) {
	engine, store := newFakeEngine(), newFakeStore()
	s, _, stop := liveSupervisor(b, engine, store, 10)
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if err := s.Wait(ctx, OverallReady); err != nil {
		b.Fatal(err)
	}
	stop()
	for b.Loop() {
		s, _, stop := liveSupervisor(b, engine, store, 10)
		if err := s.Wait(ctx, OverallReady); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		stop()
		b.StartTimer()
	}
}
