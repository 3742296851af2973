package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

func (c *cli) maintenanceCommand() *cobra.Command {
	var asJSON bool
	cmd := c.verb("maintenance", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		m, err := c.paths().client().Maintenance(cmd.Context())
		switch {
		case err != nil:
			return err
		case asJSON:
			return writeJSON(c.out, m)
		}
		c.printMaintenance(m)
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	var hosts []string
	var until string
	on := c.maintenanceVerb("on", func(cmd *cobra.Command, _ []string) error {
		want := control.Maintenance{Close: true, Hosts: hosts}
		if until != "" {
			var err error
			if want.Until, err = parseUntil(until, time.Now()); err != nil {
				return &exitError{exitUsage, err}
			}
		}
		return c.maintain(cmd.Context(), want)
	})
	on.Flags().StringVar(&until, "until", "", c.say("flag.until"))
	off := c.maintenanceVerb("off", func(cmd *cobra.Command, _ []string) error {
		return c.maintain(cmd.Context(), control.Maintenance{Hosts: hosts})
	})
	for _, sub := range []*cobra.Command{on, off} {
		sub.Flags().StringSliceVar(&hosts, "host", nil, c.say("flag.host"))
		_ = sub.RegisterFlagCompletionFunc("host", c.completeHosts) // the flag is there
		cmd.AddCommand(sub)
	}
	return cmd
}

// maintenanceVerb is like verb, with its texts under maintenance.NAME.
func (c *cli) maintenanceVerb(name string, run func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: c.say("maintenance." + name + ".short"), Long: c.say("maintenance." + name + ".long"),
		Args: c.args(cobra.NoArgs), RunE: run,
	}
}

func (c *cli) maintain(ctx context.Context, want control.Maintenance) error {
	m, err := c.paths().client().Maintain(ctx, want)
	if err == nil {
		c.printMaintenance(m)
	}
	return err
}

func (c *cli) printMaintenance(m control.Maintained) {
	if len(m.Hosts) == 0 {
		fmt.Fprintln(c.err, c.say("maintenance.open"))
		return
	}
	fmt.Fprintln(c.err, c.closedText(m.Hosts, m.Until))
	if len(m.Passes) > 0 {
		fmt.Fprintln(c.err, c.say("maintenance.pass"))
	}
	for _, link := range m.Passes {
		fmt.Fprintln(c.out, link)
	}
}

// closedText says what is closed for maintenance.
func (c *cli) closedText(hosts []string, until time.Time) string {
	text := c.say("maintenance.closed", values{"Hosts": strings.Join(hosts, ", ")})
	if !until.IsZero() {
		text += " " + c.say("maintenance.until", values{"Until": until.Local().Format("2006-01-02 15:04 MST")})
	}
	return text
}

// printClosed is a line of the status.
func (c *cli) printClosed(w io.Writer, m *supervisor.MaintenanceStatus) {
	if m != nil {
		fmt.Fprintln(w, paint("! "+c.closedText(m.Hosts, m.Until), yellow, c.color()))
	}
}

func (c *cli) completeHosts(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	status, err := c.paths().client().Status(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return status.Hosts, cobra.ShellCompDirectiveNoFileComp
}

// parseUntil reads a duration from now, a time of this or the next day, or a
// time.
func parseUntil(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d).Round(time.Minute), nil
	}
	if t, err := time.ParseInLocation("15:04", text, time.Local); err == nil {
		at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, time.Local)
		if !at.After(now) {
			at = time.Date(now.Year(), now.Month(), now.Day()+1, t.Hour(), t.Minute(), 0, 0, time.Local)
		}
		return at, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", time.DateOnly} {
		t, err := time.ParseInLocation(layout, text, time.Local)
		switch {
		case err != nil:
		case !t.After(now):
			return time.Time{}, fmt.Errorf("--until %q is past", text)
		default:
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--until %q is neither a duration like 2h nor a time like 18:30 or 2006-01-02 15:04", text)
}

// Maintenance implements control.Backend.
func (a *appliance) Maintenance(context.Context) (control.Maintained, error) {
	return a.maintained(), nil
}

// Maintain implements control.Backend.
func (a *appliance) Maintain(ctx context.Context, want control.Maintenance) (control.Maintained, error) {
	a.wishes.mu.Lock()
	defer a.wishes.mu.Unlock()
	served := a.supervisor.ServedHosts()
	if len(served) == 0 {
		return control.Maintained{}, control.Conflict("there is no site yet: see tarima check")
	}
	for i, h := range want.Hosts {
		want.Hosts[i] = strings.ToLower(strings.TrimSuffix(h, "."))
		if slices.Contains(served, want.Hosts[i]) {
			continue
		}
		if near := site.Nearest(want.Hosts[i], served); near != "" {
			return control.Maintained{}, control.NotFound("%q is none of the site's names; did you mean %q?", h, near)
		}
		return control.Maintained{}, control.NotFound("%q is none of the site's names; there are: %s", h, strings.Join(served, ", "))
	}
	next := changeMaintenance(a.supervisor.Maintenance(), want, served, time.Now())
	if err := a.supervisor.Maintain(ctx, next); err != nil {
		if errors.Is(err, supervisor.ErrUnknown) {
			return control.Maintained{}, control.NotFound("%v", err)
		}
		return control.Maintained{}, err
	}
	return a.maintainedLocked(), nil
}

// changeMaintenance is what is closed after a wish.
func changeMaintenance(now record.Maintenance, want control.Maintenance, served []string, at time.Time) record.Maintenance {
	closed := slices.DeleteFunc(slices.Clone(served), func(h string) bool { return !now.Closed(h) })
	if !want.Close {
		if len(want.Hosts) == 0 {
			return record.Maintenance{}
		}
		left := slices.DeleteFunc(closed, func(h string) bool { return slices.Contains(want.Hosts, h) })
		if len(left) == 0 {
			return record.Maintenance{}
		}
		if len(left) < len(served) {
			now.All = false
		}
		now.Hosts = left
		if now.All {
			now.Hosts = nil
		}
		return now
	}
	if !now.On() {
		now = record.Maintenance{Since: at, Pass: rand.Text()}
	}
	now.Until = want.Until
	if len(want.Hosts) == 0 {
		now.All, now.Hosts = true, nil
		return now
	}
	if !now.All {
		now.Hosts = closed
		for _, h := range want.Hosts {
			if !slices.Contains(now.Hosts, h) {
				now.Hosts = append(now.Hosts, h)
			}
		}
	}
	return now
}

func (a *appliance) maintained() control.Maintained {
	a.wishes.mu.Lock()
	defer a.wishes.mu.Unlock()
	return a.maintainedLocked()
}

// maintainedLocked needs the lock of the wishes.
func (a *appliance) maintainedLocked() control.Maintained {
	m := a.supervisor.Maintenance()
	out := control.Maintained{Hosts: []string{}, Since: m.Since, Until: m.Until}
	for _, h := range a.supervisor.ServedHosts() {
		if m.Closed(h) {
			out.Hosts = append(out.Hosts, h)
		}
	}
	if len(out.Hosts) > 0 {
		out.Passes = passLinks(out.Hosts, a.wishes.config.Proxy.HTTPS, m.Pass)
	}
	return out
}

// passLinks lets a browser into every closed host: one link serves a host and
// those below it.
func passLinks(hosts []string, https, pass string) []string {
	var links []string
	for _, h := range hosts {
		below := slices.ContainsFunc(hosts, func(other string) bool { return strings.HasSuffix(h, "."+other) })
		if below || pass == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(https); err == nil && port != "443" {
			h = net.JoinHostPort(h, port)
		}
		links = append(links, "https://"+h+"/-/pass/"+pass)
	}
	return links
}
