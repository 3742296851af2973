package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tarima/proxy/accesslog"
	"tarima/supervisor/control"
)

func (c *cli) logsCommand() *cobra.Command {
	var query control.LogQuery
	var since string
	var asJSON, door bool
	cmd := c.verb("logs [SERVICE…]", cobra.ArbitraryArgs, func(cmd *cobra.Command, args []string) error {
		query.Services = args
		if since != "" {
			at, err := parseSince(since, time.Now())
			if err != nil {
				return &exitError{exitUsage, err}
			}
			query.Since = at
		}
		if door || slices.Contains(args, doorName) {
			if len(args) > 1 || door && len(args) == 1 && args[0] != doorName {
				return &exitError{exitUsage, errors.New(c.say("logs.doorAlone"))}
			}
			return c.doorLog(cmd.Context(), accesslog.Query{Since: query.Since, Tail: query.Tail, Follow: query.Follow}, asJSON)
		}
		colors := []string{"36", "35", "33", "32", "34", "31"}
		seen := map[string]string{}
		err := c.paths().client().Logs(cmd.Context(), query, func(l control.LogLine) error {
			if asJSON {
				return writeJSON(c.out, l)
			}
			if _, ok := seen[l.Service]; !ok {
				seen[l.Service] = colors[len(seen)%len(colors)]
			}
			_, err := fmt.Fprintf(c.out, "%s %s %s\n", paint(l.At.UTC().Format(time.RFC3339), faint, c.color()),
				paint(l.Service, seen[l.Service], c.color()), l.Text)
			return err
		})
		if cmd.Context().Err() != nil && query.Follow {
			return nil // Ctrl-C is how following ends
		}
		return err
	})
	cmd.Flags().BoolVarP(&query.Follow, "follow", "f", false, c.say("flag.follow"))
	cmd.Flags().StringVar(&since, "since", "", c.say("flag.since"))
	cmd.Flags().IntVarP(&query.Tail, "tail", "n", 0, c.say("flag.tail"))
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	cmd.Flags().BoolVar(&door, "access", false, c.say("flag.access"))
	cmd.ValidArgsFunction = c.completeServices
	return cmd
}

// parseSince reads a duration before now, or a time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--since %q is neither a duration like 10m nor a time like 2006-01-02 15:04", text)
}
