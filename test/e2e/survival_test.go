//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/store/record"
	"tarima/supervisor"
)

// The page of the site is there, over https, with a certificate that chains to
// the site's own authority.
func TestSiteAnswers(t *testing.T) {
	site.mustBeReady(t)
	for _, h := range []string{host, studio} {
		code, body, err := site.get(t.Context(), h, "/heartbeat")
		if err != nil || code != 200 {
			t.Errorf("%s/heartbeat: %d %v %s", h, code, err, body)
		}
	}
	code, body, err := site.get(t.Context(), host, "/")
	if err != nil || code != 200 || !strings.Contains(body, "Campus Tarima") {
		t.Errorf("home page: %d %v %.200s", code, err, body)
	}
	if code, out, _ := site.run(t, "status"); code != 0 || !strings.Contains(out, "lms") {
		t.Errorf("tarima status: exit %d\n%s", code, out)
	}
}

// Scenario 1: kill -9 of any service's main process: restarted, nothing else
// touched, history right.
func TestKilledService(t *testing.T) {
	services := site.mustBeReady(t).Services
	clean := site.inventory(t)
	defer func() { site.mustNotHaveLeaked(t, clean) }()
	for _, one := range services {
		t.Run(one.Name, func(t *testing.T) {
			before := site.mustBeReady(t)
			seq := site.lastSeq(t)
			old := service(before, one.Name)
			if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, "it runs again", func() error {
				now := service(site.status(t), one.Name)
				if now.PID == 0 || now.PID == old.PID {
					return fmt.Errorf("%s is %s, process %d: %s", one.Name, now.State, now.PID, now.Why)
				}
				return nil
			})
			after := site.mustBeReady(t)
			samePids(t, before, after, one.Name)
			if now := service(after, one.Name); now.Restarts != old.Restarts+1 {
				t.Errorf("restarts: %d, want %d", now.Restarts, old.Restarts+1)
			}
			exited := 0
			for _, e := range site.events(t, seq) {
				if e.Kind == record.ExitedEvent {
					exited++
					if e.Service != one.Name || e.ExitCode == nil || *e.ExitCode != 137 {
						t.Errorf("history: %+v", e)
					}
				}
			}
			if exited != 1 {
				t.Errorf("history has %d exits, want 1", exited)
			}
		})
	}
}

// Scenario 5: the exit code and time of a service that ends while the daemon is
// dead are known afterwards.
func TestExitWhileDaemonDead(t *testing.T) {
	before := site.mustBeReady(t)
	seq := site.lastSeq(t)
	old := service(before, "redis-cache")
	site.daemon.kill(syscall.SIGKILL)
	killed := time.Now()
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the process is gone", func() error {
		if err := syscall.Kill(old.PID, 0); err == nil {
			return fmt.Errorf("process %d is still there", old.PID)
		}
		return nil
	})
	site.mustStartDaemon(t)
	after := site.mustBeReady(t)
	samePids(t, before, after, "redis-cache")
	var found bool
	for _, e := range site.events(t, seq) {
		if e.Kind == record.ExitedEvent && e.Service == "redis-cache" {
			found = true
			if e.ExitCode == nil || *e.ExitCode != 137 {
				t.Errorf("exit code: %+v", e)
			}
			if d := e.At.Sub(killed); d < -time.Second || d > 2*time.Second {
				t.Errorf("exit at %s, killed at %s", e.At, killed)
			}
		}
	}
	if !found {
		t.Error("history does not know the exit")
	}
}

// Scenario 6: kill -9 of a shim: its group comes back, the other never noticed.
func TestKilledShim(t *testing.T) {
	before := site.mustBeReady(t)
	clean := site.inventory(t)
	defer func() { site.mustNotHaveLeaked(t, clean) }()
	seq := site.lastSeq(t)
	shim := parent(t, service(before, "lms").PID)
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	group := []string{"lms", "cms", "lms-worker", "cms-worker", "scheduler", "mfe"}
	eventually(t, time.Minute, "the group has ended", func() error {
		if now := service(site.status(t), "lms"); now.PID == service(before, "lms").PID {
			return fmt.Errorf("lms is still %s", now.State)
		}
		return nil
	})
	after := site.mustBeReady(t)
	samePids(t, before, after, group...)
	exits := map[string][]int{}
	for _, e := range site.events(t, seq) {
		if e.Kind == record.ExitedEvent && e.ExitCode != nil {
			exits[e.Service] = append(exits[e.Service], *e.ExitCode)
		}
	}
	for _, name := range group {
		if service(after, name).PID == service(before, name).PID {
			t.Errorf("%s has its old process", name)
		}
		if !slices.Equal(exits[name], []int{137}) {
			t.Errorf("exit of %s: %v, want 137 once", name, exits[name])
		}
	}
}

// parent of a process.
func parent(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var ppid int
		if _, err := fmt.Sscanf(line, "PPid: %d", &ppid); err == nil {
			return ppid
		}
	}
	t.Fatalf("process %d has no parent", pid)
	return 0
}

// Scenario 11: a wrong site file is refused as a whole with line numbers, and
// the running site is untouched.
func TestWrongSiteFile(t *testing.T) {
	before := site.mustBeReady(t)
	good := site.siteFile("")
	bad := strings.Replace(good, `name = "Campus Tarima"`, "nmae = \"Campus Tarima\"\nlanguage = 7", 1)
	path := filepath.Join(site.root, "tarima.toml")
	if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := site.run(t, "apply")
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, want := range []string{"tarima.toml:3", "nmae", `"name"`, "tarima.toml:4"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is not in:\n%s", want, stderr)
		}
	}
	if code, _, _ := site.run(t, "check"); code != 1 {
		t.Errorf("check: exit code %d, want 1", code)
	}
	after := site.status(t)
	samePids(t, before, after)
	if after.Generation != before.Generation {
		t.Errorf("generation %d became %d", before.Generation, after.Generation)
	}
	// A daemon that starts with the wrong file goes on with the last one.
	site.restartDaemon(t)
	after = site.mustBeReady(t)
	samePids(t, before, after)
	if err := site.writeSiteFile(""); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := site.run(t, "apply"); code != 0 {
		t.Errorf("the right file: exit code %d: %s", code, stderr)
	}
	samePids(t, before, site.mustBeReady(t))
}

// Scenario 12: a second daemon on one root says who holds it, at once.
func TestSecondDaemon(t *testing.T) {
	before := site.mustBeReady(t)
	started := time.Now()
	code, _, stderr := site.run(t, "daemon")
	if code != 1 || !strings.Contains(stderr, fmt.Sprint(site.daemon.pid())) {
		t.Errorf("exit code %d, want 1 and process %d named: %s", code, site.daemon.pid(), stderr)
	}
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("it took %s to say so", d)
	}
	samePids(t, before, site.mustBeReady(t))
}

// Scenario 3: without MySQL nothing is restarted, not even what gives no sign of
// life itself meanwhile, visitors get the waiting page, and all recovers by
// itself.
func TestMySQLAway(t *testing.T) {
	before := site.mustBeReady(t)
	seq := site.lastSeq(t)
	if code, _, stderr := site.run(t, "stop", "mysql"); code != 0 {
		t.Fatal(stderr)
	}
	eventually(t, time.Minute, "visitors get the waiting page", func() error {
		code, body, err := site.get(t.Context(), host, "/")
		if err != nil || code != 503 || !strings.Contains(body, "<html") {
			return errors.Join(err, fmt.Errorf("%d %.100s", code, body))
		}
		return nil
	})
	// The LMS is hung for longer than its grace: only that MySQL is away keeps it
	// from being restarted, and the history says so.
	thaw := freeze(t, service(before, "lms").PID)
	held := func(e record.Event) bool {
		return e.Kind == record.Suppressed && e.Service == "lms" && strings.Contains(e.Reason, "mysql")
	}
	eventually(t, 5*time.Minute, "the restart of the LMS is held back", func() error {
		samePids(t, before, site.status(t), "mysql")
		if t.Failed() {
			t.FailNow()
		}
		if events := site.events(t, seq); !slices.ContainsFunc(events, held) {
			time.Sleep(time.Second)
			return fmt.Errorf("lms: %+v\n%s", service(site.status(t), "lms"), summary(events))
		}
		return nil
	})
	thaw()
	if code, _, stderr := site.run(t, "start", "mysql"); code != 0 {
		t.Fatal(stderr)
	}
	after := site.mustBeReady(t)
	samePids(t, before, after, "mysql")
	if code, _, err := site.get(t.Context(), host, "/"); err != nil || code != 200 {
		t.Errorf("afterwards: %d %v", code, err)
	}
	if s := service(after, "mysql"); s.State != supervisor.StateReady {
		t.Errorf("mysql is %s", s.State)
	}
}
