//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarima/test/registry"
)

// quiet services are those whose restart no visitor of the LMS notices.
var quiet = []string{"smtp", "meilisearch", "scheduler"}

// anywhere is what the house is busy with when it is killed.
type anywhere struct {
	phase  string // start, pull, job, apply, stop, rest
	victim string // daemon, proxy, both
}

func (a anywhere) String() string { return a.victim + " during " + a.phase }

// Scenario 4: kill -9 of the daemon, of the proxy, of both, during everything
// that they do, at random moments. Containers keep their processes, visitors of
// a healthy service notice nothing while only the daemon is dead, the next start
// takes over, and nothing is left behind.
func TestKilledAnywhere(t *testing.T) {
	site.mustBeReady(t)
	clean := site.inventory(t)
	title := site.title
	t.Cleanup(func() {
		site.title = title
		site.mustApply(t, "")
		site.mustBeReady(t)
	})
	var all []anywhere
	for _, phase := range []string{"start", "pull", "job", "apply", "stop", "rest"} {
		for _, victim := range []string{"daemon", "proxy", "both"} {
			all = append(all, anywhere{phase, victim})
		}
	}
	var order []int
	moments(t, 50, 150*time.Second, func(t *testing.T, number int) {
		if len(order) == 0 {
			order = dice.Perm(len(all))
		}
		where := all[order[0]]
		order = order[1:]
		killedAt(t, where, number, clean)
	})
}

// moments does something at n random moments, or at as many as fit.
func moments(t *testing.T, n int, fit time.Duration, do func(t *testing.T, number int)) {
	t.Helper()
	began, tried := time.Now(), 0
	for tried < n && !t.Failed() && (full || time.Since(began) < fit) {
		tried++
		do(t, tried)
	}
	t.Logf("%d moments tried in %s", tried, time.Since(began).Round(time.Second))
}

func killedAt(t *testing.T, where anywhere, number int, clean inventory) {
	before := site.mustBeReady(t)
	visited := host
	if where.phase == "job" {
		visited = "apps." + host // settings that jobs see are the LMS's too
	}
	visitor := site.visit(t, visited, "/")
	defer visitor.end()
	began := begin(t, where.phase, number)
	delay := time.Duration(dice.Int64N(int64(began.length)))
	t.Logf("moment %d: %s, %s after its begin", number, where, delay.Round(time.Millisecond))
	time.Sleep(delay)
	if where.victim != "daemon" {
		visitor.end() // its connections die with the proxy
	}
	if where.victim != "proxy" {
		site.daemon.kill(syscall.SIGKILL)
	}
	if where.victim != "daemon" {
		site.proxy.kill(syscall.SIGKILL)
	}
	time.Sleep(time.Duration(dice.Int64N(int64(500 * time.Millisecond))))
	if where.victim != "daemon" {
		if err := site.startProxy(); err != nil {
			t.Fatal(err)
		}
	}
	if where.victim != "proxy" {
		site.mustStartDaemon(t)
	}
	began.after()
	after := site.mustBeReady(t)
	visitor.end()
	samePids(t, before, after, began.touches...)
	if where.victim == "daemon" {
		visitor.mustBeHappy(t)
	}
	eventually(t, 10*time.Second, "the site answers", func() error {
		code, _, err := site.get(t.Context(), visited, "/")
		if err != nil || code >= 400 {
			return fmt.Errorf("%d %w", code, err)
		}
		return nil
	})
	site.mustNotHaveLeaked(t, clean)
}

// work is something that the house has been asked to do.
type work struct {
	length  time.Duration // about how long it takes
	touches []string      // services that may have other processes afterwards
	after   func()        // brings the site back to where it was
}

func begin(t *testing.T, phase string, number int) work {
	one := quiet[dice.IntN(len(quiet))]
	w := work{length: 2 * time.Second, touches: []string{one}, after: func() {}}
	switch phase {
	case "start":
		if code, _, stderr := site.run(t, "restart", one); code != 0 {
			t.Fatal(stderr)
		}
	case "stop":
		if code, _, stderr := site.run(t, "stop", one); code != 0 {
			t.Fatal(stderr)
		}
		w.after = func() {
			if code, _, stderr := site.run(t, "start", one); code != 0 {
				t.Fatal(stderr)
			}
		}
	case "apply":
		more := fmt.Sprintf("[services.%s]\nenv = { E2E_MOMENT = \"%d\" }\n", one, number)
		w.touches = quiet // the one of the moment before loses its variable
		w.background(t, func() error { return site.writeSiteFile(more) }, "apply")
	case "job":
		w.length = 6 * time.Second
		w.touches = []string{"lms", "cms", "lms-worker", "cms-worker", "smtp", "meilisearch", "scheduler"}
		// The name stands in a table of the platform, which a job keeps right.
		site.title = fmt.Sprintf("Campus %d", number)
		w.background(t, func() error { return site.writeSiteFile("") }, "apply")
	case "pull":
		w.touches = nil
		slow := site.server.Inject(&registry.Fault{Kind: registry.Blob, Rate: 30 << 20})
		w.background(t, nil, "image", "pull", "registry.test/campus:2")
		ended := w.after
		w.after = func() {
			slow()
			ended()
			if code, _, stderr := site.run(t, "image", "pull", "registry.test/campus:2"); code != 0 {
				t.Fatalf("image pull afterwards: %s", stderr)
			}
		}
	case "rest":
		w.touches = nil
	}
	return w
}

// background runs a verb that is cut off by the kill; how it ends is nobody's
// business, that it ends is.
func (w *work) background(t *testing.T, first func() error, args ...string) {
	t.Helper()
	if first != nil {
		if err := first(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(site.binary, append([]string{"--root", site.root}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	w.after = func() {
		select {
		case <-ended:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			t.Errorf("tarima %v has not ended", args)
		}
	}
}

// visitor asks all the time.
type visitor struct {
	stop  chan struct{}
	done  sync.WaitGroup
	once  sync.Once
	mu    sync.Mutex
	asked int
	bad   []string
}

// leastRequests of a visitor, for their answers to say anything.
const leastRequests = 3

func (w *world) visit(t *testing.T, host, path string) *visitor {
	t.Helper()
	v := &visitor{stop: make(chan struct{})}
	v.done.Go(func() {
		for {
			code, _, err := w.get(t.Context(), host, path)
			v.mu.Lock()
			v.asked++
			if err != nil || code >= 400 {
				v.bad = append(v.bad, fmt.Sprintf("%d %v", code, err))
			}
			enough := v.asked >= leastRequests // a quiet machine may be done before
			v.mu.Unlock()
			select {
			case <-v.stop:
				if enough {
					return
				}
			case <-time.After(30 * time.Millisecond):
			}
		}
	})
	return v
}

func (v *visitor) end() {
	v.once.Do(func() { close(v.stop) })
	v.done.Wait()
}

func (v *visitor) mustBeHappy(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.asked < leastRequests || len(v.bad) > 0 {
		t.Errorf("of %d requests %d failed: %v", v.asked, len(v.bad), slices.Compact(v.bad))
	}
}
