package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarima/store"
	"tarima/store/record"
	"tarima/store/storetest"
)

// child is another process with a store.
//
//	hold   opens it, says so and waits for the end of its input
//	write  writes events and intents until it is killed, and says after each
//	       one what is on the disk
func child(role, dir string) int {
	s, err := store.Open(context.Background(), store.Config{Dir: dir, EventsPerSite: 200, CopyDelay: 5 * time.Millisecond})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "open")
	if role == "hold" {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		return 0
	}
	for n := uint64(1); ; n++ {
		e, err := s.AppendEvent("default", record.Event{Kind: record.Started, Service: "lms"})
		if err == nil {
			err = s.SetIntent("default", record.Intent{Service: "lms", Restart: e.Seq})
		}
		if err == nil {
			_, err = s.Secret("default", fmt.Sprint("secret-", n%20), func() (string, error) { return fmt.Sprint("value of ", e.Seq), nil })
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprintln(os.Stdout, e.Seq)
	}
}

// startChild starts it and returns when it has the store open.
func startChild(t *testing.T, role, dir string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+role, "STORE_TEST_DIR="+dir)
	cmd.Stderr = t.Output()
	out := must[interface {
		Read([]byte) (int, error)
		Close() error
	}](t)(cmd.StdoutPipe())
	must[interface {
		Write([]byte) (int, error)
		Close() error
	}](t)(cmd.StdinPipe())
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("the other process did not open the store: %q, %v", line, err)
	}
	return cmd, lines
}

// TestSecondProcessIsTold wants the holder's process id, at once or after the
// patience, and the store as soon as the holder is gone.
func TestSecondProcessIsTold(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := startChild(t, "hold", dir)
	_, err := store.Open(context.Background(), store.Config{Dir: dir, Wait: -1})
	if !errors.Is(err, store.ErrHeld) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", cmd.Process.Pid)) {
		t.Errorf("without patience: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := store.Open(ctx, store.Config{Dir: dir, Wait: time.Hour, Logger: textLogger(t.Output())}); !errors.Is(err, store.ErrHeld) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that ends: %v", err)
	}
	check(t, cmd.Process.Kill())
	s := storetest.OpenIn(t, store.Config{Dir: dir, Wait: time.Minute})
	if _, yes := s.Recovered(); yes {
		t.Error("a store whose holder was killed needed recovery")
	}
}

// TestKilledWhileWriting kills a writer at random moments and wants everything
// that it said was stored.
func TestKilledWhileWriting(t *testing.T) {
	dir := t.TempDir()
	said := uint64(0)
	for round := range 8 {
		cmd, lines := startChild(t, "write", dir)
		stop := said + 1 + rand.Uint64N(40)
		for said < stop {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("round %d: the writer ended by itself: %v", round, err)
			}
			said = must[uint64](t)(strconv.ParseUint(strings.TrimSpace(line), 10, 64))
		}
		check(t, cmd.Process.Kill())
		// What it said before it died counts too.
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break
			}
			said = must[uint64](t)(strconv.ParseUint(strings.TrimSpace(line), 10, 64))
		}
		_ = cmd.Wait()

		s := must[*store.Store](t)(store.Open(context.Background(), store.Config{Dir: dir, EventsPerSite: 200}))
		if r, yes := s.Recovered(); yes {
			t.Fatalf("round %d: recovered: %+v", round, r)
		}
		events := must[[]record.Event](t)(s.ServiceEvents("default", "lms", 1))
		if len(events) != 1 || events[0].Seq < said {
			t.Fatalf("round %d: event %d was stored, the newest is %+v", round, said, events)
		}
		if got := must[map[string]record.Intent](t)(s.Intents("default"))["lms"].Restart; got < said {
			t.Fatalf("round %d: intent %d was stored, it is %d", round, said, got)
		}
		said = events[0].Seq
		storetest.CheckAndClose(t, s)
	}
}
