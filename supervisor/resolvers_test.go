package supervisor

import (
	"fmt"
	"testing"
	"time"
)

// given are the name servers of a container's resolv.conf.
func (r *rig) given(name string) string {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	return fmt.Sprint(r.engine.containers["default."+name].spec.Resolvers)
}

// opened are the name servers that the firewall lets through.
func (r *rig) opened() string {
	r.network.mu.Lock()
	defer r.network.mu.Unlock()
	return fmt.Sprint(r.network.applied.Resolvers)
}

func TestContainersAreToldTheNameServersThatTheFirewallOpens(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		want := func(where, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %s, want %s", where, got, want)
			}
		}
		d := demo()
		d.Egress = []string{"lms", "lms-migrate"}
		r.setResolvers("10.0.0.53", "169.254.169.254")
		r.boot()
		r.mustApply(d)
		r.until(OverallReady, 10*time.Minute)
		want("lms", r.given("lms"), "[10.0.0.53 169.254.169.254]")
		want("the firewall", r.opened(), r.given("lms"))
		want("mysql, which has no way out", r.given("mysql"), "[]")
		r.engine.forgetLog()

		// Another network, and for a moment none at all.
		r.setResolvers()
		pass(2 * time.Minute)
		want("the firewall of a host without a server", r.opened(), "[10.0.0.53 169.254.169.254]")
		r.setResolvers("10.9.9.9")
		pass(2 * time.Minute)
		want("the firewall in the new network", r.opened(), "[10.9.9.9]")
		if done := r.engine.done(); len(done) != 0 {
			t.Errorf("steps for another name server: %q", done)
		}
		r.engine.kill("lms")
		pass(time.Minute)
		r.until(OverallReady, time.Minute)
		want("lms after its next start", r.given("lms"), "[10.9.9.9]")
	})
}

func TestNameServersThatComeLateAreTaken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		d := demo()
		d.Egress = []string{"lms"}
		r.boot()
		r.mustApply(d)
		r.until(OverallReady, 10*time.Minute)
		r.setResolvers("10.0.0.53")
		pass(2 * time.Minute)
		if got := r.opened(); got != "[10.0.0.53]" {
			t.Errorf("the firewall opens %s", got)
		}
	})
}
