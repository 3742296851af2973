package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tarima/proxy/routes"
)

// door is the benchmark of the public door: our proxy with everything on
// beside nginx, HAProxy and Caddy, in turns, before the same application
// server and with the same work.
type door struct {
	*bench
	root   string
	rounds int
	window time.Duration // of one measurement

	application string // address that the peers are told
	firstPath   string // of the page that shows that a proxy is there
	host        routes.Host
}

// doorScenarios in their order; -door chooses among them.
var doorScenarios = []struct {
	name string
	run  func(*door, context.Context) error
}{
	{"h1", func(d *door, ctx context.Context) error { return d.compare(ctx, small("h1")) }},
	{"h2", func(d *door, ctx context.Context) error { return d.compare(ctx, small("h2")) }},
	{"handshakes", (*door).handshakes},
	{"static", (*door).static},
	{"bulk", (*door).bulk},
	{"memory", (*door).memory},
	{"limiter", (*door).limiter},
	{"start", (*door).starts},
	{"certificates", (*door).certificates},
	{"django", (*door).django},
}

func doorNames() string {
	var names []string
	for _, s := range doorScenarios {
		names = append(names, s.name)
	}
	return strings.Join(names, ",")
}

// door runs the chosen scenarios.
func (b *bench) door(ctx context.Context) (err error) {
	d := &door{bench: b, root: filepath.Join(b.root, "door"), rounds: b.doorRounds, window: b.doorWindow, application: doorUpstream, firstPath: "/bytes/1024"}
	if err := os.MkdirAll(d.root, 0o711); err != nil {
		return err
	}
	if d.host, err = usualHost(d.root); err != nil {
		return err
	}
	// Whoever runs them may not look into the project's folder.
	for from, to := range map[string]string{"bench-door": "bench-door", "bench-caddy": "caddy-program"} {
		if err := copyProgram(filepath.Join(b.top, "bin", from), filepath.Join(d.root, to)); err != nil {
			return err
		}
	}
	if err := errors.Join(d.certificate(), d.files()); err != nil {
		return err
	}
	dir, err := d.folder("upstream")
	if err != nil {
		return err
	}
	upstream, err := program(dir, &struct{ Listen string }{}, filepath.Join(d.root, "bench-door"), "upstream", "-listen", doorUpstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, upstream.stop()) }()
	for _, s := range doorScenarios {
		if !chosen(b.doorOnly, s.name) {
			continue
		}
		fmt.Fprintf(b.out, " %s (%s, load average %s)\n", s.name, time.Now().UTC().Format("15:04"), loadAverage())
		if err := s.run(d, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := b.write(filepath.Join(b.top, "bench.json")); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%w; make bench builds it", err)
	}
	return os.WriteFile(to, data, 0o755) //nolint:gosec // a program that another user runs
}

// files are served by those that serve files, and uploaded.
func (d *door) files() error {
	dir := filepath.Join(d.root, "static")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	line := []byte("/* what a browser would be told */ export const number = 1;\n")
	for name, size := range map[string]int{
		filepath.Join(dir, "30k.js"): 30 << 10, filepath.Join(dir, "1m.js"): 1 << 20, filepath.Join(d.root, "upload"): 100 << 20,
	} {
		data := make([]byte, size)
		for at := 0; at < size; at += copy(data[at:], line) {
		}
		if err := os.WriteFile(name, data, 0o644); err != nil { //nolint:gosec // public
			return err
		}
	}
	return nil
}

// field starts our proxy and the peers.
func (d *door) field(filter func(name string, static bool) bool) (all []*contender, err error) {
	c, err := d.startOurs()
	if err != nil {
		return nil, err
	}
	all = append(all, c)
	for _, p := range doorPeers {
		if filter != nil && !filter(p.name, p.static) {
			continue
		}
		if c, err = d.startPeer(p.name); err != nil {
			return nil, errors.Join(err, stopAll(all))
		}
		all = append(all, c)
	}
	return all, nil
}

func stopAll(all []*contender) (err error) {
	for _, c := range all {
		err = errors.Join(err, c.stop())
	}
	return err
}

// work is one load on one contender. It returns how much was done in how many
// seconds.
type work struct {
	title string // of the figures
	unit  string // of what was done, as in "requests"
	load  func(ctx context.Context, d *door, c *contender) (done, seconds float64, err error)
	// Goals: the ratio of rates to a peer at least.
	goals  map[string]float64
	filter func(name string, static bool) bool
}

// compare does the work with all, in turns, and adds the figures: rates beside
// each peer, and processor time for each piece beside nginx.
func (d *door) compare(ctx context.Context, w work) (err error) {
	all, err := d.field(w.filter)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAll(all)) }()
	rates, costs := map[string]samples{}, map[string]samples{}
	for round := range d.rounds {
		for i := range all {
			// Another one begins each time.
			c := all[(i+round)%len(all)]
			before, err := c.cpu()
			if err != nil {
				return err
			}
			done, seconds, err := w.load(ctx, d, c)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", w.title, c.name, err)
			}
			after, err := c.cpu()
			if err != nil {
				return err
			}
			rates[c.name] = append(rates[c.name], done/seconds)
			costs[c.name] = append(costs[c.name], (after-before)/done*1e6)
		}
	}
	for _, c := range all[1:] {
		rate, cost := pairs{rates[ourName], rates[c.name]}, pairs{costs[ourName], costs[c.name]}
		f := rate.figure(w.title+", beside "+c.name, w.unit+"/s", c.name)
		if goal, ok := w.goals[c.name]; ok {
			f = f.ratioAtLeast(goal)
		}
		d.add(f)
		d.add(cost.figure(w.title+": processor time, beside "+c.name, "µs", c.name))
	}
	return nil
}

// small is the proxying of 1 KB, where a proxy's own cost shows.
func small(protocol string) work {
	w := work{title: "door, 1 KB over " + protocol, unit: "requests"}
	if protocol == "h1" {
		w.goals = map[string]float64{"nginx": 0.5, "Caddy": 1.5}
		w.load = func(ctx context.Context, d *door, c *contender) (float64, float64, error) {
			return d.wrk(ctx, c, "/bytes/1024", 32)
		}
	} else {
		w.goals = map[string]float64{"nginx": 0.4, "Caddy": 1.5}
		w.load = func(ctx context.Context, d *door, c *contender) (float64, float64, error) {
			return d.h2load(ctx, c, "/bytes/1024", "-c", "8", "-m", "10", "-D", strconv.Itoa(int(d.window.Seconds())))
		}
	}
	return w
}

// handshakes are new connections, each with one request.
func (d *door) handshakes(ctx context.Context) error {
	for _, m := range []struct {
		mode, title string
		goal        float64
	}{{"full", "full", 0.95}, {"resumed", "resumed", 0.95}, {"mlkem", "client offers ML-KEM", 0.85}} {
		if err := d.compare(ctx, work{
			title: "door, handshakes, " + m.title, unit: "connections", goals: map[string]float64{"nginx": m.goal},
			load: func(ctx context.Context, d *door, c *contender) (float64, float64, error) {
				return d.connect(ctx, c, m.mode)
			},
		}); err != nil {
			return err
		}
	}
	return nil
}

// static files are served by our own handler.
func (d *door) static(ctx context.Context) error {
	files := func(_ string, static bool) bool { return static }
	for _, s := range []struct {
		title, path string
		goal        float64
		count       int // over HTTP/2; 0: for a time, over HTTP/1.1
	}{
		{"30 KB file over h1", "/static/30k.js", 0.9, 0},
		{"30 KB file over h2", "/static/30k.js", 0.45, 6000},
		{"1 MB file over h1", "/static/1m.js", 1, 0},
		{"1 MB file over h2", "/static/1m.js", 0.8, 400},
	} {
		if err := d.compare(ctx, work{
			title: "door, " + s.title, unit: "requests", goals: map[string]float64{"nginx": s.goal}, filter: files,
			load: func(ctx context.Context, d *door, c *contender) (float64, float64, error) {
				if s.count == 0 {
					return d.wrk(ctx, c, s.path, 16)
				}
				// h2load does not always end when its time is over within
				// long answers.
				return d.h2load(ctx, c, s.path, "-c", "8", "-m", "2", "-n", strconv.Itoa(s.count))
			},
		}); err != nil {
			return err
		}
	}
	return nil
}

// bulk are large answers and uploads.
func (d *door) bulk(ctx context.Context) error {
	if err := d.compare(ctx, work{
		title: "door, 1 MB proxied over h1", unit: "requests", goals: map[string]float64{"nginx": 1},
		load: func(ctx context.Context, d *door, c *contender) (float64, float64, error) {
			return d.wrk(ctx, c, "/bytes/1048576", 16)
		},
	}); err != nil {
		return err
	}
	for _, protocol := range []string{"h1", "h2"} {
		if err := d.compare(ctx, work{
			title: "door, upload of 100 MB over " + protocol, unit: "MB", goals: map[string]float64{"nginx": 1},
			load: func(ctx context.Context, d *door, c *contender) (float64, float64, error) {
				return d.upload(ctx, c, protocol)
			},
		}); err != nil {
			return err
		}
	}
	return nil
}
