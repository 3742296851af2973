package proxy

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarima/proxy/routes"
)

const machineA, machineB, machineC = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"

var machines = []string{machineA, machineB, machineC}

func fleetOf(addresses ...string) routes.Snapshot {
	s := one(1, addresses[0], routes.Ready)
	s.Hosts[0].Upstreams = addresses[1:]
	return s
}

// picks takes n places at once and counts them.
func picks(f *fleet, n int) map[string]int {
	got := map[string]int{}
	for range n {
		got[f.pick(machines, "")]++
	}
	for a, n := range got {
		for range n {
			f.done(a)
		}
	}
	return got
}

func TestFleetFewestRequests(t *testing.T) {
	f := newFleet()
	f.keep(fleetOf(machines...))
	for range 4 {
		f.pick([]string{machineA}, "")
	}
	for range 2 {
		f.pick([]string{machineB}, "")
	}
	if got := picks(f, 6); got[machineC] != 4 || got[machineB] != 2 {
		t.Errorf("with 4, 2 and 0 requests, six more go to %v", got)
	}
	if a := f.pick([]string{machineB, machineC}, machineC); a != machineB {
		t.Errorf("the one to avoid was taken: %s", a)
	}
	if a := f.pick([]string{machineC}, machineC); a != machineC {
		t.Errorf("the only one was avoided: %s", a)
	}
}

func TestFleetSetsAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.keep(fleetOf(machines...))
		if got := picks(f, 9); got[machineA] != 3 {
			t.Errorf("at first: %v", got)
		}
		// Many requests that fail together count once, and the pause doubles.
		for n, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, lastAside, lastAside} {
			for range 5 {
				f.refused(machineA)
			}
			<-time.After(pause - time.Millisecond)
			if got := picks(f, 9); got[machineA] != 0 {
				t.Fatalf("refused %d times, tried before %s are over", n+1, pause)
			}
			<-time.After(time.Millisecond)
			// One request tries whether it is back, whatever the load.
			if got := picks(f, 100); got[machineA] != 1 {
				t.Fatalf("refused %d times, after %s: %v", n+1, pause, got)
			}
		}
		f.worked(machineA)
		if got := picks(f, 210); got[machineA] < 5 || got[machineA] > 15 {
			t.Errorf("just back, it gets %d of 210", got[machineA])
		}
		<-time.After(slowStart / 2)
		if got := picks(f, 250); got[machineA] < 45 || got[machineA] > 55 {
			t.Errorf("after half the slow start it gets %d of 250", got[machineA])
		}
		<-time.After(slowStart / 2)
		if got := picks(f, 300); got[machineA] != 100 {
			t.Errorf("after the slow start it gets %d of 300", got[machineA])
		}
		// When all are aside, the first that may be tried again is.
		f.refused(machineC)
		<-time.After(time.Millisecond)
		f.refused(machineA)
		f.refused(machineB)
		if a := f.pick(machines, ""); a != machineC {
			t.Errorf("with all aside: %s", a)
		}
	})
}

func TestFleetFollowsSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.keep(fleetOf(machineA, machineB))
		<-time.After(time.Minute)
		f.keep(fleetOf(machines...))
		if got := picks(f, 210); got[machineC] == 0 || got[machineC] > 20 {
			t.Errorf("a new one gets %d of 210", got[machineC])
		}
		busy := f.pick([]string{machineC}, "")
		f.keep(fleetOf(machineA, machineB))
		if f.members[machineC] == nil {
			t.Error("one with a request was forgotten")
		}
		f.done(busy)
		f.keep(fleetOf(machineA, machineB))
		if f.members[machineC] != nil {
			t.Error("one that is gone was not forgotten")
		}
		f.keep(one(2, machineA, routes.Ready))
		if len(f.members) != 0 {
			t.Error("a service with one address is no fleet")
		}
	})
}

// Places are given back whatever happens, and nobody is set aside for ever.
func TestFleetProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 4), 1, 200).Draw(rt, "steps")
		synctest.Test(t, func(*testing.T) {
			f := newFleet()
			f.keep(fleetOf(machines...))
			var taken []string
			for i, step := range steps {
				switch {
				case step <= 1:
					taken = append(taken, f.pick(machines, machines[i%3]))
				case len(taken) > 0:
					a := taken[0]
					taken = taken[1:]
					if step == 2 {
						f.worked(a)
					} else if step == 3 {
						f.refused(a)
					}
					f.done(a)
				}
				<-time.After(time.Duration(i) * 10 * time.Millisecond)
			}
			for _, a := range taken {
				f.done(a)
			}
			<-time.After(lastAside)
			got := picks(f, 30)
			for _, a := range machines {
				if got[a] == 0 {
					rt.Fatalf("after %v, %s gets nothing: %v", steps, a, got)
				}
				if f.members[a].busy != 0 {
					rt.Fatalf("%s has %d requests for ever", a, f.members[a].busy)
				}
			}
		})
	})
}

// Upstream processes of one service die one after the other and come back:
// nobody sees it, and nobody waits for the one that is down.
func TestKilledMachineIsNotSeen(t *testing.T) {
	r := start(t, func(c *Config) { c.Hold.Timeout = 10 * time.Second })
	addresses := []string{freeAddress(t), freeAddress(t), freeAddress(t)}
	processes := make([]*exec.Cmd, len(addresses))
	for i, a := range addresses {
		processes[i] = startUpstream(t, a)
		defer func() { _ = processes[i].Process.Kill(); _ = processes[i].Wait() }()
		until(t, "an upstream listens", func() bool { return reachable(a) == nil })
	}
	r.put(fleetOf(addresses...))
	load := startLoad(8, r.browser(false), "https://lms.test/page")
	enough := func() {
		before := load.ok.Load()
		until(t, "answers", func() bool { return load.ok.Load() > before+50 || load.failed.Load() > 0 })
	}
	browser := r.browser(true)
	for i, a := range addresses {
		enough()
		if err := processes[i].Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = processes[i].Wait() // killed
		enough()
		// A body is sent once, and another machine takes it.
		for range 6 {
			resp, err := browser.Post("https://lms.test/post", "text/plain", strings.NewReader("once"))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("POST with one of three down: %v, %v", resp, err)
			}
			if err == nil {
				_ = resp.Body.Close()
			}
		}
		processes[i] = startUpstream(t, a)
		until(t, "it is back", func() bool { return reachable(a) == nil })
	}
	load.end(t)
	if strings.Contains(r.logged(), `"held"`) {
		t.Error("a request waited although two of three machines were there")
	}
}

func reachable(address string) error {
	c, err := (&http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + address + "/")
	if err == nil {
		_ = c.Body.Close()
	}
	return err
}

// A machine that left the routes gets no new request, and its running ones end.
func TestMachineLeavesTheRoutes(t *testing.T) {
	hold := make(chan struct{})
	var served [2]atomic.Int64
	machine := func(n int) string {
		return address(upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			served[n].Add(1)
			if strings.HasPrefix(r.URL.Path, "/slow") {
				<-hold
			}
			_, _ = fmt.Fprint(w, n)
		})))
	}
	stays, leaves := machine(0), machine(1)
	r := start(t)
	s := fleetOf(stays, leaves)
	r.put(s)
	browser := r.browser(true)
	var wait sync.WaitGroup
	var failed atomic.Int64
	for range 8 {
		wait.Go(func() {
			resp, err := browser.Get("https://lms.test/slow")
			if err != nil {
				failed.Add(1)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
				failed.Add(1)
			}
		})
	}
	until(t, "eight requests, shared evenly", func() bool { return served[0].Load() == 4 && served[1].Load() == 4 })
	s = one(2, stays, routes.Ready)
	r.put(s)
	for range 20 {
		if _, body := r.get(browser, "https://lms.test/quick"); body != "0" {
			t.Errorf("answered by %s", body)
		}
	}
	close(hold)
	wait.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d requests under way failed", failed.Load())
	}
}
