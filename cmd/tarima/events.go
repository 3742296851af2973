package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarima/store/record"
)

func (c *cli) eventsCommand() *cobra.Command {
	var follow, asJSON bool
	var last int
	cmd := c.verb("events", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		client := c.paths().client()
		var after uint64
		// The sequence number of the newest event is not known beforehand:
		// ask until there is no more, and keep the last of them.
		var kept []record.Event
		for {
			events, err := client.Events(cmd.Context(), after, 1000, 0)
			if err != nil {
				return err
			}
			if len(events) == 0 {
				break
			}
			after = events[len(events)-1].Seq
			kept = append(kept, events...)
			kept = kept[max(0, len(kept)-last):]
		}
		if err := c.printEvents(kept, asJSON); err != nil {
			return err
		}
		for follow {
			events, err := client.Events(cmd.Context(), after, 1000, 30*time.Second)
			if cmd.Context().Err() != nil {
				return nil // Ctrl-C is how following ends
			}
			if err != nil {
				return err
			}
			if err := c.printEvents(events, asJSON); err != nil {
				return err
			}
			if len(events) > 0 {
				after = events[len(events)-1].Seq
			}
		}
		return nil
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, c.say("flag.follow"))
	cmd.Flags().IntVarP(&last, "tail", "n", 50, c.say("flag.tailEvents"))
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

func (c *cli) printEvents(events []record.Event, asJSON bool) error {
	for _, e := range events {
		var err error
		if asJSON {
			err = writeJSON(c.out, e)
		} else {
			err = c.printEvent(c.out, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) printEvent(w io.Writer, e record.Event) error {
	parts := []string{paint(e.At.Local().Format("2006-01-02 15:04:05"), faint, c.color())}
	if e.Service != "" {
		parts = append(parts, paint(e.Service, bold, c.color()))
	}
	parts = append(parts, string(e.Kind))
	if e.ExitCode != nil {
		parts = append(parts, c.say("event.code", values{"Code": *e.ExitCode}))
	}
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	_, err := fmt.Fprintln(w, strings.Join(parts, "  "))
	return err
}
