package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// settle is how long containers idle before memory is measured: long enough
// for a Go program's heap to be collected and given back in part.
const settle = 40 * time.Second

const mib = 1 << 20

// memory compares everything that is not a container, with the same idle
// containers on both sides at the same time.
func (b *bench) memory(ctx context.Context) error {
	for _, count := range []int{10, 30} {
		if err := b.memoryOf(ctx, count); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) memoryOf(ctx context.Context, count int) (err error) {
	desired := filepath.Join(b.root, "desired.json")
	if err := writeIdle(desired, count); err != nil {
		return err
	}
	a, err := b.appliance(fmt.Sprint("m", count), "-archive", b.archive, "-desired", desired)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop(), b.peer.clear(context.WithoutCancel(ctx))) }()
	if _, err := a.collect(time.Minute, "started", count); err != nil {
		return err
	}
	if err := b.peer.idle(ctx, count); err != nil {
		return err
	}
	var both pairs
	var detail string
	for range 5 {
		if err := pause(ctx, settle/4); err != nil {
			return err
		}
		ours, err := a.processes()
		if err != nil {
			return err
		}
		theirs, err := b.peer.processes()
		if err != nil {
			return err
		}
		our, err := total(ours)
		if err != nil {
			return err
		}
		their, err := total(theirs)
		if err != nil {
			return err
		}
		both.add(our/mib, their/mib)
		detail = fmt.Sprintf("%d processes of ours, %d of the peer's", len(ours), len(theirs))
		for _, p := range ours {
			one, err := pss(p.pid)
			if err != nil {
				return err
			}
			detail += fmt.Sprintf("; %s %s MiB", filepath.Base(strings.SplitN(p.line, "\x00", 2)[0]), number(one/mib))
		}
	}
	f := both.figure(fmt.Sprintf("memory, %d idle containers", count), "MiB PSS", "dockerd+containerd+shims")
	if count == 10 {
		f = f.ratioAtMost(0.35)
	}
	f.Note = detail + "; supervisor, engine and network as in the daemon, around busybox containers"
	b.add(f)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
