package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/test/registry"
)

const (
	siteFile = `[site]
host = "campus.localhost"
name = "Campus Tarima"
contact = "hello@campus.localhost"
release = "campus"

[proxy]
http = "127.0.0.1:18080"
https = "127.0.0.1:18443"

[network]
range4 = "10.216.0.0/24"

[size]
memory = "8GB"

[images.mirrors]
"registry.test" = ["http://%s"]
`
	readyRounds = 15
	cpuTime     = 60 * time.Second
)

// daemon is the shipped binary with a whole demo site.
type daemon struct {
	binary, root string
	client       *control.Client
	process      *exec.Cmd
	proxy        *exec.Cmd
	notices      *net.UnixConn // what systemd would be told
}

// site measures memory and idle CPU of the shipped binary with the demo's
// twelve services and all their probes.
func (b *bench) site(ctx context.Context) error {
	return b.withSite(ctx, func(d *daemon) error {
		if err := b.siteMemory(ctx, d); err != nil {
			return err
		}
		return b.idleCPU(ctx, d)
	})
}

// ready measures the start of the shipped binary.
func (b *bench) ready(ctx context.Context) error {
	return b.withSite(ctx, func(d *daemon) error { return b.readySite(ctx, d) })
}

// withSite brings the demo site up, measures something and takes it away.
func (b *bench) withSite(ctx context.Context, measure func(*daemon) error) (err error) {
	d := &daemon{binary: filepath.Join(b.top, "bin", "tarima"), root: filepath.Join(b.root, "site")}
	if err := d.prepare(ctx, filepath.Join(b.top, "dist", "images")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.destroy()) }()
	if err := b.readyFirst(d); err != nil {
		return err
	}
	if err := d.start(); err != nil {
		return err
	}
	if d.proxy, err = d.run("proxy"); err != nil {
		return err
	}
	began := time.Now()
	if err := d.ready(ctx); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(filepath.Join(d.root, "daemon.log")))
	}
	fmt.Fprintf(b.out, "  the site is ready after %s\n", time.Since(began).Round(time.Second))
	return measure(d)
}

// prepare makes the site's folder and a registry for its images.
func (d *daemon) prepare(ctx context.Context, images string) error {
	if _, err := os.Stat(images); err != nil {
		return fmt.Errorf("%w; make images makes it", err)
	}
	if err := os.MkdirAll(d.root, 0o711); err != nil {
		return err
	}
	if err := inMemory(filepath.Join(d.root, "run")); err != nil {
		return err
	}
	server := &registry.Server{Dirs: []string{images}}
	if _, err := server.Names(); err != nil {
		return err
	}
	listener, err := registry.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(listener, server) }() //nolint:gosec // loopback of a namespace; ends with the process
	text := fmt.Sprintf(siteFile, listener.Addr())
	if err := os.WriteFile(filepath.Join(d.root, "tarima.toml"), []byte(text), 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	d.client = control.NewClient(filepath.Join(d.root, "run"))
	path := filepath.Join(d.root, "notify")
	d.notices, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	return err
}

// run starts a verb of the binary.
func (d *daemon) run(verb string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(d.root, verb+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(d.binary, "--root", d.root, verb)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if verb == "daemon" {
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(d.root, "notify"))
	}
	return cmd, cmd.Start()
}

func (d *daemon) start() (err error) {
	d.process, err = d.run("daemon")
	return err
}

// timedStart starts the daemon and returns the time until it says READY=1.
func (d *daemon) timedStart() (time.Duration, error) {
	// Notices of the process before are still in the socket.
	buffer := make([]byte, 4096)
	for {
		if err := d.notices.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return 0, err
		}
		if _, err := d.notices.Read(buffer); err != nil {
			break
		}
	}
	began := time.Now()
	if err := d.start(); err != nil {
		return 0, err
	}
	if err := d.notices.SetReadDeadline(began.Add(30 * time.Second)); err != nil {
		return 0, err
	}
	for {
		n, err := d.notices.Read(buffer)
		if err != nil {
			return 0, fmt.Errorf("the daemon does not say that it is ready: %w: %s", err, lastLines(filepath.Join(d.root, "daemon.log")))
		}
		if strings.Contains(string(buffer[:n]), "READY=1") {
			return time.Since(began), nil
		}
	}
}

// kill ends the daemon alone.
func (d *daemon) kill() {
	_ = d.process.Process.Kill() // it may have ended
	_ = d.process.Wait()         // how it ends is known
}

// ready waits for the whole site.
func (d *daemon) ready(ctx context.Context) error {
	return poll(8*time.Minute, "the site is ready", func() error {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the next step meets it
		}
		s, err := d.client.Status(ctx)
		if err != nil {
			return err
		}
		if s.Overall != supervisor.OverallReady {
			time.Sleep(200 * time.Millisecond)
			return fmt.Errorf("the site is %s: %s", s.Overall, strings.Join(s.Trouble, "; "))
		}
		return nil
	})
}

func (d *daemon) destroy() error {
	var err error
	if d.process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		err = d.client.StopSite(ctx)
		_ = d.process.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = d.process.Wait()                          // its log says how it ended
	}
	if d.proxy != nil {
		_ = d.proxy.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = d.proxy.Wait()                          // its log says how it ended
	}
	return errors.Join(err, d.notices.Close(), wreck(d.root))
}

// processes are the daemon and its shims; the proxy is apart.
func (d *daemon) processes() ([]processInfo, error) {
	all, err := having(d.root)
	if err != nil {
		return nil, err
	}
	var ours []processInfo
	for _, p := range all {
		if p.pid == d.process.Process.Pid || strings.Contains(p.line, "tarima-shim") {
			ours = append(ours, p)
		}
	}
	return ours, nil
}

func (b *bench) siteMemory(ctx context.Context, d *daemon) (err error) {
	defer func() { err = errors.Join(err, b.peer.clear(context.WithoutCancel(ctx))) }()
	status, err := d.client.Status(ctx)
	if err != nil {
		return err
	}
	count := len(status.Services)
	if err := b.peer.idle(ctx, count); err != nil {
		return err
	}
	var both pairs
	var proxies samples
	for range 3 {
		if err := pause(ctx, settle/2); err != nil {
			return err
		}
		ours, err := d.processes()
		if err != nil {
			return err
		}
		theirs, err := b.peer.processes()
		if err != nil {
			return err
		}
		our, err := total(ours)
		if err != nil {
			return err
		}
		their, err := total(theirs)
		if err != nil {
			return err
		}
		proxy, err := pss(d.proxy.Process.Pid)
		if err != nil {
			return err
		}
		both.add(our/mib, their/mib)
		proxies = append(proxies, proxy/mib)
	}
	f := both.figure(fmt.Sprintf("memory, shipped daemon with a site of %d services", count), "MiB PSS", "docker with as many idle containers").ratioAtMost(0.35)
	f.Note = "the site's containers are at work and probed, the peer's are idle"
	b.add(f)
	b.add(figure{Name: "memory, proxy", Value: proxies.median(), Unit: "MiB PSS", Spread: proxies.spread()})
	return nil
}

// idleCPU measures what daemon and shims use of one core while nobody visits
// the site. Processes that they started and waited for, such as the OCI runtime
// for a probe, are theirs.
func (b *bench) idleCPU(ctx context.Context, d *daemon) error {
	used := func() (own, children float64, err error) {
		list, err := d.processes()
		for _, p := range list {
			own += p.cpu
			children += p.childrenCPU
		}
		return own, children, err
	}
	ownBefore, childrenBefore, err := used()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := pause(ctx, cpuTime); err != nil {
		return err
	}
	own, children, err := used()
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	b.add(figure{
		Name: "idle CPU, 12 services with their probes", Unit: "% of a core",
		Value: 100 * (own - ownBefore) / took,
		Note:  fmt.Sprintf("over %s; their children used %s %% beside it", cpuTime, number(100*(children-childrenBefore)/took)),
	}.atMost(0.5))
	return nil
}

// readyFirst measures the start of the daemon on a new folder.
func (b *bench) readyFirst(d *daemon) error {
	first, err := d.timedStart()
	if err != nil {
		return err
	}
	d.kill()
	b.add(figure{
		Name: "daemon start to READY, very first", Value: milliseconds(first), Unit: "ms",
		Note: "makes databases, secrets and settings",
	})
	return nil
}

// readySite kills the daemon of the running site and starts it again.
func (b *bench) readySite(ctx context.Context, d *daemon) error {
	var ready, adopted samples
	for range readyRounds {
		before, err := d.lastEvent(ctx)
		if err != nil {
			return err
		}
		// A daemon that lived for less than a second is started again with a
		// pause (cmd/tarima/pause.go); this one had worked for longer.
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		d.kill()
		began := time.Now()
		took, err := d.timedStart()
		if err != nil {
			return err
		}
		ready = append(ready, milliseconds(took))
		last, err := d.adopted(ctx, before)
		if err != nil {
			return err
		}
		adopted = append(adopted, milliseconds(last.Sub(began)))
		if err := d.ready(ctx); err != nil {
			return err
		}
	}
	b.add(figure{
		Name: "daemon start to READY, site of 12 services running", Value: ready.median(), Unit: "ms", Spread: ready.spread(),
		Note: "from the start of the process to the notice to systemd",
	}.atMost(100))
	b.add(figure{
		Name: "adoption of a site of 12 services, shipped daemon", Value: adopted.median(), Unit: "ms", Spread: adopted.spread(),
		Note: "from the start of the process to the last service adopted",
	}.atMost(100))
	return nil
}

func (d *daemon) lastEvent(ctx context.Context) (uint64, error) {
	var last uint64
	for {
		events, err := d.client.Events(ctx, last, 1000, 0)
		if err != nil || len(events) == 0 {
			return last, err
		}
		last = events[len(events)-1].Seq
	}
}

// adopted returns when the last service was taken over.
func (d *daemon) adopted(ctx context.Context, after uint64) (last time.Time, err error) {
	err = poll(30*time.Second, "all services are adopted", func() error {
		events, err := d.client.Events(ctx, after, 1000, 0)
		if err != nil {
			return err
		}
		count := 0
		for _, e := range events {
			if e.Kind == record.Adopted {
				count++
				last = e.At
			}
		}
		if count < 12 {
			return fmt.Errorf("%d of 12", count)
		}
		return nil
	})
	return last, err
}
