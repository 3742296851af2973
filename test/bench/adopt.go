package main

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"time"
)

const adoptRounds = 15

// adoption kills the daemon and measures from the start of the next one until
// it has taken over all containers.
func (b *bench) adoption(ctx context.Context) (err error) {
	const count = 10
	desired := filepath.Join(b.root, "desired.json")
	if err := writeIdle(desired, count); err != nil {
		return err
	}
	a, err := b.appliance("a", "-archive", b.archive, "-desired", desired)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	if _, err := a.collect(time.Minute, "started", count); err != nil {
		return err
	}
	var times, written samples
	for range adoptRounds {
		if err := a.kill(syscall.SIGKILL); err != nil {
			return err
		}
		next, err := startAppliance(filepath.Join(b.top, "bin", "bench-appliance"), a.root, "-desired", desired)
		if err != nil {
			return err
		}
		a = next
		adopted, err := a.collect(30*time.Second, "adopted", count)
		if err != nil {
			return err
		}
		var last, lastWritten int64
		for _, m := range adopted {
			last, lastWritten = max(last, m.At), max(lastWritten, m.Written)
		}
		times = append(times, float64(last-a.begun.UnixNano())/1e6)
		written = append(written, float64(lastWritten-a.begun.UnixNano())/1e6)
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	b.add(figure{
		Name: "adoption of 10 containers after kill -9", Value: times.median(), Unit: "ms", Spread: times.spread(),
		Note: "from the start of the process to the last container known to the supervisor; all of them on disk as history after " + number(written.median()) + " ms",
	}.atMost(100))
	return nil
}
