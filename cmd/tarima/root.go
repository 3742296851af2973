package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tarima/supervisor/control"
)

// Exit codes, documented in the manual page.
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNotRunning = 3 // as LSB and systemctl have it
	exitDegraded   = 4
	exitInterrupt  = 130
)

// cli is what every verb needs.
type cli struct {
	text
	root    string
	noColor bool
	stdin   io.Reader
	out     io.Writer // data
	err     io.Writer // messages, progress and errors
}

// exitError ends the program with a code, and with a message when err is set.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Main runs one command line and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	t, err := newText(args, environment)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	c := &cli{text: t, stdin: stdin, out: stdout, err: stderr}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// The first signal asks to end; a second one ends at once.
	context.AfterFunc(ctx, stop)
	root := c.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return c.exitCode(ctx, root.ExecuteContext(ctx))
}

// exitCode says what went wrong, and what to do, and with which code to end.
func (c *cli) exitCode(ctx context.Context, err error) int {
	var exit *exitError
	var problem *control.Problem
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit) && exit.err == nil:
		return exit.code
	case errors.Is(err, control.ErrNotRunning):
		fmt.Fprintln(c.err, c.say("notRunning"))
		return exitNotRunning
	case errors.Is(err, control.ErrNoPermission):
		fmt.Fprintln(c.err, c.say("noPermission"))
		return exitFailed
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupt
	case errors.As(err, &problem):
		// With what the verb says of it in front, such as which file.
		fmt.Fprintln(c.err, c.say("failed", values{"Error": err.Error()}))
		for _, line := range problem.Details {
			fmt.Fprintln(c.err, "  "+line)
		}
		return exitFailed
	}
	fmt.Fprintln(c.err, c.say("failed", values{"Error": err.Error()}))
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}

// forPackagers make verbs that the package is built with and that it does not
// hold (man.go).
var forPackagers []func(*cli, *cobra.Command) *cobra.Command

// command builds the tree of verbs. Help, completion and manual pages come
// from it.
func (c *cli) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "tarima",
		Short:         c.say("root.short"),
		Long:          c.say("root.long"),
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs, // an unknown verb arrives as an argument
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			text := c.say("unknownVerb", values{"Verb": args[0]})
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				text += " " + c.say("didYouMean", values{"Verb": near[0]})
			}
			return &exitError{exitUsage, errors.New(text + "; " + c.say("seeHelp", values{"Command": "tarima"}))}
		},
		SuggestionsMinimumDistance: 2,
	}
	root.SetVersionTemplate("tarima {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&c.root, "root", os.Getenv("TARIMA_ROOT"), c.say("flag.root"))
	flags.String("lang", "", c.say("flag.lang"))
	flags.BoolVar(&c.noColor, "no-color", false, c.say("flag.noColor"))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Errorf("%w; %s", err, c.say("seeHelp", values{"Command": cmd.CommandPath()}))}
	})
	groups := []struct {
		id       string
		commands []*cobra.Command
	}{
		{"site", []*cobra.Command{
			c.statusCommand(), c.logsCommand(), c.eventsCommand(), c.statsCommand(), c.topCommand(), c.doctorCommand(),
			c.sizeCommand(),
		}},
		{"change", []*cobra.Command{
			c.checkCommand(), c.planCommand(), c.applyCommand(),
			c.actCommand(control.Start), c.actCommand(control.Stop), c.actCommand(control.Restart), c.execCommand(), c.imageCommand(),
			c.maintenanceCommand(), c.certCommand(),
		}},
		{"run", []*cobra.Command{c.runCommand(), c.daemonCommand(), c.proxyCommand(), c.versionCommand()}},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: c.say("group." + g.id)})
		for _, cmd := range g.commands {
			cmd.GroupID = g.id
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(c.unitStopCommand(), c.unitStoppedCommand())
	for _, make := range forPackagers {
		root.AddCommand(make(c, root))
	}
	root.SetUsageTemplate(c.usageTemplate(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if name := cmd.Name(); name == "help" || name == "completion" {
			cmd.Short = c.say(name + ".short")
		}
	}
	root.SetHelpCommandGroupID("run")
	root.SetCompletionCommandGroupID("run")
	return root
}

// usageTemplate is cobra's own with its headings in the person's language.
func (c *cli) usageTemplate(root *cobra.Command) string {
	template := root.UsageTemplate()
	for _, heading := range []struct{ english, key string }{
		{"Global Flags:", "usage.globalFlags"},
		{"Flags:", "usage.flags"},
		{"Usage:", "usage.usage"},
		{"Available Commands:", "usage.commands"},
		{"Additional Commands:", "usage.more"},
		{`Use "{{.CommandPath}} [command] --help" for more information about a command.`, "usage.help"},
	} {
		// A message cannot hold template code: the place of the path is CMD.
		said := strings.ReplaceAll(c.say(heading.key), "CMD", "{{.CommandPath}}")
		template = strings.ReplaceAll(template, heading.english, said)
	}
	return template
}

// verb makes a command whose help comes from the message files: NAME.short and
// NAME.long, the long one with examples first.
func (c *cli) verb(use string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	name, _, _ := strings.Cut(use, " ")
	return &cobra.Command{
		Use:   use,
		Short: c.say(name + ".short"),
		Long:  c.say(name + ".long"),
		Args:  c.args(args),
		RunE:  run,
	}
}

// args turns a wrong number of arguments into a usage error.
func (c *cli) args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &exitError{exitUsage, fmt.Errorf("%w; %s", err, c.say("seeHelp", values{"Command": cmd.CommandPath()}))}
		}
		return nil
	}
}

func (c *cli) paths() paths { return newPaths(c.root) }

// terminal says whether output goes to a person's screen.
func (c *cli) terminal() bool {
	f, ok := c.out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// color says whether output may be coloured (no-color.org).
func (c *cli) color() bool {
	return c.terminal() && !c.noColor && os.Getenv("NO_COLOR") == ""
}
