package engine

import (
	"errors"
	"os"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The news of an exit may come when the container has been started anew. It is
// told, and the journal of the new run stays empty.
func TestLateNewsOfAnExit(t *testing.T) {
	e := newEngine(t)
	before := time.Now()
	status := mustStart(t, e, shell("again", "sleep 3600"))
	exit := e.seenExit(&eventsapi.TaskExit{
		ContainerID: status.ID, ID: status.ID, Pid: 12, ExitStatus: 3, ExitedAt: timestamppb.New(before),
	})
	if exit.Code != 3 || !exit.At.Equal(before) {
		t.Errorf("told as %+v", exit)
	}
	if _, err := os.Stat(e.exitFile(status.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal of the new run has an entry: %v", err)
	}
	// One that is of this very run, and that no shim has written down, is.
	exit = e.seenExit(&eventsapi.TaskExit{
		ContainerID: status.ID, ID: status.ID, Pid: uint32(status.PID), ExitStatus: 137, ExitedAt: timestamppb.New(time.Now()),
	})
	if entry, err := readExit(e.exitFile(status.ID)); err != nil || entry.Code != 137 || exit.Code != 137 {
		t.Errorf("journaled as %+v, %v; told as %+v", entry, err, exit)
	}
}
