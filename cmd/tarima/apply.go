package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// maxSiteFile bounds a site file, in bytes.
const maxSiteFile = 1 << 20

// readSiteFile reads the file that a verb was given, or the site's own.
func (c *cli) readSiteFile(args []string) (name string, data []byte, err error) {
	name = c.paths().SiteFile
	if len(args) > 0 {
		name = args[0]
	}
	file, err := c.openFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return name, nil, &exitError{exitFailed, errors.New(c.say("siteFile.missing", values{"File": name}))}
	}
	if err != nil {
		return name, nil, err
	}
	defer file.Close()
	data, err = io.ReadAll(io.LimitReader(file, maxSiteFile+1))
	if err == nil && len(data) > maxSiteFile {
		err = fmt.Errorf("%s: a site file has at most %d bytes", name, maxSiteFile)
	}
	return name, data, err
}

// parseSiteFile checks a site file as the daemon would.
func parseSiteFile(name string, data []byte) (site.Config, error) {
	config, err := site.Parse(name, data)
	if err != nil {
		return config, err
	}
	host, err := site.DetectHost()
	if err != nil {
		return config, err
	}
	config = site.Defaults(config, host)
	return config, site.Validate(config)
}

// problemOf makes a wrong site file a problem with a line per mistake.
func problemOf(name string, err error) error {
	var problems site.Problems
	if !errors.As(err, &problems) {
		return err
	}
	details := make([]string, 0, len(problems))
	for _, p := range problems {
		details = append(details, p.String())
	}
	return control.Invalid(details, "%s is wrong in %d places; nothing was changed", name, len(problems))
}

func (c *cli) checkCommand() *cobra.Command {
	return c.verb("check [FILE]", cobra.MaximumNArgs(1), func(_ *cobra.Command, args []string) error {
		name, data, err := c.readSiteFile(args)
		if err != nil {
			return err
		}
		config, err := parseSiteFile(name, data)
		if err != nil {
			return problemOf(name, err)
		}
		if _, err := doorSecrets(config); errors.Is(err, os.ErrPermission) {
			fmt.Fprintln(c.err, c.say("check.secretsUnread"))
		} else if err != nil {
			return err
		}
		fmt.Fprintln(c.err, c.say("check.right", values{"File": name}))
		return nil
	})
}

func (c *cli) planCommand() *cobra.Command {
	var asJSON bool
	cmd := c.verb("plan [FILE]", cobra.MaximumNArgs(1), func(cmd *cobra.Command, args []string) error {
		var data []byte
		if len(args) > 0 {
			name, content, err := c.readSiteFile(args)
			if err != nil {
				return err
			}
			if _, err := parseSiteFile(name, content); err != nil {
				return problemOf(name, err)
			}
			data = content
		}
		plan, err := c.paths().client().Plan(cmd.Context(), data)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, plan)
		}
		for _, change := range plan.Changes {
			fmt.Fprintln(c.out, change)
		}
		c.printSteps(plan.Steps)
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

func (c *cli) printSteps(steps []supervisor.StepStatus) {
	if len(steps) == 0 {
		fmt.Fprintln(c.out, c.say("plan.nothing"))
		return
	}
	rows := make([][]cell, 0, len(steps))
	for _, s := range steps {
		rows = append(rows, []cell{{text: s.Action, color: bold}, {text: s.Service}, {text: s.Reason}})
	}
	writeTable(c.out, c.color(), rows)
}

func (c *cli) applyCommand() *cobra.Command {
	return c.verb("apply", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		applied, err := c.paths().client().Apply(cmd.Context(), nil)
		if err != nil {
			return err
		}
		if len(applied.Changes) == 0 {
			fmt.Fprintln(c.err, c.say("apply.same"))
			return nil
		}
		for _, change := range applied.Changes {
			fmt.Fprintln(c.err, change)
		}
		fmt.Fprintln(c.err, c.say("apply.done", values{"Generation": applied.Generation}))
		return nil
	})
}
