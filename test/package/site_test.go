//go:build e2e

package install

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// siteServices is how many services the demo site has.
const siteServices = 12

// TestSite runs a whole site of real containers under the installed package
// and a real systemd: who lives on when the daemon ends, and who does not. The
// guest has the cgroups that its host can give; limits are tried by make guest.
func TestSite(t *testing.T) {
	s := bootSite(t)
	steps := []struct {
		name string
		step func(*testing.T)
	}{
		{"Start", s.start},
		{"Scopes", s.scopes},
		{"Restart", s.restart},
		{"KillDaemon", s.killDaemon},
		{"Upgrade", s.upgrade},
		{"StopOfADeadDaemon", s.stopDead},
		{"StopBeforeReady", s.stopBeforeReady},
		{"Stop", s.stop},
		{"Poweroff", s.poweroff},
	}
	for _, step := range steps {
		if !t.Run(step.name, step.step) {
			_, log := s.sh(t, "tarima status --no-color; journalctl --sync; journalctl -q -o short-precise -n 60 -u tarima -u tarima-proxy")
			t.Logf("status and journal:\n%s", log)
			t.FailNow()
		}
	}
}

// realSite is a guest with a site of containers.
type realSite struct{ *guest }

// bootSite boots a guest that has the fixture images.
func bootSite(t *testing.T) *realSite {
	t.Helper()
	images, err := filepath.EvalSymlinks(filepath.Join(top, "dist", "images", "layout"))
	if err != nil {
		t.Fatalf("%v: make images makes them", err)
	}
	root, err := rootFile(t.Context(), filepath.Join(top, "dist", "guest"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	g, err := boot(t.Context(), dir, root, "--bind-ro="+images+":/images")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.kill)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "shared", "registry"), "./test/registry/cmd/registry")
	build.Dir = top
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the registry: %v\n%s", err, out)
	}
	for from, to := range map[string]string{deb: "tarima.deb", newer: "newer.deb"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "shared", to), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &realSite{g}
}

// start installs the package and brings the site up.
func (s *realSite) start(t *testing.T) {
	s.must(t, "systemd-run --quiet --unit=images /test/registry -listen 127.0.0.1:5000 /images")
	s.must(t, "apt-get install -y --no-install-recommends /test/tarima.deb")
	s.must(t, `cat > /etc/tarima/tarima.toml <<'TOML'
[site]
host = "`+siteHost+`"
name = "Campus"
contact = "hello@campus.localhost"
language = "en"
release = "campus"
[images.mirrors]
"registry.test" = ["http://127.0.0.1:5000"]
TOML
	systemctl restart tarima`)
	s.waitReady(t)
	s.visit(t)
}

// waitReady waits until the whole site is ready.
func (s *realSite) waitReady(t *testing.T) {
	t.Helper()
	err := wait(t.Context(), 5*time.Minute, func() error {
		if code, out := s.sh(t, "tarima status --no-color"); code != 0 {
			return errors.New(out)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("the site is ready: %v", err)
	}
}

// visit asks for the front page as a browser does.
func (s *realSite) visit(t *testing.T) {
	t.Helper()
	got := s.must(t, `curl -sS -o /dev/null --cacert /var/lib/tarima-proxy/ca/ca.pem --max-time 30 -w '%{http_code}' --resolve `+siteHost+`:443:127.0.0.1 https://`+siteHost+`/`)
	if got != "200" {
		t.Errorf("the site answers %s", got)
	}
}

// processes are the containers' first processes, a line for each scope.
func (s *realSite) processes(t *testing.T) string {
	t.Helper()
	return s.must(t, `cd /sys/fs/cgroup/tarima.slice/tarima-default.slice 2> /dev/null || exit 0
		for scope in *.scope; do [ ! -d $scope ] || echo $scope $(head -n 1 $scope/cgroup.procs); done`)
}

// scopes: systemd shows every container by its service's name.
func (s *realSite) scopes(t *testing.T) {
	units := s.must(t, "systemctl list-units --type=scope --state=running --no-legend --plain 'tarima-default.*'")
	if n := len(strings.Split(units, "\n")); n != siteServices {
		t.Errorf("systemd shows %d running scopes, not %d:\n%s", n, siteServices, units)
	}
	for _, service := range []string{"lms", "cms", "mysql", "mongodb", "redis", "mfe"} {
		unit := "tarima-default." + service + ".scope"
		if slice := s.show(t, unit, "Slice"); slice != "tarima-default.slice" {
			t.Errorf("%s is in %q", unit, slice)
		}
		// By the kernel's name of the process that systemd sees in it.
		if out := s.must(t, "systemctl status --no-pager "+unit); !strings.Contains(out, "active (running)") {
			t.Errorf("%s:\n%s", unit, out)
		}
	}
	if out := s.must(t, "systemd-cgtop --batch --iterations=1 --depth=4 --raw"); !strings.Contains(out, "tarima.slice/tarima-default.slice/tarima-default.lms.scope") {
		t.Errorf("systemd-cgtop shows:\n%s", out)
	}
}

// goesOn does something to the daemon that no container may feel.
func (s *realSite) goesOn(t *testing.T, do func()) {
	t.Helper()
	before, daemon := s.processes(t), s.show(t, "tarima", "MainPID")
	do()
	s.eventually(t, "another daemon runs", func() error {
		_, out := s.sh(t, "systemctl show -P MainPID tarima; systemctl is-active tarima")
		pid, state, _ := strings.Cut(out, "\n")
		if pid == daemon || pid == "0" || state != "active" {
			return fmt.Errorf("process %s, before %s; %s", pid, daemon, state)
		}
		return nil
	})
	s.waitReady(t)
	if now := s.processes(t); now != before || before == "" {
		t.Errorf("containers were\n%s\nand are\n%s", before, now)
	}
	s.visit(t)
}

func (s *realSite) restart(t *testing.T) {
	s.goesOn(t, func() { s.must(t, "systemctl restart tarima") })
}

func (s *realSite) killDaemon(t *testing.T) {
	s.goesOn(t, func() { s.must(t, "kill -9 $(systemctl show -P MainPID tarima)") })
}

func (s *realSite) upgrade(t *testing.T) {
	s.goesOn(t, func() { s.must(t, "apt-get install -y --no-install-recommends /test/newer.deb") })
}

// stopsAll does something after which nothing of the site may be left, when it
// returns: no container, no shim, no daemon, no interface, no slice.
func (s *realSite) stopsAll(t *testing.T, said string, do func()) {
	t.Helper()
	cursor := s.cursor(t)
	do()
	if left := s.processes(t); left != "" {
		t.Errorf("containers are left:\n%s", left)
	}
	if _, out := s.sh(t, ourProcesses+" | grep -v ' tarima-proxy$'"); out != "" {
		t.Errorf("processes are left:\n%s", out)
	}
	if out := s.must(t, `ip -br link | grep tarima; nft list tables | grep tarima
		systemctl list-units --all --no-legend --plain 'tarima-default*' tarima.slice; true`); out != "" {
		t.Errorf("left on the host:\n%s", out)
	}
	log := s.journal(t, "tarima", cursor)
	if !strings.Contains(log, said) {
		t.Errorf("the stop says:\n%s", log)
	}
	inOrder(t, log)
	if code, out := s.sh(t, "tarima status"); code != 3 {
		t.Errorf("tarima status of a stopped daemon: exit code %d\n%s", code, out)
	}
	s.must(t, "systemctl start tarima")
	s.waitReady(t)
	s.visit(t)
}

var (
	stoppedEvent = regexp.MustCompile(`kind"?[=:]"?stopped"?,?[ "]+service"?[=:]"?([a-z-]+)`)
	exitedEvent  = regexp.MustCompile(`kind"?[=:]"?exited"?`)
)

// inOrder looks for a stop of the whole site in a log: nothing ends by itself,
// and nothing is stopped before what needs it.
func inOrder(t *testing.T, log string) {
	t.Helper()
	at := map[string]int{}
	for i, m := range stoppedEvent.FindAllStringSubmatch(log, -1) {
		at[m[1]] = i
	}
	if len(at) != siteServices || exitedEvent.MatchString(log) {
		t.Errorf("%d of %d services were stopped in order:\n%s", len(at), siteServices, log)
	}
	for _, user := range []string{"lms", "cms", "lms-worker", "cms-worker"} {
		for _, database := range []string{"mysql", "mongodb", "redis"} {
			if at[user] > at[database] {
				t.Errorf("%s is stopped before %s:\n%s", database, user, log)
			}
		}
	}
}

const (
	stoppedByDaemon = "The site is stopped"
	stoppedWithout  = "the site is stopped without its daemon"
)

// stopDead stops the unit while its daemon is dead.
func (s *realSite) stopDead(t *testing.T) {
	s.stopsAll(t, stoppedWithout, func() {
		s.must(t, "kill -9 $(systemctl show -P MainPID tarima); systemctl stop tarima")
	})
}

// stopBeforeReady stops a unit whose daemon dies again and again: systemd
// asks no ExecStop then. The drop-in has it die at once.
func (s *realSite) stopBeforeReady(t *testing.T) {
	s.stopsAll(t, stoppedWithout, func() {
		s.must(t, `mkdir -p /run/systemd/system/tarima.service.d
			printf '[Service]\nExecStart=\nExecStart=/usr/bin/tarima daemon --root /dev/null\n' > /run/systemd/system/tarima.service.d/broken.conf
			systemctl daemon-reload; kill -9 $(systemctl show -P MainPID tarima)`)
		s.eventually(t, "systemd starts the daemon again and again", func() error {
			if n := s.show(t, "tarima", "NRestarts"); n == "" || len(n) == 1 && n < "4" {
				return errors.New(n + " restarts")
			}
			return nil
		})
		if s.processes(t) == "" {
			t.Error("the containers have not gone on without a daemon")
		}
		s.must(t, `systemctl stop tarima
			rm /run/systemd/system/tarima.service.d/broken.conf; systemctl daemon-reload`)
	})
}

func (s *realSite) stop(t *testing.T) {
	s.stopsAll(t, stoppedByDaemon, func() { s.must(t, "systemctl stop tarima") })
}

// poweroff: nothing of the site is left when systemd comes to its own end of
// whatever still runs. A unit that is stopped after Tarima's sees it.
func (s *realSite) poweroff(t *testing.T) {
	s.must(t, `cat > /etc/systemd/system/witness.service <<'UNIT'
[Unit]
Before=tarima.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=/bin/sh -c 'echo left: $(ls -d /sys/fs/cgroup/tarima.slice/*/*.scope 2> /dev/null) > /test/witness'
UNIT
		systemctl daemon-reload; systemctl start witness
		mkdir -p /etc/systemd/system/tarima.service.d
		printf '[Service]\nStandardOutput=append:/test/last.log\nStandardError=append:/test/last.log\n' > /etc/systemd/system/tarima.service.d/log.conf
		systemctl daemon-reload && systemctl restart tarima && : > /test/last.log`)
	s.waitReady(t)
	if err := s.guest.poweroff(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "shared", "last.log"))
	if err != nil {
		t.Fatal(err)
	}
	if log := string(data); !strings.Contains(log, stoppedByDaemon) {
		t.Errorf("the last words are:\n%s", tail(log, 20))
	} else {
		inOrder(t, log)
	}
	if data, err = os.ReadFile(filepath.Join(s.dir, "shared", "witness")); err != nil || string(data) != "left:\n" {
		t.Errorf("when tarima.service has ended: %q, %v", data, err)
	}
}
