//go:build e2e

package neighbours

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tarima/runtime/network"
)

func contextOf() context.Context { return context.Background() }

func shell(script string) (string, error) {
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return string(out), nil
}

// firewall is one neighbour, and what it does to a site.
type firewall struct {
	name  string
	start func(h *host)
	// reload is what happens to it on an ordinary day.
	reload func(h *host)
	// egress is the finding about blocked egress, and rule what it must name,
	// when it is there before Tarima; "" when it does not block.
	egress, rule string
	// later is the same when it comes after Tarima.
	later string
	// input: it stops visitors until told otherwise.
	input bool
}

const bus = `<busconfig><type>system</type><listen>unix:path=/run/bus</listen><auth>EXTERNAL</auth>` +
	`<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/><allow receive_type="*"/></policy></busconfig>`

var firewalls = []firewall{
	{
		name:   "Docker",
		start:  startDocker,
		reload: func(h *host) { stopDocker(h); startDocker(h) },
		egress: network.CodeForwardDocker, rule: "the policy drop of ip filter FORWARD",
		// Docker sets the policy only where it switches forwarding on itself.
		later: "",
	},
	{
		name:   "ufw",
		start:  func(h *host) { h.must("ufw --force enable") },
		reload: func(h *host) { h.must("ufw reload") },
		egress: network.CodeForwardUFW, rule: "the policy drop of ip filter FORWARD",
		later: network.CodeForwardUFW,
		input: true,
	},
	{
		name: "firewalld",
		start: func(h *host) {
			h.must("printf '%s' '" + bus + "' > /run/bus.conf")
			h.daemon("dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile", "test -S /run/bus")
			h.daemon("env DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus firewalld --nofork --nopid", "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus firewall-cmd --state")
		},
		reload: func(h *host) { h.must("DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus firewall-cmd --reload") },
		egress: network.CodeForwardFirewall, rule: "of inet firewalld filter_FWD_public",
		later: network.CodeForwardFirewall,
		input: true,
	},
}

func startDocker(h *host) {
	h.Helper()
	h.daemon("dockerd --data-root /run/docker-data --exec-root /run/docker-exec --pidfile /run/docker.pid --host unix:///run/docker.sock --storage-driver vfs",
		"docker --host unix:///run/docker.sock version")
}

func stopDocker(h *host) {
	h.Helper()
	h.must("pid=$(cat /run/docker.pid) && kill $pid && for i in $(seq 300); do test -e /run/docker.pid || exit 0; sleep 0.1; done; echo dockerd does not end; exit 1")
}

// fix does what a finding proposes, as the administrator would.
func (s *site) fix(f network.Finding) {
	s.Helper()
	s.must("export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus; " + f.Fix)
}

func find(found []network.Finding, code string) (network.Finding, bool) {
	i := slices.IndexFunc(found, func(f network.Finding) bool { return f.Code == code })
	if i < 0 {
		return network.Finding{}, false
	}
	return found[i], true
}

// TestTheirsFirst: a host with a firewall gets a site. What the site needs
// works, or doctor names who stops it and the command with which it works; the
// firewall is never changed by anybody but the administrator.
func TestTheirsFirst(t *testing.T) {
	for _, fw := range firewalls {
		t.Run(fw.name, func(t *testing.T) {
			h := newHost(t)
			outside := h.outside()
			fw.start(h)
			theirs := h.rules(false)
			s := h.open(twoMembers())
			before := s.findings()
			s.up()
			s.inside("beside " + fw.name)
			if now := h.rules(false); now != theirs {
				t.Errorf("bringing the site up changed the rules of %s from\n%s\nto\n%s", fw.name, theirs, now)
			}
			works, all := s.egress(silence)
			found := s.findings()
			if summary(before) != summary(found) {
				t.Errorf("doctor said before the start:%s\nand after:%s", summary(before), summary(found))
			}
			f, named := find(found, fw.egress)
			if all || !named || !strings.Contains(f.Args["rule"], fw.rule) {
				t.Fatalf("egress works %v and doctor says:%s\nwant finding %s about %s", works, summary(found), fw.egress, fw.rule)
			}
			input, stops := find(found, network.CodeInputBlocked)
			if reached := s.visitors(outside, silence); reached == fw.input || stops != fw.input {
				t.Errorf("visitors reach the host: %v, and doctor says:%s", reached, summary(found))
			}
			// One of the two may need a rule for each family.
			for range 2 {
				if f, named := find(s.findings(), fw.egress); named {
					s.fix(f)
				}
			}
			if stops {
				s.fix(input)
			}
			told := func(when string) {
				t.Helper()
				s.inside(when)
				if works, all := s.egress(dialTimeout); !all {
					t.Errorf("%s: egress works %v, want both families", when, works)
				}
				if !s.visitors(outside, dialTimeout) {
					t.Errorf("%s: visitors do not reach the host", when)
				}
				if found := s.findings(); len(found) > 0 {
					t.Errorf("%s: all works, yet doctor says:%s", when, summary(found))
				}
			}
			told("after what doctor proposes")
			fw.reload(h)
			told("after a reload")
			theirs = h.rules(false)
			if err := s.network.Remove(t.Context(), siteName); err != nil {
				t.Fatal(err)
			}
			if now := h.rules(false); now != theirs {
				t.Errorf("removing the site changed the rules of %s from\n%s\nto\n%s", fw.name, theirs, now)
			}
			if ours := h.rules(true); ours != "" {
				t.Errorf("the removed site left\n%s", ours)
			}
		})
	}
}

// TestOursFirst: a host with a site gets a firewall.
func TestOursFirst(t *testing.T) {
	for _, fw := range firewalls {
		t.Run(fw.name, func(t *testing.T) {
			h := newHost(t)
			h.outside()
			s := h.open(twoMembers())
			s.up()
			s.inside("alone")
			if works, all := s.egress(dialTimeout); !all {
				t.Errorf("alone: egress works %v, want both families", works)
			}
			if found := s.findings(); len(found) > 0 {
				t.Errorf("alone: doctor says:%s", summary(found))
			}
			ours := h.rules(true)
			fw.start(h)
			s.inside("after the start of " + fw.name)
			if now := h.rules(true); now != ours {
				t.Errorf("the start of %s changed Tarima's rules from\n%s\nto\n%s", fw.name, ours, now)
			}
			works, all := s.egress(silence)
			found := s.findings()
			if _, named := find(found, fw.later); all != (fw.later == "") || named == all {
				t.Errorf("egress works %v and doctor says:%s\nwant finding %q", works, summary(found), fw.later)
			}
			theirs := h.rules(false)
			if err := s.network.Apply(t.Context(), s.topology); err != nil {
				t.Fatal(err)
			}
			if now := h.rules(false); now != theirs {
				t.Errorf("applying again changed the rules of %s from\n%s\nto\n%s", fw.name, theirs, now)
			}
			if err := s.network.Remove(t.Context(), siteName); err != nil {
				t.Fatal(err)
			}
			if now := h.rules(false); now != theirs {
				t.Errorf("removing the site changed the rules of %s from\n%s\nto\n%s", fw.name, theirs, now)
			}
		})
	}
}
