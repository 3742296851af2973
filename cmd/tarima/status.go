package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarima/store/record"
	"tarima/supervisor"
)

func (c *cli) statusCommand() *cobra.Command {
	var asJSON, watch bool
	cmd := c.verb("status", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		if watch {
			return c.watchStatus(cmd.Context(), asJSON)
		}
		status, err := c.paths().client().Status(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(c.out, status)
		} else {
			c.printStatus(c.out, status, time.Now())
		}
		if err == nil && status.Overall != supervisor.OverallReady {
			err = &exitError{code: exitDegraded}
		}
		return err
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, c.say("flag.watch"))
	return cmd
}

// watchStatus shows the status again and again until it is interrupted.
func (c *cli) watchStatus(ctx context.Context, asJSON bool) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		status, err := c.paths().client().Status(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case asJSON:
			err = writeJSON(c.out, status)
		default:
			var page strings.Builder
			if c.terminal() {
				page.WriteString("\x1b[H\x1b[2J")
			}
			c.printStatus(&page, status, time.Now())
			_, err = io.WriteString(c.out, page.String())
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// stateColor tells good from waiting from bad at a glance.
func stateColor(s supervisor.State) string {
	switch s {
	case supervisor.StateReady:
		return green
	case supervisor.StateFailing, supervisor.StateUnready, supervisor.StateBackoff:
		return red
	case supervisor.StateStopped:
		return faint
	default:
		return yellow
	}
}

func overallColor(o supervisor.Overall) string {
	switch o {
	case supervisor.OverallReady:
		return green
	case supervisor.OverallDegraded:
		return red
	default:
		return yellow
	}
}

func (c *cli) printStatus(w io.Writer, s supervisor.SiteStatus, now time.Time) {
	colored := c.color()
	if len(s.Services) == 0 {
		for _, trouble := range s.Trouble {
			fmt.Fprintln(w, paint("! "+trouble, red, colored))
		}
		fmt.Fprintln(w, c.say("status.noSite", values{"File": c.paths().SiteFile}))
		return
	}
	ready := 0
	for _, service := range s.Services {
		if service.State == supervisor.StateReady {
			ready++
		}
	}
	title := s.Site
	if len(s.Hosts) > 0 {
		title = s.Hosts[0]
	}
	fmt.Fprintf(w, "%s  %s  %s\n", paint(title, bold, colored),
		paint(c.say("overall."+string(s.Overall)), overallColor(s.Overall), colored),
		c.say("status.count", values{"Ready": ready, "All": len(s.Services)}))
	for _, trouble := range s.Trouble {
		fmt.Fprintln(w, paint("! "+trouble, red, colored))
	}
	c.printClosed(w, s.Maintenance)
	fmt.Fprintln(w)
	c.printServices(w, s, now)
	c.printJobs(w, s.Jobs, now)
	for _, service := range s.Services {
		if service.State == supervisor.StateFailing && len(service.LogTail) > 0 {
			fmt.Fprintf(w, "\n%s\n", c.say("status.lastLines", values{"Service": service.Name}))
			for _, line := range service.LogTail {
				fmt.Fprintln(w, "  "+line)
			}
		}
	}
}

func (c *cli) printServices(w io.Writer, s supervisor.SiteStatus, now time.Time) {
	rows := [][]cell{{}}
	for _, head := range []string{"service", "state", "since", "restarts", "memory", "health"} {
		rows[0] = append(rows[0], cell{c.say("head." + head), faint})
	}
	for _, service := range s.Services {
		rows = append(rows, []cell{
			{text: service.Name},
			{c.say("state." + string(service.State)), stateColor(service.State)},
			{text: sinceText(service.Since, now)},
			{text: strconv.Itoa(service.Restarts)},
			{text: memoryText(service.Memory, service.MemoryLimit)},
			{text: c.healthText(service, now)},
		})
	}
	writeTable(w, c.color(), rows)
}

func sinceText(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return ageText(now.Sub(since))
}

func memoryText(used, limit int64) string {
	switch {
	case used == 0:
		return "-"
	case limit == 0:
		return bytesText(used)
	default:
		return bytesText(used) + " / " + bytesText(limit)
	}
}

// healthText says in a few words that all is well, or why not.
func (c *cli) healthText(s supervisor.ServiceStatus, now time.Time) string {
	var parts []string
	if p := s.Progress; p != nil && p.Total > 0 {
		parts = append(parts, fmt.Sprintf("%s %s / %s", p.Phase, bytesText(p.Done), bytesText(p.Total)))
	}
	if s.Why != "" {
		parts = append(parts, c.why(s.Why, s.Cause))
	}
	if !s.Next.IsZero() && s.Next.After(now) {
		parts = append(parts, c.say("status.next", values{"In": ageText(s.Next.Sub(now))}))
	}
	if s.RestartPending != "" {
		parts = append(parts, c.say("status.restartPending", values{"Why": c.why(s.RestartPending, s.PendingCause)}))
	}
	if len(parts) == 0 && s.Healthy {
		return c.say("status.healthy")
	}
	return strings.Join(parts, "; ")
}

// printJobs shows the jobs that have not succeeded: the others are history.
func (c *cli) printJobs(w io.Writer, jobs []supervisor.JobStatus, now time.Time) {
	var rows [][]cell
	done := 0
	for _, job := range jobs {
		if job.State == record.JobSucceeded {
			done++
			continue
		}
		color := yellow
		if job.State == record.JobFailedFor {
			color = red
		}
		why := c.why(job.Why, job.Cause)
		if job.Message != "" && !strings.Contains(job.Why, job.Message) { // what waits now has another reason
			why = strings.TrimSuffix(job.Message+"; "+why, "; ")
		}
		rows = append(rows, []cell{
			{text: job.Name}, {c.say("job." + string(job.State)), color}, {text: sinceText(job.Started, now)}, {text: why},
		})
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", c.say("status.jobs", values{"Done": done, "All": len(jobs)}))
	writeTable(w, c.color(), rows)
}
