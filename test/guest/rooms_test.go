//go:build guest

package guest

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	engine  = "runtime/engine"
	network = "runtime/network"
)

// rooms are the packages whose tests run in the guest.
var rooms = []string{engine, network}

// patience only bounds tests that hang.
const patience = 2 * time.Hour

// needsGo are tests that look at the source and run where it is.
const needsGo = "TestNoUnwantedPackages"

// must runs a line in the guest that has to succeed.
func must(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := guest.run(ctx, nil, line)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(out)
}

var passed = regexp.MustCompile(`(?m)^--- PASS: `)

// runRoom runs tests of a room in the guest and fails as they do.
func runRoom(t *testing.T, room, environment string, flags ...string) {
	t.Helper()
	line := "mkdir -p /srv/" + room + " && cd /srv/" + room + " && cp -r /payload/" + room + "/. . && " +
		"env TARIMA_RUNC=/payload/runc " + environment + " ./room.test -test.v -test.timeout " + patience.String() + " " + strings.Join(flags, " ")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	started := time.Now()
	out, err := guest.run(ctx, t.Output(), line)
	if err != nil {
		t.Errorf("tests of %s: %v", room, err)
	}
	count := len(passed.FindAllString(out, -1))
	t.Logf("%s: %d tests passed in %s", room, count, time.Since(started).Round(time.Second))
	if count == 0 {
		t.Errorf("no test of %s ran", room)
	}
}

// TestGuestIsLikeUsersMachines makes sure that the other tests try what they
// are here for.
func TestGuestIsLikeUsersMachines(t *testing.T) {
	for line, want := range map[string]string{
		"cat /proc/1/comm":                    "systemd",
		"stat -f -c %T /sys/fs/cgroup":        "cgroup2fs",
		"grep -c /sys/fs/cgroup /proc/mounts": "1",
	} {
		if got := must(t, line); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	if controllers := must(t, "cat /sys/fs/cgroup/cgroup.controllers"); !strings.Contains(controllers, "memory") || !strings.Contains(controllers, "pids") {
		t.Errorf("the controllers are %q", controllers)
	}
}

// TestNetwork tries every pair of members with and without br_netfilter: with
// it, a bridge's frames would pass the rules of the host as well.
func TestNetwork(t *testing.T) {
	flags := []string{}
	if testing.Short() {
		flags = append(flags, "-test.run", "TestEveryPair")
	}
	t.Run("without br_netfilter", func(t *testing.T) {
		must(t, "test ! -e /proc/sys/net/bridge")
		runRoom(t, network, "", flags...)
	})
	t.Run("with br_netfilter", func(t *testing.T) {
		must(t, "modprobe br_netfilter && test $(cat /proc/sys/net/bridge/bridge-nf-call-iptables) = 1")
		defer must(t, "rmmod br_netfilter bridge")
		runRoom(t, network, "", flags...)
	})
}

// shortEngine are the tests whose outcome depends most on cgroups and systemd.
const shortEngine = "'^(TestOutOfMemoryIsNamed|TestLimitsAndWhatTheHostForbids|TestStartAndExitCode|TestUserNamespaceAndIdmappedVolume|TestContainersOutliveTheDaemon|TestRootThrownAway|TestCrun)$'"

func TestEngine(t *testing.T) {
	flags := []string{"-test.skip", needsGo}
	if testing.Short() {
		flags = []string{"-test.run", shortEngine}
	}
	runRoom(t, engine, "", flags...)
	if left := must(t, "systemctl list-units --all --plain --no-legend 'eng-*'"); left != "" {
		t.Errorf("units are left:\n%s", left)
	}
}

// TestEngineWithCrun runs what does not depend on idmapped mounts, which
// Debian's crun does not offer, with crun in the place of runc.
func TestEngineWithCrun(t *testing.T) {
	if testing.Short() {
		t.Fatal("in the short form TestEngine starts a container with crun: leave this test out, as make guest GUEST=-short does")
	}
	runRoom(t, engine, "TARIMA_RUNC=/usr/bin/crun",
		"-test.run", "'^(TestStartAndExitCode|TestStop|TestEvents|TestOutOfMemoryIsNamed|TestLimitsAndWhatTheHostForbids|TestExec|TestExecTTY|TestContainersOutliveTheDaemon|TestStartCutOff)$'")
}
