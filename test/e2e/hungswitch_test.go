//go:build e2e && full

package e2e

import (
	"testing"
	"time"

	"tarima/supervisor"
)

// The platform's own switch: a worker that is alive and answers nothing is
// restarted; this takes minutes, so it is tried in the full run.
func TestHungBySwitch(t *testing.T) {
	before := site.mustBeReady(t)
	off := site.turnOn(t, "cms", `{"worker": {"hang": true}}`)
	old := service(before, "cms-worker")
	site.mustSee(t, 8*time.Minute, "cms-worker", "restarted", func(s supervisor.ServiceStatus) bool {
		return s.PID != 0 && s.PID != old.PID
	})
	off()
	samePids(t, before, site.mustBeReady(t), "cms-worker")
}
