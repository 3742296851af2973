package engine

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarima/runtime/container"
)

// benchSpec is a container as the supervisor starts them: user namespace,
// limits, system call filter, read-only root.
func benchSpec(name string) container.Spec {
	spec := shell(name, "exec sleep 3600")
	spec.IDBase = idBase
	spec.ReadOnlyRoot = true
	spec.Limits = container.Limits{MemoryMax: 256 << 20, Pids: 100, CPUWeight: 100}
	return spec
}

// median reports the middle and the 99th percentile of times as metrics.
func median(b *testing.B, times []time.Duration, what string) {
	b.Helper()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms/"+what)
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "ms-p99/"+what)
}

// BenchmarkStart measures from the call of Start to the running program, with
// another container in the group, as always but for the first.
func BenchmarkStart(b *testing.B) {
	for _, c := range []struct {
		name string
		base uint32
	}{{"userns", idBase}, {"plain", 0}} {
		b.Run(c.name, func(b *testing.B) {
			e := newEngine(b)
			mustStart(b, e, benchSpec("first"))
			var times []time.Duration
			for b.Loop() {
				spec := benchSpec("started")
				spec.IDBase = c.base
				begin := time.Now()
				mustStart(b, e, spec)
				times = append(times, time.Since(begin))
				b.StopTimer()
				if err := e.Stop(b.Context(), spec.ID(), "SIGKILL", deadline); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			median(b, times, "start")
		})
	}
}

// BenchmarkExitEvent measures from the kill of a main process to the event.
func BenchmarkExitEvent(b *testing.B) {
	e := newEngine(b)
	mustStart(b, e, benchSpec("first"))
	events := e.Events(b.Context())
	var times []time.Duration
	for b.Loop() {
		b.StopTimer()
		status := mustStart(b, e, benchSpec("ending"))
		b.StartTimer()
		begin := time.Now()
		if err := unix.Kill(status.PID, unix.SIGKILL); err != nil {
			b.Fatal(err)
		}
		<-events
		times = append(times, time.Since(begin))
	}
	median(b, times, "event")
}

// BenchmarkAdopt measures Open with ten containers running: until they are
// listed.
func BenchmarkAdopt(b *testing.B) {
	cfg := testConfig(b)
	// Engines of this process that were closed still see their shims end.
	cfg.Logger = slog.New(slog.DiscardHandler)
	e, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	loadTestImage(b, e)
	for i := range 10 {
		mustStart(b, e, benchSpec(fmt.Sprintf("c%d", i)))
	}
	var times []time.Duration
	for b.Loop() {
		b.StopTimer()
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		begin := time.Now()
		if e, err = Open(b.Context(), cfg); err != nil {
			b.Fatal(err)
		}
		list, err := e.List(b.Context(), "test")
		if err != nil || len(list) != 10 {
			b.Fatalf("%d containers, %v", len(list), err)
		}
		times = append(times, time.Since(begin))
	}
	b.StopTimer()
	median(b, times, "adopt")
	emptyEngine(b, e)
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkLog measures the way of a line from a container's output into its
// file.
func BenchmarkLog(b *testing.B) {
	e := newEngine(b)
	const lines = 500_000
	for b.Loop() {
		begin := time.Now()
		spec := benchSpec("flood")
		spec.Entrypoint = []string{"/bin/sh", "-c", fmt.Sprintf("exec seq 1 %d", lines)}
		mustStart(b, e, spec)
		waitState(b, e, spec.ID(), container.Exited)
		b.ReportMetric(lines/time.Since(begin).Seconds(), "lines/s")
	}
}
