package network

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// crash is what a step panics with in place of the end of its process.
type crash string

// untilCrash runs operate and ends it at its k-th step (from 0); it says where
// that was, and is false when operate has ended before.
func untilCrash(n *Network, k int, operate func() error) (at string, crashed bool, err error) {
	steps := 0
	n.step = func(name string) {
		if steps == k {
			panic(crash(name))
		}
		steps++
	}
	defer func() {
		n.step = func(string) {}
		if c, is := recover().(crash); is {
			at, crashed = string(c), true
		}
	}()
	return "", false, operate()
}

// TestCrashAnywhere ends each operation between any two of its changes, and
// lets another process do it again: the outcome is that of an undisturbed one.
func TestCrashAnywhere(t *testing.T) {
	l := newLab(t)
	l.outside()
	clean := l.state()
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, true)
	applied := l.state(top.Site)
	attachAll := func(n *Network) error {
		for name, b := range boxes {
			if err := n.Attach(t.Context(), top.Site, name, b.pid); err != nil {
				return err
			}
		}
		return nil
	}
	inside := func(b *box) string {
		with := &lab{TB: t, host: b.ns, net: l.net}
		return with.state()
	}
	insideLMS := inside(boxes["lms"])

	crashes := map[string]int{}
	for k := 0; ; k++ {
		if err := l.net.Remove(t.Context(), top.Site); err != nil {
			t.Fatal(err)
		}
		if s := l.state(); s != clean {
			t.Fatalf("removed site left\n%s\nwant\n%s", s, clean)
		}
		at, crashed, err := untilCrash(l.net, k, func() error { return l.net.Apply(t.Context(), top) })
		if err != nil {
			t.Fatal(err)
		}
		if crashed {
			crashes["apply: "+at]++
			// What is left must not let anything through, and can be removed.
			if k%2 == 0 {
				if err := l.net.Remove(t.Context(), top.Site); err != nil {
					t.Fatalf("remove after a crash at %q: %v", at, err)
				}
				if s := l.state(); s != clean {
					t.Fatalf("remove after a crash at %q left\n%s\nwant\n%s", at, s, clean)
				}
			}
			l.net = l.open()
			l.apply(top)
		}
		if err := attachAll(l.net); err != nil {
			t.Fatal(err)
		}
		if s := l.state(top.Site); sorted(s) != sorted(applied) {
			t.Fatalf("after a crash at %q the state is\n%s\nwant\n%s", at, s, applied)
		}
		if !crashed {
			break
		}
	}
	for k := 0; ; k++ {
		if err := l.net.Detach(t.Context(), top.Site, "lms"); err != nil {
			t.Fatal(err)
		}
		at, crashed, err := untilCrash(l.net, k, func() error { return l.net.Attach(t.Context(), top.Site, "lms", boxes["lms"].pid) })
		if err != nil {
			t.Fatal(err)
		}
		if crashed {
			crashes["attach: "+at]++
		}
		l.net = l.open()
		l.apply(top)
		if k%2 == 0 { // the crash has taken the container with it, and none came after
			removed, err := l.net.Sweep(t.Context(), top.Site, []string{"mysql"})
			if err != nil || len(removed) != 1 {
				t.Fatalf("sweep after a crash at %q: %v, %v, want one interface removed", at, removed, err)
			}
		}
		if err := attachAll(l.net); err != nil {
			t.Fatalf("attach after a crash at %q: %v", at, err)
		}
		if s := l.state(top.Site); sorted(s) != sorted(applied) {
			t.Fatalf("after a crash at %q the state is\n%s\nwant\n%s", at, s, applied)
		}
		if s := inside(boxes["lms"]); s != insideLMS {
			t.Fatalf("after a crash at %q the container's namespace is\n%s\nwant\n%s", at, s, insideLMS)
		}
		if !crashed {
			break
		}
	}
	for k := 0; ; k++ {
		at, crashed, err := untilCrash(l.net, k, func() error { return l.net.Remove(t.Context(), top.Site) })
		if err != nil {
			t.Fatal(err)
		}
		if !crashed {
			break
		}
		crashes["remove: "+at]++
		l.net = l.open()
		if k%2 == 0 {
			if err := l.net.Remove(t.Context(), top.Site); err != nil {
				t.Fatalf("remove after a crash at %q: %v", at, err)
			}
			if s := l.state(); s != clean {
				t.Fatalf("remove after a crash at %q left\n%s\nwant\n%s", at, s, clean)
			}
		}
		l.apply(top)
		if err := attachAll(l.net); err != nil {
			t.Fatal(err)
		}
		if s := l.state(top.Site); sorted(s) != sorted(applied) {
			t.Fatalf("after a crash at %q the state is\n%s\nwant\n%s", at, s, applied)
		}
	}
	if s := l.state(); s != clean {
		t.Errorf("removed site left\n%s\nwant\n%s", s, clean)
	}
	t.Logf("ended at %d different steps: %v", len(crashes), crashes)
	if len(crashes) < 20 {
		t.Errorf("only %d different steps were tried", len(crashes))
	}
}

// churnArgs are how the killed process below learns its task.
type churnArgs struct{ dir, host, pid string }

func (a churnArgs) env() []string {
	return append(os.Environ(), holderEnv+"=churn", "CHURN_DIR="+a.dir, "CHURN_HOST="+a.host, "CHURN_PID="+a.pid)
}

// churn makes and removes a site until it is killed; each round takes a few
// milliseconds, so that a kill can hit any moment.
func churn() {
	n, err := Open(Config{Dir: os.Getenv("CHURN_DIR"), HostNamespace: os.Getenv("CHURN_HOST")})
	if err != nil {
		fmt.Fprintln(os.Stdout, "open:", err)
		return
	}
	pid, _ := strconv.Atoi(os.Getenv("CHURN_PID"))
	top := egressTopology()
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	fmt.Fprintln(os.Stdout, "ready")
	for ctx.Err() == nil {
		err := n.Apply(ctx, top)
		if err == nil {
			err = n.Attach(ctx, top.Site, "lms", pid)
		}
		if err == nil {
			err = n.Remove(ctx, top.Site)
		}
		if err != nil {
			fmt.Fprintln(os.Stdout, "churn:", err)
			return
		}
	}
}

// TestKilled kills a real process at random moments while it makes and removes
// a site.
func TestKilled(t *testing.T) {
	l := newLab(t)
	l.outside()
	top := egressTopology()
	l.apply(top)
	boxes := l.start(top, false)
	l.serve(boxes["mysql"].ns, 80)
	applied := l.state(top.Site)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TARIMA_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d (repeat with TARIMA_TEST_SEED)", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = churnArgs{l.dir, l.pin("host"), strconv.Itoa(boxes["lms"].pid)}.env()
		out := must(cmd.StdoutPipe())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 256)
		if k, err := out.Read(buf); err != nil || !strings.HasPrefix(string(buf[:k]), "ready") {
			t.Fatalf("the process says %q, %v, want ready", buf[:k], err)
		}
		// A random moment is what is wanted here: nothing is expected by then.
		<-time.After(time.Duration(rng.Int64N(int64(120 * time.Millisecond))))
		_ = cmd.Process.Kill()
		k, _ := out.Read(buf)
		if k > 0 {
			t.Fatalf("before it was killed the process said %q", buf[:k])
		}
		_ = cmd.Wait()

		l.net = l.open()
		l.apply(top)
		for name, b := range boxes {
			if err := l.net.Attach(t.Context(), top.Site, name, b.pid); err != nil {
				t.Fatal(err)
			}
		}
		if s := l.state(top.Site); sorted(s) != sorted(applied) {
			t.Fatalf("after a kill the state is\n%s\nwant\n%s", s, applied)
		}
		l.mustReach("edge", boxes["lms"].ns, "tcp", targets(boxes["mysql"].Addresses, 80)[0])
		l.mustReach("egress", boxes["lms"].ns, "tcp", netip.AddrPortFrom(web, 80))
	}
}
