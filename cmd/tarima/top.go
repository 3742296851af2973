package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tarima/proxy/routes"
)

func (c *cli) topCommand() *cobra.Command {
	var asJSON bool
	cmd := c.verb("top", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		if c.terminal() && !asJSON {
			return c.watchRequests(cmd.Context())
		}
		requests, err := c.paths().client().Requests(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, requests)
		}
		c.printRequests(c.out, requests, 0, 0)
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

// watchRequests renews the list in its place until it is interrupted.
func (c *cli) watchRequests(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		requests, err := c.paths().client().Requests(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		width, height := 80, 24
		if f, ok := c.out.(*os.File); ok {
			if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
				width, height = w, h
			}
		}
		var page strings.Builder
		c.printRequests(&page, requests, width, height)
		// Each line ends what was there, and the last one all below: nothing
		// flickers.
		text := strings.ReplaceAll(strings.TrimSuffix(page.String(), "\n"), "\n", "\x1b[K\n")
		if _, err := io.WriteString(c.out, "\x1b[H"+text+"\x1b[K\n\x1b[J"); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func requestColor(s routes.RequestState) string {
	switch s {
	case routes.RequestHeld:
		return yellow
	case routes.RequestOpen, routes.RequestSending, routes.RequestReading:
		return faint
	default:
		return ""
	}
}

// printRequests writes a table that fits into a terminal of that size; 0: as
// large as it gets.
func (c *cli) printRequests(w io.Writer, r routes.Requests, width, height int) {
	fmt.Fprintln(w, paint(c.say("top.title", values{"All": r.InFlight, "Held": r.Held}), bold, c.color()))
	if len(r.Requests) == 0 {
		return
	}
	shown := r.Requests
	if room := max(height-4, 1); height > 0 && len(shown) > room {
		shown = shown[:room]
	}
	rows := [][]cell{{}}
	for _, head := range []string{"age", "state", "client", "received", "sent", "host", "path"} {
		rows[0] = append(rows[0], cell{c.say("head." + head), faint})
	}
	for _, q := range shown {
		rows = append(rows, []cell{
			{text: requestAge(q.Age)},
			{c.say("request." + string(q.State)), requestColor(q.State)},
			{text: q.Client},
			{text: bytesText(q.Received)},
			{text: bytesText(q.Sent)},
			{text: q.Host},
			{text: q.Method + " " + q.Path},
		})
	}
	if width > 0 {
		shorten(rows, width)
	}
	writeTable(w, c.color(), rows)
	if more := r.InFlight - len(shown); more > 0 {
		fmt.Fprintln(w, c.say("top.more", values{"More": more}))
	}
}

// shorten cuts the last column to what is left of the width.
func shorten(rows [][]cell, width int) {
	var widths []int
	for _, row := range rows {
		for i, c := range row[:len(row)-1] {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, n := range widths {
		width -= n + 2
	}
	for _, row := range rows {
		last := &row[len(row)-1]
		if text := []rune(last.text); len(text) > max(width, 8) {
			last.text = string(text[:max(width, 8)-1]) + "…"
		}
	}
}

// requestAge is finer than ageText: most requests are over within a second.
func requestAge(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return ageText(d)
}
