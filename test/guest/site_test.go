//go:build guest

package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// siteServices is how many services the demo site has.
	siteServices = 12
	siteFile     = `[site]
host = "campus.localhost"
name = "Campus"
contact = "hello@campus.localhost"
language = "en"
release = "campus"
[images.mirrors]
"registry.test" = ["http://127.0.0.1:5000"]
`
	// witness tells on the console what still runs when tarima.service has
	// ended with the machine.
	witness = `[Unit]
Before=tarima.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=/bin/sh -c 'echo witness: left $(ls -d /sys/fs/cgroup/tarima.slice/*/*.scope 2> /dev/null) end > /dev/ttyS0'
`
)

// addPackage puts the package, the fixture images and a registry for them into
// the payload.
func addPackage(ctx context.Context, top, files string) error {
	found, err := filepath.Glob(filepath.Join(top, "dist", "*.deb"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("there are %d packages in dist, one is wanted: make package makes it", len(found))
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, "tarima.deb"), data, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, "tarima.toml"), []byte(siteFile), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, "witness.service"), []byte(witness), 0o644); err != nil {
		return err
	}
	images, err := filepath.EvalSymlinks(filepath.Join(top, "dist", "images", "layout"))
	if err != nil {
		return fmt.Errorf("%w: make images makes them", err)
	}
	if err := os.CopyFS(filepath.Join(files, "images"), os.DirFS(images)); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(files, "registry"), "./test/registry/cmd/registry")
	build.Dir = top
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the registry: %w\n%s", err, out)
	}
	return nil
}

// TestSite runs the shipped package with a whole site of containers. It comes
// last and leaves the site running: the guest's poweroff ends it, which
// TestMain looks at.
func TestSite(t *testing.T) {
	if testing.Short() {
		t.Fatal("the payload of the short form has no images: leave this test out, as make guest GUEST=-short does")
	}
	must(t, "systemd-run --quiet --unit=images /payload/registry -listen 127.0.0.1:5000 /payload/images")
	must(t, "dpkg -i /payload/tarima.deb && cp /payload/tarima.toml /etc/tarima/ && systemctl restart tarima")
	started := time.Now()
	if !t.Run("Ready", waitReady) {
		t.Log(must(t, "journalctl -q -o cat -n 60 -u tarima"))
		return
	}
	t.Logf("the site is ready after %s", time.Since(started).Round(time.Second))
	t.Run("Limits", siteLimits)
	t.Run("Restart", func(t *testing.T) { goesOn(t, "systemctl restart tarima") })
	t.Run("KillDaemon", func(t *testing.T) { goesOn(t, "kill -9 $(systemctl show -P MainPID tarima)") })
	t.Run("OutOfMemory", siteOutOfMemory)
	t.Run("StopOfADeadDaemon", func(t *testing.T) {
		stopsAll(t, "kill -9 $(systemctl show -P MainPID tarima); systemctl stop tarima")
	})
	t.Run("Stop", func(t *testing.T) { stopsAll(t, "systemctl stop tarima") })
	must(t, "cp /payload/witness.service /etc/systemd/system/ && systemctl daemon-reload && systemctl start witness")
	witnessed = true
}

// waitReady waits until the whole site is ready.
func waitReady(t *testing.T) {
	deadline := time.Now().Add(40 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		out, err := guest.run(ctx, nil, "tarima status --no-color")
		cancel()
		if err == nil {
			return
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || time.Now().After(deadline) {
			t.Fatalf("the site is not ready: %v\n%s", err, out)
		}
		select {
		case <-t.Context().Done():
			return
		case <-time.After(3 * time.Second):
		}
	}
}

const listProcesses = `cd /sys/fs/cgroup/tarima.slice/tarima-default.slice 2> /dev/null || exit 0
	for scope in *.scope; do [ ! -d $scope ] || echo $scope $(head -n 1 $scope/cgroup.procs); done`

// siteLimits: what the supervisor decides about memory, processes, CPU, open
// files and who is killed first is in force, and systemd shows every scope.
func siteLimits(t *testing.T) {
	units := must(t, "systemctl list-units --type=scope --state=running --no-legend --plain 'tarima-default.*'")
	if n := len(strings.Split(units, "\n")); n != siteServices {
		t.Errorf("systemd shows %d running scopes, not %d:\n%s", n, siteServices, units)
	}
	if out := must(t, "systemd-cgtop --batch --iterations=1 --depth=4 --raw"); !strings.Contains(out, "tarima.slice/tarima-default.slice/tarima-default.lms.scope") {
		t.Errorf("systemd-cgtop shows:\n%s", out)
	}
	number := func(line string) int64 {
		t.Helper()
		text := must(t, line)
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Errorf("%s: %q", line, text)
		}
		return n
	}
	var scores []int64
	for _, service := range []string{"lms", "mysql"} {
		scope := "/sys/fs/cgroup/tarima.slice/tarima-default.slice/tarima-default." + service + ".scope"
		limit := number("cat " + scope + "/memory.max")
		if shown := number("systemctl show -P MemoryMax tarima-default." + service + ".scope"); limit <= 0 || shown != limit {
			t.Errorf("%s: memory.max is %d, systemd knows %d", service, limit, shown)
		}
		if pids := number("cat " + scope + "/pids.max"); pids <= 0 {
			t.Errorf("%s: pids.max is %d", service, pids)
		}
		if weight := number("cat " + scope + "/cpu.weight"); weight <= 0 {
			t.Errorf("%s: cpu.weight is %d", service, weight)
		}
		scores = append(scores, number("cat /proc/$(head -n 1 "+scope+"/cgroup.procs)/oom_score_adj"))
	}
	if scores[0] <= scores[1] {
		t.Errorf("oom_score_adj of lms is %d, that of mysql %d: the database would be killed first", scores[0], scores[1])
	}
	// More than the hard limit of a login.
	if files := must(t, "grep 'Max open files' /proc/$(head -n 1 /sys/fs/cgroup/tarima.slice/tarima-default.slice/tarima-default.mysql.scope/cgroup.procs)/limits"); len(strings.Fields(files)) < 5 || strings.Fields(files)[4] != "65536" {
		t.Errorf("mysql: %s", files)
	}
	if daemon := number("cat /proc/$(systemctl show -P MainPID tarima)/oom_score_adj"); daemon != -500 {
		t.Errorf("the daemon's oom_score_adj is %d", daemon)
	}
}

// goesOn does something to the daemon that no container may feel.
func goesOn(t *testing.T, line string) {
	before, daemon := must(t, listProcesses), must(t, "systemctl show -P InvocationID tarima")
	must(t, line)
	waitReady(t)
	if now := must(t, "systemctl show -P InvocationID tarima"); now == daemon {
		t.Error("the daemon is the same")
	}
	if now := must(t, listProcesses); now != before || before == "" {
		t.Errorf("containers were\n%s\nand are\n%s", before, now)
	}
}

// siteOutOfMemory: one service without memory is named, the others go on.
func siteOutOfMemory(t *testing.T) {
	const worker = "tarima-default.lms-worker.scope"
	before := must(t, listProcesses+" | grep -v "+worker)
	// In the container's cgroup, more than its limit.
	must(t, "limit=$(cat /sys/fs/cgroup/tarima.slice/tarima-default.slice/"+worker+"/memory.max); "+
		"sh -c 'echo $$ > /sys/fs/cgroup/tarima.slice/tarima-default.slice/"+worker+"/cgroup.procs; "+
		"echo 1000 > /proc/self/oom_score_adj; exec head -c $1 /dev/zero | tail' sh $((limit * 2)) > /dev/null 2>&1; true")
	if kills := must(t, "sed -n 's/^oom_kill //p' /sys/fs/cgroup/tarima.slice/tarima-default.slice/memory.events"); kills == "0" {
		t.Error("the kernel has killed nobody")
	}
	waitReady(t)
	if events := must(t, "tarima events --tail 50"); !strings.Contains(events, "memory") {
		t.Errorf("the events do not tell of it:\n%s", events)
	}
	if now := must(t, listProcesses+" | grep -v "+worker); now != before {
		t.Errorf("containers were\n%s\nand are\n%s", before, now)
	}
}

// stopsAll does something after which nothing of the site may be left, and
// brings it up again.
func stopsAll(t *testing.T, line string) {
	must(t, line)
	if left := must(t, listProcesses); left != "" {
		t.Errorf("containers are left:\n%s", left)
	}
	if left := must(t, "ip -br link | grep tarima; systemctl list-units --all --no-legend --plain 'tarima-default*' tarima.slice; true"); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
	if left := must(t, `for p in /proc/[0-9]*; do case "$(readlink $p/exe)" in *tarima-shim*) echo $p;; esac; done 2> /dev/null`); left != "" {
		t.Errorf("shims are left:\n%s", left)
	}
	must(t, "systemctl start tarima")
	waitReady(t)
}

// witnessed says that a unit of the guest tells at poweroff what is left.
var witnessed bool

// checkWitness reads what that unit told.
func checkWitness() error {
	if !witnessed {
		return nil
	}
	data, err := os.ReadFile(guest.console)
	if err != nil {
		return err
	}
	if !strings.Contains(string(data), "witness: left end") {
		return fmt.Errorf("poweroff has left something of the site running, or its witness did not run:\n%s", tail(string(data), 30))
	}
	return nil
}
