//go:build e2e

package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const siteHost = "campus.localhost"

// The steps are those of one server's life: each goes on where the one before
// ended, so that the first that fails ends the test.
func TestLife(t *testing.T) {
	before := remains(t)
	steps := []struct {
		name string
		step func(*testing.T)
	}{
		{"install", install},
		{"NoSiteYet", noSiteYet},
		{"FirstSite", firstSite},
		{"Proxy", proxyServes},
		{"WrongSiteFile", wrongSiteFile},
		{"Restart", restartDaemon},
		{"KillDaemon", killDaemon},
		{"KillProxy", killProxy},
		{"Watchdog", watchdog},
		{"StopAndStart", stopAndStart},
		{"UpgradeOfWhatRuns", upgradeRunning},
		{"UpgradeOfWhatIsStopped", upgradeStopped},
		{"Remove", func(t *testing.T) { removePackage(t, before) }},
		{"Purge", func(t *testing.T) { purgePackage(t, before) }},
		{"Poweroff", poweroff},
	}
	for _, s := range steps {
		if !t.Run(s.name, s.step) {
			_, log := site.sh(t, "journalctl --sync; journalctl -q -o short-precise -n 60 -u tarima -u tarima-proxy")
			t.Logf("the journal:\n%s", log)
			t.FailNow()
		}
	}
}

// ourProcesses lists the program and the user of each process of the package,
// those of removed files included.
const ourProcesses = `for p in /proc/[0-9]*; do
	case "$(readlink $p/exe)" in *tarima*) echo "$(readlink $p/exe | tr ' ' _) $(stat -c %U $p)" ;; esac
done 2> /dev/null`

// remains are what a package may leave: mounts, interfaces, network
// namespaces, firewall tables, cgroups, processes and failed units.
func remains(t *testing.T) []string {
	t.Helper()
	all := site.must(t, `
		findmnt -rn -o TARGET | sed 's/^/mount /'
		ip -br link | sed 's/^\([^ @]*\).*/interface \1/'
		lsns -n -t net -o NS | sort -u | sed 's/.*/network namespace/'
		nft list tables | sed 's/^/firewall /'
		find /sys/fs/cgroup -type d -name '*tarima*' | sed 's/^/cgroup /'
		`+ourProcesses+` | sed 's/ .*//; s/^/process /'
		systemctl --failed --no-legend --plain | sed 's/^/failed unit /'
		find /run -maxdepth 1 -name '*tarima*' | sed 's/^/folder /'
		true`)
	lines := strings.Split(all, "\n")
	slices.Sort(lines)
	return lines
}

// sameRemains fails when something is there that was not before.
func sameRemains(t *testing.T, before []string) {
	t.Helper()
	site.eventually(t, "nothing is left", func() error {
		var left []string
		had := slices.Clone(before)
		for _, line := range remains(t) {
			if i := slices.Index(had, line); i >= 0 {
				had = slices.Delete(had, i, i+1)
			} else {
				left = append(left, line)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left: %s", strings.Join(left, "; "))
		}
		return nil
	})
}

// install installs the package as the README says.
func install(t *testing.T) {
	out := site.must(t, "apt-get install -y --no-install-recommends /test/tarima.deb")
	if !strings.Contains(out, "cp /usr/share/tarima/tarima.toml /etc/tarima/tarima.toml") {
		t.Errorf("the installation does not say what is next:\n%s", out)
	}
	for _, unit := range []string{"tarima.service", "tarima-proxy.service"} {
		if got := site.must(t, "systemctl is-enabled "+unit+"; systemctl is-active "+unit); got != "enabled\nactive" {
			t.Errorf("%s is %q", unit, got)
		}
	}
	mustHaveSockets(t)
	site.must(t, "man -w tarima-status && tarima version && /usr/libexec/tarima/runc --version")
	if code, out := site.sh(t, "systemd-analyze verify /lib/systemd/system/tarima.service /lib/systemd/system/tarima-proxy.service"); code != 0 || out != "" {
		t.Errorf("systemd-analyze verify (exit code %d):\n%s", code, out)
	}
	out = site.must(t, "systemd-analyze security --no-pager tarima-proxy.service | tail -n 1")
	score, err := strconv.ParseFloat(regexp.MustCompile(`\d+\.\d+`).FindString(out), 64)
	if err != nil || score > 1.6 {
		t.Errorf("the proxy is more exposed than 1.6: %s", out)
	}
}

// mustHaveSockets checks who may command, and who may look.
func mustHaveSockets(t *testing.T) {
	t.Helper()
	want := "600 root root /run/tarima/control.sock\n660 root tarima /run/tarima/read.sock\n600 tarima-proxy tarima-proxy /run/tarima-proxy/routes.sock"
	const ask = "stat -c '%a %U %G %n' /run/tarima/control.sock /run/tarima/read.sock /run/tarima-proxy/routes.sock"
	site.eventually(t, "the sockets are there", func() error {
		if _, got := site.sh(t, ask); got != want {
			return fmt.Errorf("sockets are\n%s\nnot\n%s", got, want)
		}
		return nil
	})
}

// noSiteYet: the daemon is up and says what to do.
func noSiteYet(t *testing.T) {
	if status := site.show(t, "tarima", "StatusText"); !strings.Contains(status, "/etc/tarima/tarima.toml") || !strings.Contains(status, "systemctl reload tarima") {
		t.Errorf("systemctl status says %q", status)
	}
	code, out := site.sh(t, "tarima status")
	if code != 4 || !strings.Contains(out, "no site is set up yet") || !strings.Contains(out, "sudo cp /usr/share/tarima/tarima.toml /etc/tarima/tarima.toml") {
		t.Errorf("tarima status: exit code %d\n%s", code, out)
	}
	code, out = site.sh(t, "LANG=es_CO.UTF-8 tarima status")
	if code != 4 || !strings.Contains(out, "aún no hay un sitio") {
		t.Errorf("tarima status in Spanish: exit code %d\n%s", code, out)
	}
	cursor := site.cursor(t)
	if code, _ := site.sh(t, "systemctl reload tarima"); code == 0 {
		t.Error("a reload without a site file succeeds")
	}
	if log := site.journal(t, "tarima", cursor); !strings.Contains(log, "there is no site file /etc/tarima/tarima.toml; begin with a copy of") {
		t.Errorf("the failed reload says:\n%s", log)
	}
	if state := site.must(t, "systemctl is-active tarima"); state != "active" {
		t.Errorf("after a failed reload the daemon is %s", state)
	}
}

// firstSite: the example with a name of one's own is a site.
func firstSite(t *testing.T) {
	proxy := site.show(t, "tarima-proxy", "MainPID")
	site.must(t, `sed 's/"learn.example.org"$/"`+siteHost+`"/; s/^# hold = "30s" .*/hold = "1s"/' /usr/share/tarima/tarima.toml > /etc/tarima/tarima.toml
		tarima check && systemctl reload tarima`)
	site.eventually(t, "systemctl status shows the site's state", func() error {
		if text := site.show(t, "tarima", "StatusText"); !regexp.MustCompile(`^\w+, \d+ of \d+ services ready$`).MatchString(text) {
			return fmt.Errorf("it shows %q", text)
		}
		return nil
	})
	site.eventually(t, "a proxy with the site file's hold has taken over", func() error {
		if pid := site.show(t, "tarima-proxy", "MainPID"); pid == proxy || pid == "0" {
			return fmt.Errorf("the proxy is process %s", pid)
		}
		return nil
	})
	code, out := site.sh(t, "tarima status --no-color")
	if code != 4 || !strings.HasPrefix(out, siteHost+"  ") || !strings.Contains(out, "\nmysql ") {
		t.Errorf("tarima status: exit code %d\n%s", code, out)
	}
}

// proxyServes: unprivileged, on the usual ports, with a certificate that
// chains to its own authority.
func proxyServes(t *testing.T) {
	if user := site.must(t, "ps -o user:20= -p $(systemctl show -P MainPID tarima-proxy)"); user != "tarima-proxy" {
		t.Errorf("the proxy runs as %s", user)
	}
	caps := site.must(t, "grep CapEff /proc/$(systemctl show -P MainPID tarima-proxy)/status")
	const bindService = "0000000000000400" // CAP_NET_BIND_SERVICE alone, capability 10
	if !strings.HasSuffix(caps, bindService) {
		t.Errorf("the proxy has the capabilities %s", caps)
	}
	site.eventually(t, "https is answered with the waiting page", func() error { return waitingPage(t) })
	got := site.must(t, `curl -s -o /dev/null -w '%{http_code} %{redirect_url}' --resolve `+siteHost+`:80:127.0.0.1 http://`+siteHost+`/courses`)
	if !regexp.MustCompile(`^30[1278] https://` + siteHost + `/courses$`).MatchString(got) {
		t.Errorf("http is answered with %q", got)
	}
	if n := site.show(t, "tarima-proxy", "NFileDescriptorStore"); n != "2" {
		t.Errorf("systemd keeps %s of the proxy's two sockets", n)
	}
}

// waitingPage asks for the site as a browser does.
func waitingPage(t *testing.T) error {
	code, out := site.sh(t, `curl -sS --cacert /var/lib/tarima-proxy/ca/ca.pem --max-time 20 -H 'Accept: text/html' -w '\n%{http_code}' --resolve `+siteHost+`:443:127.0.0.1 https://`+siteHost+`/`)
	if code != 0 || !strings.HasSuffix(out, "\n503") || !strings.Contains(strings.ToLower(out), "<!doctype html") {
		return fmt.Errorf("curl ends with %d:\n%s", code, tail(out, 5))
	}
	return nil
}

// wrongSiteFile: refused as a whole, with the line, and nothing changes.
func wrongSiteFile(t *testing.T) {
	generation := site.must(t, "tarima status --json | grep -m1 '\"generation\"'; true")
	site.must(t, `cp /etc/tarima/tarima.toml /root/right.toml; sed -i 's/^\[proxy\]/[proxy]\nhtps = ":444"/' /etc/tarima/tarima.toml`)
	line, _, _ := strings.Cut(site.must(t, "grep -n '^htps' /etc/tarima/tarima.toml"), ":")
	daemon, cursor := site.show(t, "tarima", "MainPID"), site.cursor(t)
	if code, _ := site.sh(t, "systemctl reload tarima"); code == 0 {
		t.Error("a reload with a wrong site file succeeds")
	}
	log := site.journal(t, "tarima", cursor)
	if !strings.Contains(log, "/etc/tarima/tarima.toml:"+line+":") || !strings.Contains(log, `did you mean "https"`) {
		t.Errorf("the failed reload says:\n%s", log)
	}
	if now := site.show(t, "tarima", "MainPID"); now != daemon {
		t.Errorf("the daemon was process %s and is %s", daemon, now)
	}
	if now := site.must(t, "tarima status --json | grep -m1 '\"generation\"'; true"); now != generation || generation == "" {
		t.Errorf("generation was %q and is %q", generation, now)
	}

	// Started with it, the last applied site goes on and the trouble is told.
	site.must(t, "systemctl restart tarima")
	site.eventually(t, "tarima status tells of the wrong file", func() error {
		_, out := site.sh(t, "tarima status --no-color")
		if !strings.Contains(out, "/etc/tarima/tarima.toml:"+line+":") || !strings.Contains(out, "the last applied one goes on") || !strings.Contains(out, "\nmysql ") {
			return errors.New(out)
		}
		return nil
	})
	site.must(t, "cp /root/right.toml /etc/tarima/tarima.toml && systemctl reload tarima")
	if _, out := site.sh(t, "tarima status --no-color"); strings.Contains(out, "goes on") {
		t.Errorf("the trouble is still told:\n%s", out)
	}
}

// untouched runs something that must leave the proxy alone and bring another
// daemon up.
func untouched(t *testing.T, what string, do func()) {
	t.Helper()
	daemon, proxy := site.show(t, "tarima", "MainPID"), site.show(t, "tarima-proxy", "MainPID")
	do()
	site.eventually(t, "the daemon is back after "+what, func() error {
		_, out := site.sh(t, "systemctl show -P MainPID tarima; systemctl is-active tarima")
		pid, state, _ := strings.Cut(out, "\n")
		if pid == daemon || pid == "0" || state != "active" {
			return fmt.Errorf("process %s, before %s; %s", pid, daemon, state)
		}
		return nil
	})
	mustHaveSockets(t)
	site.eventually(t, "tarima status answers", func() error {
		if code, out := site.sh(t, "tarima status"); code != 4 {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	})
	if now := site.show(t, "tarima-proxy", "MainPID"); now != proxy {
		t.Errorf("%s: the proxy was process %s and is %s", what, proxy, now)
	}
}

// restartDaemon: unit-stop sees that it is no stop.
func restartDaemon(t *testing.T) {
	cursor := site.cursor(t)
	untouched(t, "systemctl restart", func() { site.must(t, "systemctl restart tarima") })
	log := site.journal(t, "tarima", cursor)
	if !strings.Contains(log, "the containers go on") || strings.Contains(log, "The site is stopped") {
		t.Errorf("the restart says:\n%s", log)
	}
	if result := site.must(t, "systemctl show -P ExecStop tarima"); strings.Contains(result, "code=exited ; status=1") {
		t.Errorf("unit-stop: %s", result)
	}
}

// killDaemon: systemd brings it back, and the site goes on.
func killDaemon(t *testing.T) {
	cursor := site.cursor(t)
	untouched(t, "kill -9", func() { site.must(t, "kill -9 $(systemctl show -P MainPID tarima)") })
	if log := site.journal(t, "tarima", cursor); strings.Contains(log, "The site is stopped") || strings.Contains(log, "status=3") {
		t.Errorf("the crash says:\n%s", log)
	}
}

// killProxy: visitors wait in the sockets that systemd keeps.
func killProxy(t *testing.T) {
	site.must(t, "kill -9 $(systemctl show -P MainPID tarima-proxy)")
	if err := waitingPage(t); err != nil {
		t.Errorf("right after kill -9 of the proxy: %v", err)
	}
	site.must(t, "systemctl is-active tarima-proxy")
}

// watchdog: what hangs is ended and started again.
func watchdog(t *testing.T) {
	site.must(t, `for unit in tarima tarima-proxy; do
		mkdir -p /run/systemd/system/$unit.service.d
		printf '[Service]\nWatchdogSec=2s\n' > /run/systemd/system/$unit.service.d/watchdog.conf
	done
	systemctl daemon-reload && systemctl restart tarima tarima-proxy`)
	for _, unit := range []string{"tarima", "tarima-proxy"} {
		pid, restarts, cursor := site.show(t, unit, "MainPID"), site.show(t, unit, "NRestarts"), site.cursor(t)
		site.must(t, "kill -STOP "+pid)
		site.eventually(t, unit+" is restarted by its watchdog", func() error {
			_, out := site.sh(t, "systemctl show -P MainPID "+unit+"; systemctl is-active "+unit+"; systemctl show -P NRestarts "+unit)
			f := strings.Fields(out)
			if len(f) != 3 || f[0] == pid || f[1] != "active" || f[2] == restarts {
				return fmt.Errorf("process, state, restarts: %v", f)
			}
			return nil
		})
		if log := site.journal(t, unit, cursor); !strings.Contains(log, "Failed with result 'watchdog'") {
			t.Errorf("%s was not restarted by its watchdog:\n%s", unit, tail(log, 20))
		}
	}
	site.must(t, `rm -r /run/systemd/system/tarima*.service.d && systemctl daemon-reload && systemctl restart tarima tarima-proxy`)
}

// stopAndStart: a stop stops the site in order and leaves no process.
func stopAndStart(t *testing.T) {
	cursor := site.cursor(t)
	site.must(t, "systemctl stop tarima")
	if log := site.journal(t, "tarima", cursor); !strings.Contains(log, "The site is stopped") || strings.Contains(log, "Found left-over process") {
		t.Errorf("the stop says:\n%s", log)
	}
	if state := site.show(t, "tarima", "Result"); state != "success" {
		t.Errorf("the stop ends with %s", state)
	}
	if _, out := site.sh(t, ourProcesses+" | grep -v ' tarima-proxy$'"); out != "" {
		t.Errorf("processes are left:\n%s", out)
	}
	if code, out := site.sh(t, "tarima status"); code != 3 || !strings.Contains(out, "systemctl start tarima") {
		t.Errorf("tarima status of a stopped daemon: exit code %d\n%s", code, out)
	}
	if err := waitingPage(t); err != nil {
		t.Errorf("the proxy of a stopped site: %v", err)
	}
	site.must(t, "systemctl stop tarima-proxy")
	if code, _ := site.sh(t, "curl -sk --max-time 5 https://127.0.0.1/"); code != 7 { // refused
		t.Errorf("a stopped proxy is answered with curl's code %d", code)
	}
	site.must(t, "systemctl start tarima")
	mustHaveSockets(t) // the proxy comes with the daemon
	site.eventually(t, "the site starts again", func() error {
		if _, out := site.sh(t, "tarima status --no-color"); !regexp.MustCompile(`(?m)^mysql +(pulling|backoff|waiting|failing|starting)`).MatchString(out) {
			return errors.New(out)
		}
		return nil
	})
}

// upgradeRunning: the daemon is restarted, the proxy hands over, nobody is
// refused.
func upgradeRunning(t *testing.T) {
	daemon, proxy := site.show(t, "tarima", "MainPID"), site.show(t, "tarima-proxy", "MainPID")
	started := site.show(t, "tarima-proxy", "ActiveEnterTimestampMonotonic")
	cursor := site.cursor(t)
	// Visitors come all the while.
	site.must(t, `rm -f /root/stop /root/visits; (while [ ! -e /root/stop ]; do
		curl -sSk -o /dev/null --max-time 20 -w '%{http_code}\n' --resolve `+siteHost+`:80:127.0.0.1 http://`+siteHost+`/ || echo refused; done > /root/visits 2>&1; touch /root/stopped) > /dev/null 2>&1 &
		until [ -s /root/visits ]; do :; done`)
	site.must(t, "apt-get install -y --no-install-recommends /test/newer.deb")
	site.eventually(t, "the proxy's successor serves", func() error {
		if now := site.show(t, "tarima-proxy", "MainPID"); now == proxy || now == "0" {
			return fmt.Errorf("the proxy is process %s", now)
		}
		return nil
	})
	site.must(t, "touch /root/stop")
	site.eventually(t, "the visitors are gone", func() error {
		if code, _ := site.sh(t, "test -e /root/stopped"); code != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if visits := site.must(t, "sort /root/visits | uniq -c"); strings.Contains(visits, "refused") {
		t.Errorf("visitors during the upgrade saw:\n%s", visits)
	}
	if now := site.show(t, "tarima-proxy", "ActiveEnterTimestampMonotonic"); now != started {
		t.Error("the proxy's unit was restarted")
	}
	if now := site.show(t, "tarima", "MainPID"); now == daemon {
		t.Error("the daemon was not restarted")
	}
	if log := site.journal(t, "tarima", cursor); !strings.Contains(log, "the containers go on") {
		t.Errorf("the upgrade says:\n%s", log)
	}
	mustHaveSockets(t)
	// The successor is looked after as its predecessor was.
	proxy = site.show(t, "tarima-proxy", "MainPID")
	site.must(t, "kill -9 "+proxy)
	if err := waitingPage(t); err != nil {
		t.Errorf("after kill -9 of the successor: %v", err)
	}
}

// upgradeStopped: what the administrator stopped stays stopped.
func upgradeStopped(t *testing.T) {
	site.must(t, "systemctl disable --now tarima && systemctl stop tarima-proxy")
	site.must(t, "apt-get install -y --no-install-recommends --reinstall /test/newer.deb")
	_, out := site.sh(t, "systemctl is-enabled tarima; systemctl is-active tarima; systemctl is-enabled tarima-proxy; systemctl is-active tarima-proxy")
	if out != "disabled\ninactive\nenabled\ninactive" {
		t.Errorf("enabled? active? %q", out)
	}
	site.must(t, "systemctl enable --now tarima tarima-proxy")
	site.eventually(t, "the daemon answers", func() error {
		if code, out := site.sh(t, "tarima status"); code != 4 {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	})
}

// removePackage: what the administrator wrote and the site's data stay,
// nothing runs and nothing is in the kernel.
func removePackage(t *testing.T, before []string) {
	site.must(t, "echo course > /var/lib/tarima/sites/course")
	site.must(t, "apt-get remove -y tarima")
	sameRemains(t, before)
	site.must(t, "test -s /etc/tarima/tarima.toml && test -s /var/lib/tarima/sites/course && test ! -e /usr/bin/tarima")
	if code, out := site.sh(t, "systemctl cat tarima.service"); code == 0 && !strings.Contains(out, "masked") {
		t.Errorf("the unit is still there:\n%s", out)
	}
}

// purgePackage: the data stay and that is said.
func purgePackage(t *testing.T, before []string) {
	out := site.must(t, "apt-get purge -y tarima")
	if !strings.Contains(out, "the site's data stays in /var/lib/tarima") {
		t.Errorf("the purge does not say that data stay:\n%s", out)
	}
	site.must(t, "test ! -e /etc/tarima && test -s /var/lib/tarima/sites/course && test ! -e /var/log/tarima")
	if out := site.must(t, "find /etc /lib/systemd /var/lib/systemd -name '*tarima*'"); out != "" {
		t.Errorf("left:\n%s", out)
	}
	sameRemains(t, before)
}

// poweroff: the site is stopped in order then, too.
func poweroff(t *testing.T) {
	site.must(t, "apt-get install -y --no-install-recommends /test/tarima.deb")
	site.must(t, `mkdir -p /etc/tarima /etc/systemd/system/tarima.service.d
		cp /root/right.toml /etc/tarima/tarima.toml
		printf '[Service]\nStandardOutput=append:/test/last.log\nStandardError=append:/test/last.log\n' > /etc/systemd/system/tarima.service.d/log.conf
		systemctl daemon-reload && systemctl restart tarima && : > /test/last.log`)
	if err := site.poweroff(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(site.dir, "shared", "last.log"))
	if err != nil {
		t.Fatal(err)
	}
	if log := string(data); !strings.Contains(log, "The site is stopped") {
		t.Errorf("the last words are:\n%s", tail(log, 20))
	}
}
