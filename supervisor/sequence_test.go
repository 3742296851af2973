package supervisor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// TestRandomSequencesEndInTheDesiredState plays random sequences of apply,
// stop, start, restart, kill, hang, memory kill, daemon death, lost containers
// and refusing parts against the whole loop in virtual time. After each, with
// everything well again, the site must be as desired without a human.
// SUPERVISOR_SEED repeats one seed.
func TestRandomSequencesEndInTheDesiredState(t *testing.T) {
	seeds := make([]uint64, 150)
	for i := range seeds {
		seeds[i] = rand.Uint64()
	}
	if text := os.Getenv("SUPERVISOR_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) { sequence(t, r, rand.New(rand.NewPCG(seed, 1))) }) //nolint:gosec // chance, not secrecy
		})
		if !ok {
			t.Fatalf("repeat with SUPERVISOR_SEED=%d", seed)
		}
	}
}

func sequence(t *testing.T, r *rig, rnd *rand.Rand) {
	d := demo()
	stopped := map[string]bool{}
	all := []string{"mysql", "mongodb", "redis", "lms", "cms", "lms-worker", "mysql-init", "lms-migrate", "cms-migrate"}
	needs := map[string][]string{}
	for _, s := range d.Services {
		needs[s.Spec.Name] = s.Requires
	}
	r.engine.check = func(name string) string {
		for _, n := range needs[name] {
			c := r.engine.containers[container.ID("default", n)]
			if !slices.Contains(all[:6], n) {
				continue
			}
			if c == nil || c.status.State != container.Running {
				return fmt.Sprintf("%s was started while %s did not run", name, n)
			}
		}
		return ""
	}
	slow := func() behaviour {
		return behaviour{
			startTakes: time.Duration(rnd.IntN(3)) * time.Second, stopTakes: time.Duration(rnd.IntN(15)) * time.Second,
			readyAfter: time.Duration(rnd.IntN(20)) * time.Second, exitAfter: 0,
		}
	}
	calm := func() {
		for _, name := range all {
			b := slow()
			if name == "mysql-init" || name == "lms-migrate" || name == "cms-migrate" {
				b.exitAfter = time.Duration(1+rnd.IntN(60)) * time.Second
			}
			r.engine.setAct(name, b)
		}
	}
	calm()
	r.engine.pullTakes = time.Duration(rnd.IntN(20)) * time.Second
	r.engine.listTakes = time.Duration(rnd.IntN(3)) * time.Second
	r.boot()
	r.mustApply(d)
	for range 3 + rnd.IntN(12) {
		if rnd.IntN(2) == 0 {
			pass(time.Duration(rnd.IntN(int(2 * time.Minute))))
		} else {
			pass(time.Duration(rnd.IntN(int(3 * time.Second))))
		}
		name := all[rnd.IntN(6)]
		switch rnd.IntN(14) {
		case 0, 1, 2:
			r.engine.kill(all[rnd.IntN(len(all))])
		case 3, 4: // a new daemon
			r.die()
			pass(time.Millisecond + time.Duration(rnd.IntN(int(time.Minute))))
			r.boot()
			r.reapply(d)
		case 5:
			if r.StopService(t.Context(), name) == nil {
				stopped[name] = true
			}
		case 6:
			if r.StartService(t.Context(), name) == nil {
				delete(stopped, name)
			}
		case 7:
			if r.RestartService(t.Context(), name) == nil {
				delete(stopped, name)
			}
		case 8:
			d = change(d, name, func(s *Service) { s.Hash = fmt.Sprint(rnd.IntN(4)) })
			r.mustApply(d)
		case 9:
			d = change(d, name, func(s *Service) { s.Spec.Limits.MemoryMax = int64(1+rnd.IntN(3)) << 30 })
			d.Jobs = slices.Clone(d.Jobs)
			d.Jobs[rnd.IntN(3)].Reason = fmt.Sprint(rnd.IntN(5))
			r.mustApply(d)
		case 10:
			r.engine.setAct(name, behaviour{hung: rnd.IntN(2) == 0, unready: true})
		case 11:
			r.engine.setAct(name, behaviour{startErr: errors.New("no space left on device")})
		case 12: // a reboot without the engine's run folder
			r.die()
			r.engine.mu.Lock()
			for id, c := range r.engine.containers {
				if c.timer != nil {
					c.timer.Stop()
				}
				if rnd.IntN(2) == 0 {
					delete(r.engine.containers, id)
					continue
				}
				c.status.State, c.status.PID = container.Missing, 0
				c.status.Exit = &container.Exit{Code: -1, Unknown: true}
			}
			if rnd.IntN(2) == 0 {
				clear(r.engine.images)
			}
			r.engine.mu.Unlock()
			pass(time.Millisecond)
			r.boot()
			r.reapply(d)
		case 13: // the store takes nothing for a while
			r.store.setErr(errors.New("no space left on device"))
			pass(time.Duration(rnd.IntN(int(time.Minute))))
			r.store.setErr(nil)
		}
		synctest.Wait() // what happened is seen before the next thing happens
	}
	if testing.Verbose() {
		defer func() {
			for _, e := range r.store.events {
				t.Log(e.At.Format("15:04:05.000"), e.Kind, e.Service, e.Reason)
			}
		}()
	}
	calm()
	for name := range stopped {
		if err := r.StartService(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	r.until(OverallReady, time.Hour)
	pass(time.Minute)
	want := []string{"cms", "lms", "lms-worker", "mongodb", "mysql", "redis"}
	if got := names(r.engine.running()); !slices.Equal(got, want) {
		t.Errorf("running: %v", got)
	}
	for _, s := range d.Services {
		c := r.engine.containers[container.ID("default", s.Spec.Name)]
		if c.spec.Labels[container.LabelHash] != r.site.services[s.Spec.Name].Hash {
			t.Errorf("%s runs with another specification", s.Spec.Name)
		}
		got := c.spec.Limits
		if live, ok := r.engine.limits[s.Spec.Name]; ok && c.spec.Limits != s.Spec.Limits {
			got = live
		}
		if got != s.Spec.Limits {
			t.Errorf("%s has the limits %+v, want %+v", s.Spec.Name, got, s.Spec.Limits)
		}
	}
	for _, j := range d.Jobs {
		if rec := r.store.jobs[j.Spec.Name]; rec.State != record.JobSucceeded || rec.Reason != j.Reason {
			t.Errorf("job: %+v", rec)
		}
	}
	// Nothing is left behind.
	r.engine.mu.Lock()
	containers := len(r.engine.containers)
	r.engine.mu.Unlock()
	if containers != len(want) {
		t.Errorf("%d containers", containers)
	}
	if n := len(r.network.attached); n != len(want) {
		t.Errorf("%d interfaces: %v", n, r.network.attached)
	}
	if steps, err := r.Supervisor.Plan(t.Context()); err != nil || len(steps) != 0 {
		t.Errorf("plan at rest: %v, %v", steps, err)
	}
	got := r.router.snapshots()
	for i := 1; i < len(got); i++ {
		if got[i].Generation <= got[i-1].Generation {
			t.Errorf("generation %d after %d", got[i].Generation, got[i-1].Generation)
		}
	}
}
