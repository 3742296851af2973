//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/store/record"
	"tarima/supervisor"
)

// Scenario 7: out of memory in one service is named as such, with its limit, and
// nobody else notices.
func TestOutOfMemory(t *testing.T) {
	before := site.mustBeReady(t)
	clean := site.inventory(t)
	seq := site.lastSeq(t)
	off := site.turnOn(t, "cms", `{"worker": {"leak": 100}}`)
	var told record.Event
	eventually(t, 2*time.Minute, "the kernel's kill is in the history", func() error {
		events := site.events(t, seq)
		i := slices.IndexFunc(events, func(e record.Event) bool { return e.Kind == record.OOM })
		if i < 0 {
			return fmt.Errorf("%+v: %s", service(site.status(t), "cms-worker"), summary(events))
		}
		told = events[i]
		return nil
	})
	off()
	limit := service(before, "cms-worker").MemoryLimit
	if want := fmt.Sprintf("limit is %d MiB", limit>>20); told.Service != "cms-worker" || !strings.Contains(told.Reason, want) {
		t.Errorf("the history says %+v, want %q of cms-worker", told, want)
	}
	// A child that was killed is the worker's own to replace; when it was the
	// main process, the status says so until it is back.
	after := site.mustBeReady(t)
	samePids(t, before, after, "cms-worker")
	for _, e := range site.events(t, seq) {
		if e.Kind != record.ExitedEvent {
			continue
		}
		if e.Service != "cms-worker" || !strings.Contains(e.Reason, "out of memory") || !strings.Contains(e.Reason, fmt.Sprintf("%d MiB", limit>>20)) {
			t.Errorf("history: %+v", e)
		}
	}
	// What leaked into the main process is still there: it would be killed in
	// the middle of another test.
	if code, _, stderr := site.run(t, "restart", "cms-worker"); code != 0 {
		t.Fatal(stderr)
	}
	eventually(t, time.Minute, "the worker is anew", func() error {
		if now := service(site.status(t), "cms-worker"); now.PID == 0 || now.PID == service(after, "cms-worker").PID {
			return fmt.Errorf("cms-worker is %s, process %d", now.State, now.PID)
		}
		return nil
	})
	site.mustBeReady(t)
	site.mustNotHaveLeaked(t, clean)
	if code, out, _ := site.run(t, "events", "-n", "80"); code != 0 || !strings.Contains(out, "want of memory") {
		t.Errorf("tarima events: exit %d\n%s", code, out)
	}
}

// Scenario 8: a crash loop backs off as specified, costs nothing, ends in a
// visible failing with the reason, and heals by itself. (The Studio's worker has
// failures in a row already, of the test before.)
func TestCrashLoop(t *testing.T) {
	before := site.mustBeReady(t)
	clean := site.inventory(t)
	seq := site.lastSeq(t)
	off := site.turnOn(t, "lms", `{"worker": {"crash": 7}}`)
	eventually(t, 10*time.Second, "the worker is killed", func() error {
		return syscall.Kill(service(site.status(t), "lms-worker").PID, syscall.SIGKILL)
	})
	failing := site.mustSee(t, 3*time.Minute, "lms-worker", "failing", func(s supervisor.ServiceStatus) bool {
		return s.State == supervisor.StateFailing
	})
	if !strings.Contains(failing.Why, "exit code 7") || failing.Next.IsZero() {
		t.Errorf("the status does not say why or when it is tried again: %+v", failing)
	}
	eventually(t, 10*time.Second, "the last lines of the log are shown", func() error {
		now := service(site.status(t), "lms-worker")
		if tail := strings.Join(now.LogTail, "\n"); !strings.Contains(tail, "the switch 'crash' is on") {
			return fmt.Errorf("%q", tail)
		}
		return nil
	})
	if code, out, _ := site.run(t, "status"); code != 4 || !strings.Contains(out, "failing") || !strings.Contains(out, "exit code 7") {
		t.Errorf("tarima status: exit %d, want 4\n%s", code, out)
	}
	backsOff(t, site.events(t, seq), "lms-worker")

	// Between two attempts the daemon has nothing to do.
	used, from := cpuTime(t, site.daemon.pid()), time.Now()
	eventually(t, time.Minute, "another attempt has failed", func() error {
		if now := service(site.status(t), "lms-worker"); !now.Next.After(failing.Next) {
			time.Sleep(time.Second)
			return fmt.Errorf("%s, next %s", now.State, now.Next)
		}
		return nil
	})
	if share := float64(cpuTime(t, site.daemon.pid())-used) / float64(time.Since(from)); share > 0.1 {
		t.Errorf("the daemon used %.0f %% of a processor in a crash loop", 100*share)
	}
	samePids(t, before, site.status(t), "lms-worker")

	off()
	after := site.mustBeReady(t) // nobody did anything
	samePids(t, before, after, "lms-worker")
	if !slices.ContainsFunc(site.events(t, seq), func(e record.Event) bool {
		return e.Kind == record.Failing && e.Service == "lms-worker"
	}) {
		t.Errorf("history: %s", summary(site.events(t, seq)))
	}
	// A wish of the administrator ends the long memory of it.
	if code, _, stderr := site.run(t, "restart", "lms-worker"); code != 0 {
		t.Error(stderr)
	}
	site.mustBeReady(t)
	site.mustNotHaveLeaked(t, clean)
}

// backsOff checks the waits between ends and starts: none before the first
// restart, then 1 s, doubled each time, spread by a fifth, and never less.
func backsOff(t *testing.T, events []record.Event, name string) {
	t.Helper()
	var ended time.Time
	failures := 0
	for _, e := range events {
		switch {
		case e.Service != name:
		case e.Kind == record.ExitedEvent:
			ended = e.At
			failures++
		case e.Kind == record.Restarted || e.Kind == record.Started:
			if failures < 2 {
				continue
			}
			least := time.Duration(float64(time.Second<<(failures-2)) * 0.8)
			if waited := e.At.Sub(ended); waited < least-50*time.Millisecond {
				t.Errorf("after %d failures it was started again after %s, want at least %s", failures, waited, least)
			}
		}
	}
	if failures < 5 {
		t.Errorf("failing after %d failures, want 5: %s", failures, summary(events))
	}
}

// cpuTime that a process has used, from /proc/PID/stat (proc(5)).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
