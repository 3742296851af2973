package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"tarima/supervisor"
	"tarima/supervisor/control"
)

// actCommand makes start, stop and restart.
func (c *cli) actCommand(action control.Action) *cobra.Command {
	var all bool
	cmd := c.verb(string(action)+" [SERVICE…]", cobra.ArbitraryArgs, func(cmd *cobra.Command, args []string) error {
		client := c.paths().client()
		if all == (len(args) > 0) {
			return &exitError{exitUsage, fmt.Errorf("%s", c.say("act.which", values{"Command": cmd.CommandPath()}))}
		}
		if all {
			return c.actOnAll(cmd.Context(), client, action)
		}
		for _, service := range args {
			if err := client.Act(cmd.Context(), service, action); err != nil {
				return err
			}
			fmt.Fprintln(c.err, c.say("act."+string(action), values{"Service": service}))
		}
		return nil
	})
	cmd.Flags().BoolVar(&all, "all", false, c.say("flag.all"))
	cmd.ValidArgsFunction = c.completeServices
	return cmd
}

func (c *cli) actOnAll(ctx context.Context, client *control.Client, action control.Action) error {
	if action != control.Start {
		fmt.Fprintln(c.err, c.say("act.stoppingAll"))
		if err := client.StopSite(ctx); err != nil {
			return err
		}
	}
	if action != control.Stop {
		if err := client.StartSite(ctx); err != nil {
			return err
		}
		fmt.Fprintln(c.err, c.say("act.startingAll"))
		return nil
	}
	fmt.Fprintln(c.err, c.say("act.stoppedAll"))
	return nil
}

// completeServices offers the names of services to the shell.
func (c *cli) completeServices(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	status, err := c.paths().client().Status(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return serviceNames(status, args), cobra.ShellCompDirectiveNoFileComp
}

func serviceNames(status supervisor.SiteStatus, but []string) []string {
	given := map[string]bool{}
	for _, name := range but {
		given[name] = true
	}
	var names []string
	for _, s := range status.Services {
		if !given[s.Name] {
			names = append(names, s.Name)
		}
	}
	return names
}

// unitJob is the type of the job that systemd is at for a unit: stop, restart,
// or "" for none.
func unitJob(ctx context.Context, unit string) (string, error) {
	// NextElapse columns differ between versions; list-jobs has had these four
	// since systemd 38: JOB UNIT TYPE STATE.
	out, err := exec.CommandContext(ctx, "systemctl", "list-jobs", "--no-legend", "--plain", "--no-pager", unit).Output()
	if err != nil {
		return "", fmt.Errorf("ask systemd which job runs: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 3 && f[1] == unit {
			return f[2], nil
		}
	}
	return "", nil
}
