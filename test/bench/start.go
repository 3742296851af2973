package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"tarima/runtime/container"
)

const startRounds = 25

// The peer gets the same limits and the same file system.
var dockerRun = []string{"run", "--detach", "--memory", "64m", "--pids-limit", "100", "--read-only"}

// starts compares the time from the wish for a container to its running
// process: ours with user namespace, network and limits, by a call of the
// engine within the daemon; the peer's by docker run -d on its default bridge.
func (b *bench) starts(ctx context.Context) (err error) {
	a, err := b.appliance("s", "-archive", b.archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop(), b.peer.clear(context.WithoutCancel(ctx))) }()
	// Another container of the group is there, as always but once.
	if _, err := a.start(placed("first", 2, 0)); err != nil {
		return err
	}
	if err := b.peer.idle(ctx, 1); err != nil {
		return err
	}
	var userns, plain pairs
	var bare samples
	for i := range startRounds {
		with, err := b.startOurs(a, 100_000_000)
		if err != nil {
			return err
		}
		without, err := b.startOurs(a, 0)
		if err != nil {
			return err
		}
		began := time.Now()
		name := fmt.Sprint("started", i)
		if _, err := b.peer.run(ctx, append(dockerRun, "--name", name, imageName)...); err != nil {
			return err
		}
		theirs := milliseconds(time.Since(began))
		if _, err := b.peer.run(ctx, "rm", "--force", name); err != nil {
			return err
		}
		began = time.Now()
		if _, err := b.peer.run(ctx, "version"); err != nil {
			return err
		}
		bare = append(bare, milliseconds(time.Since(began)))
		userns.add(with, theirs)
		plain.add(without, theirs)
	}
	f := userns.figure("container start, user namespace, network, limits", "ms", "docker run -d").ratioAtMost(0.5)
	f.Note = fmt.Sprintf("the peer's figure holds its command line program, which takes %s ms for docker version", number(bare.median()))
	b.add(f)
	b.add(plain.figure("container start, no user namespace", "ms", "docker run -d"))
	if strings.Contains(machine(), "cgroup v1") {
		fmt.Fprintln(b.out, "  with crun: not measured; crun does not run on hosts whose cgroups are not all v2")
	}
	return nil
}

// placed is a spec with its place in the network, and a user namespace that
// begins at idBase, or none.
func placed(name string, last byte, idBase uint32) container.Spec {
	spec := idleSpec(name, 0)
	spec.Addresses.V4 = netip.AddrFrom4([4]byte{10, 216, 0, last})
	spec.IDBase = idBase
	return spec
}

// startOurs starts a container, removes it and returns what the start took.
func (b *bench) startOurs(a *appliance, idBase uint32) (float64, error) {
	m, err := a.start(placed("started", 3, idBase))
	if err != nil {
		return 0, err
	}
	return m.Seconds * 1000, a.remove("started")
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
