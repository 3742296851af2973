package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tarima/supervisor/control"
)

func (c *cli) execCommand() *cobra.Command {
	var noTTY bool
	cmd := c.verb("exec SERVICE COMMAND [ARG…]", cobra.MinimumNArgs(2), func(cmd *cobra.Command, args []string) error {
		argv := args[1:]
		if argv[0] == "--" && len(argv) > 1 {
			argv = argv[1:] // as people write it elsewhere
		}
		request := control.Exec{Argv: argv}
		streams := control.Streams{Stdin: c.stdin, Stdout: c.out, Stderr: c.err}
		in, ok := c.stdin.(*os.File)
		if ok && !noTTY && c.terminal() && term.IsTerminal(int(in.Fd())) {
			restore, resizes, size, err := rawTerminal(in)
			if err != nil {
				return err
			}
			defer restore()
			request.TTY, request.Size, streams.Resizes = true, size, resizes
		}
		code, err := c.paths().client().Exec(cmd.Context(), args[0], request, streams)
		if err != nil {
			return err
		}
		if code != 0 {
			return &exitError{code: code}
		}
		return nil
	})
	// What follows the service belongs to the command, flags too.
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&noTTY, "no-tty", "T", false, c.say("flag.noTTY"))
	cmd.ValidArgsFunction = c.completeServices
	return cmd
}

// rawTerminal hands every key to the command, and tells of changes of size.
func rawTerminal(in *os.File) (restore func(), resizes <-chan control.Size, size control.Size, err error) {
	fd := int(in.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, size, fmt.Errorf("prepare the terminal: %w", err)
	}
	current := func() control.Size {
		columns, rows, err := term.GetSize(fd)
		if err != nil {
			return control.Size{Columns: 80, Rows: 24}
		}
		return control.Size{Columns: uint16(columns), Rows: uint16(rows)}
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	sizes := make(chan control.Size)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-changed:
			}
			select {
			case <-ended:
				return
			case sizes <- current():
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(ended)
		_ = term.Restore(fd, before) // nothing can be done for a terminal that is gone
	}, sizes, current(), nil
}
