package supervisor

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tarima/store/record"
)

// TestMaintenanceReachesTheProxy closes hosts, over a restart of the daemon,
// and opens them again. Services go on all the while.
func TestMaintenanceReachesTheProxy(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		pids := r.engine.running()
		closed := func() string {
			var hosts []string
			all := r.router.snapshots()
			for _, h := range all[len(all)-1].Hosts {
				if h.Maintenance != nil {
					hosts = append(hosts, h.Name+" "+h.Maintenance.Until.Format("15:04")+" "+string([]byte(h.Maintenance.Pass)))
				}
			}
			return strings.Join(hosts, ", ")
		}
		until := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
		if err := r.Maintain(t.Context(), record.Maintenance{Hosts: []string{"studio.example.test"}, Until: until, Pass: "pass"}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if got := closed(); got != "studio.example.test 03:04 pass" {
			t.Errorf("closed: %q", got)
		}
		if m := r.Status().Maintenance; m == nil || len(m.Hosts) != 1 || !m.Until.Equal(until) {
			t.Errorf("status: %+v", m)
		}
		r.die()
		r.boot()
		r.reapply(demo())
		pass(time.Minute)
		if got := closed(); got != "studio.example.test 03:04 pass" {
			t.Errorf("closed after a restart of the daemon: %q", got)
		}
		if err := r.Maintain(t.Context(), record.Maintenance{All: true, Pass: "pass"}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if got := closed(); !strings.Contains(got, "studio.example.test 00:00 pass") || strings.Count(got, "pass") != len(r.Status().Hosts) {
			t.Errorf("all closed: %q", got)
		}
		if err := r.Maintain(t.Context(), record.Maintenance{Hosts: []string{"other.test"}}); !errors.Is(err, ErrUnknown) {
			t.Errorf("a host of others: %v", err)
		}
		r.store.setErr(errors.New("disk full"))
		if err := r.Maintain(t.Context(), record.Maintenance{}); err == nil {
			t.Error("a wish that could not be kept was taken")
		}
		r.store.setErr(nil)
		pass(time.Second)
		if closed() == "" {
			t.Error("a wish that was refused came true")
		}
		if err := r.Maintain(t.Context(), record.Maintenance{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if got := closed(); got != "" || r.Status().Maintenance != nil {
			t.Errorf("open again, but for %q", got)
		}
		for name, pid := range r.engine.running() {
			if pids[name] != pid {
				t.Errorf("%s was restarted", name)
			}
		}
		var told []string
		for _, e := range r.store.events {
			if e.Kind == record.Closed || e.Kind == record.Opened {
				told = append(told, e.Reason)
			}
			if strings.Contains(e.Reason, "pass") {
				t.Errorf("an event tells the pass: %s", e.Reason)
			}
		}
		if got := strings.Join(told, "; "); got != "closed for maintenance: studio.example.test; closed for maintenance: every host; maintenance is over" {
			t.Errorf("events: %s", got)
		}
	})
}
