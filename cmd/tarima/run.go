package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tarima/proxy"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

func (c *cli) runCommand() *cobra.Command {
	var quiet bool
	cmd := c.verb("run", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		name, data, err := c.readSiteFile(nil)
		if err != nil {
			return err
		}
		config, err := parseSiteFile(name, data)
		if err != nil {
			return problemOf(name, err)
		}
		fmt.Fprintln(c.err, c.say("run.site", values{"File": name}))
		r := &runner{cli: c, config: config, quiet: quiet}
		return r.run(cmd.Context())
	})
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, c.say("flag.noWatch"))
	return cmd
}

// runner shows a daemon and a proxy that are processes of their own: the end
// of one, or of this one, does not end the others.
type runner struct {
	*cli
	config site.Config
	quiet  bool
}

// child is one of the two processes.
type child struct {
	name    string
	process *os.Process
	log     string
	done    chan error
}

func (r *runner) run(ctx context.Context) error {
	p := r.paths()
	if err := os.MkdirAll(p.Logs, 0o755); err != nil {
		return fmt.Errorf("folder for logs: %w", err)
	}
	proxyChild, err := r.start("proxy")
	if err != nil {
		return err
	}
	daemonChild, err := r.start("daemon")
	if err != nil {
		return errors.Join(err, proxyChild.end())
	}
	fmt.Fprintln(r.err, r.say("run.waiting"))
	shown := r.show(ctx, proxyChild, daemonChild)

	fmt.Fprintln(r.err, r.say("run.stopping"))
	// A new context: the first Ctrl-C has ended the old one. The second ends
	// this process at once and leaves the rest running.
	stopping, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	err = p.client().StopSite(stopping)
	if errors.Is(err, control.ErrNotRunning) {
		err = nil // it has ended by itself, and said so
	}
	err = errors.Join(shown, err, daemonChild.end(), proxyChild.end())
	for r.follow(stopping, proxyChild) { // it had not been done with its own requests
		err = errors.Join(err, proxyChild.end())
	}
	if err == nil {
		fmt.Fprintln(r.err, r.say("run.stopped"))
	}
	return err
}

// start starts one verb as a process of its own session, which Ctrl-C in this
// terminal does not reach.
func (r *runner) start(verb string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	ch := &child{name: verb, log: filepath.Join(r.paths().Logs, verb+".log"), done: make(chan error, 1)}
	log, err := os.OpenFile(ch.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log of the %s: %w", verb, err)
	}
	defer log.Close()
	args := []string{verb}
	if r.root != "" {
		args = append(args, "--root", r.root)
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", verb, err)
	}
	ch.process = cmd.Process
	go func() { ch.done <- cmd.Wait() }()
	return ch, nil
}

// follow goes over to the successor of a proxy that has handed its sockets
// over, and says whether there is one.
func (r *runner) follow(ctx context.Context, ch *child) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	state, err := proxy.NewClient(r.paths().proxySocket()).State(ctx)
	if err != nil || state.PID == ch.process.Pid {
		return false
	}
	process, err := os.FindProcess(state.PID)
	if err != nil {
		return false
	}
	// It is nobody's child any more, so it cannot be waited for.
	fd, err := unix.PidfdOpen(state.PID, 0)
	if err != nil {
		return false
	}
	ch.process, ch.done = process, make(chan error, 1)
	go func() {
		defer unix.Close(fd) //nolint:errcheck // it was only to wait with
		for {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); !errors.Is(err, unix.EINTR) { //nolint:gosec // a descriptor
				ch.done <- nil
				return
			}
		}
	}()
	return true
}

// end asks the process to end and waits for it.
func (ch *child) end() error {
	// One that has ended already cannot be signalled, and is done.
	_ = ch.process.Signal(syscall.SIGTERM)
	select {
	case err := <-ch.done:
		ch.done <- err
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("the %s (process %d) does not end", ch.name, ch.process.Pid)
	}
}

// show shows the site until it is interrupted or a process ends.
func (r *runner) show(ctx context.Context, children ...*child) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	told := false
	for {
		for _, ch := range children {
			select {
			case err := <-ch.done:
				if err == nil && ch.name == "proxy" && r.follow(ctx, ch) {
					continue
				}
				ch.done <- err
				return errors.New(r.say("run.failed", values{"Process": ch.name, "Error": endText(err), "File": ch.log}) + lastLines(ch.log))
			default:
			}
		}
		status, err := r.paths().client().Status(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, control.ErrNotRunning): // not yet
		case err != nil:
			return err
		default:
			last = r.showStatus(status, last)
			if !told && status.Overall == supervisor.OverallReady {
				told = true
				r.sayReady()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func endText(err error) string {
	if err == nil {
		return "exit code 0"
	}
	return err.Error()
}

// lastLines of a log, for an error message.
func lastLines(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}

// showStatus draws the whole table on a terminal, and elsewhere a line for
// every service that changed.
func (r *runner) showStatus(s supervisor.SiteStatus, last string) string {
	now := time.Now()
	if r.terminal() && !r.quiet {
		var page strings.Builder
		page.WriteString("\x1b[H\x1b[2J")
		r.printStatus(&page, s, now)
		if s.Overall == supervisor.OverallReady {
			page.WriteString("\n" + r.readyText() + "\n")
		}
		fmt.Fprint(r.out, page.String())
		return ""
	}
	if r.quiet {
		return ""
	}
	before := map[string]bool{}
	for line := range strings.Lines(last) {
		before[line] = true
	}
	var all strings.Builder
	for _, service := range s.Services {
		line := fmt.Sprintf("%s: %s\n", service.Name, cmp.Or(r.why(service.Why, service.Cause), r.say("state."+string(service.State))))
		all.WriteString(line)
		if !before[line] {
			fmt.Fprint(r.out, line)
		}
	}
	for _, job := range s.Jobs {
		line := fmt.Sprintf("%s: %s\n", job.Name, r.say("job."+string(job.State)))
		all.WriteString(line)
		if !before[line] {
			fmt.Fprint(r.out, line)
		}
	}
	return all.String()
}

func (r *runner) readyText() string {
	url := "https://" + r.config.Site.Host
	if _, port, err := net.SplitHostPort(r.config.Proxy.HTTPS); err == nil && port != "443" {
		url += ":" + port
	}
	text := r.say("run.ready", values{"URL": url + "/"})
	if r.config.Proxy.TLS == site.TLSLocal {
		text += "\n" + r.say("run.ca", values{"File": filepath.Join(r.paths().ProxyState, "ca", "ca.pem")})
	}
	return text
}

func (r *runner) sayReady() {
	if !r.terminal() || r.quiet {
		fmt.Fprintln(r.out, r.readyText())
	}
}
