// Bench measures what Tarima costs beside Debian's docker.io, and its public
// door beside nginx, HAProxy and Caddy, in one run on one machine, and writes
// bench.json. It judges nothing: it says which goals are
// met, and fails only when something did not run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() { os.Exit(run()) }

// bench is one run.
type bench struct {
	figures
	top     string // of the project
	root    string // of everything that is made
	archive string // the image of both sides
	peer    *docker

	doorOnly   string // scenarios of the door; "": all
	doorRounds int
	doorWindow time.Duration
}

// parts of a run, in their order.
var parts = []struct {
	name string
	what string
	run  func(*bench, context.Context) error
	// Beside which peer.
	docker bool
}{
	{"memory", "memory with idle containers", (*bench).memory, true},
	{"start", "container start", (*bench).starts, true},
	{"restart", "exit to restart", (*bench).restarts, true},
	{"adopt", "adoption after kill -9 of the daemon", (*bench).adoption, true},
	{"log", "log path", (*bench).logs, true},
	{"site", "a whole site: memory, idle CPU", (*bench).site, true},
	{"ready", "a whole site: start of the daemon", (*bench).ready, true},
	{"build", "binary and build", (*bench).build, false},
	{"door", "the public door beside nginx, HAProxy and Caddy", (*bench).door, false},
}

func run() int {
	only := flag.String("only", "", "parts to run, joined by commas: "+partNames())
	soak := flag.Duration("soak", 0, "in place of all parts: run twelve services for so long, kill one now and then, and look whether anything grows")
	table := flag.Bool("table", false, "measure nothing: print the figures in bench.json as a table for docs/performance.md; with -only door those of the door alone")
	doorOnly := flag.String("door", "", "scenarios of the part door, joined by commas: "+doorNames())
	rounds := flag.Int("rounds", 5, "of the part door")
	window := flag.Duration("window", 3*time.Second, "of one measurement of the part door, in whole seconds")
	root := flag.String("root", "/var/lib/tarima-bench", "folder of everything that is made; it is removed")
	flag.Parse()
	if *table {
		if err := markdown(os.Stdout, "bench.json", *only == "door"); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the benchmark starts containers: run it as root")
		return 1
	}
	if os.Getenv(insideEnv) == "" {
		return inside()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	b := &bench{figures: figures{out: os.Stdout}, root: *root, archive: filepath.Join(*root, "busybox.tar")}
	b.doorOnly, b.doorRounds, b.doorWindow = *doorOnly, max(*rounds, 1), max(*window, time.Second)
	if err := b.all(ctx, *only, *soak); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func partNames() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, ",")
}

func (b *bench) all(ctx context.Context, only string, soak time.Duration) (err error) {
	if b.top, err = os.Getwd(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback of the benchmark's network: %w", err)
	}
	if err := wreck(b.root); err != nil { // what a run that was killed left
		return err
	}
	if err := os.MkdirAll(b.root, 0o711); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wreck(b.root)) }()
	if err := writeImage(b.archive); err != nil {
		return err
	}
	if soak > 0 {
		return b.soak(ctx, soak)
	}
	if err := errors.Join(known(only, partNames()), known(b.doorOnly, doorNames())); err != nil {
		return err
	}
	fmt.Fprintln(b.out, machine())
	for _, p := range parts {
		if !chosen(only, p.name) {
			continue
		}
		if p.docker && b.peer == nil {
			if b.peer, err = startDocker(ctx, filepath.Join(b.root, "docker"), b.archive); err != nil {
				return err
			}
			fmt.Fprintln(b.out, "beside", b.peer.version(ctx))
		}
		fmt.Fprintf(b.out, "%s (%s, load average %s)\n", p.what, time.Now().UTC().Format("2006-01-02 15:04"), loadAverage())
		if err := p.run(b, ctx); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", p.what, err), b.dismiss())
		}
		// At once, so that a later part that fails takes nothing along.
		if err := b.write(filepath.Join(b.top, "bench.json")); err != nil {
			return errors.Join(err, b.dismiss())
		}
	}
	fmt.Fprintf(b.out, "\nload average %s\n", loadAverage())
	b.table()
	return b.dismiss()
}

// dismiss ends the peer, if there was one.
func (b *bench) dismiss() error {
	if b.peer == nil {
		return nil
	}
	return b.peer.stop()
}

// chosen says whether a list, joined by commas, has a name; an empty one has
// all.
func chosen(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

// known returns an error for a list that has names that are none.
func known(list, names string) error {
	for name := range strings.SplitSeq(list, ",") {
		if name != "" && !chosen(names, name) {
			return fmt.Errorf("there is no part %q; there are %s", name, names)
		}
	}
	return nil
}

// machine says on what was measured.
func machine() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err.Error()
	}
	cgroups := "cgroup v1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroups = "cgroup v2"
	}
	return fmt.Sprintf("%s, Linux %s, %d processors, %s, load average %s", processor(), unix.ByteSliceToString(name.Release[:]), runtime.NumCPU(), cgroups, loadAverage())
}

func processor() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// appliance starts the appliance in a folder of its own.
func (b *bench) appliance(name string, args ...string) (*appliance, error) {
	return startAppliance(filepath.Join(b.top, "bin", "bench-appliance"), filepath.Join(b.root, name), args...)
}
