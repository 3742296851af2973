package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"tarima/proxy/accesslog"
	"tarima/supervisor/site"
)

// doorName stands for the public door where services are named.
const doorName = "door"

// doorLog shows the access log. It needs no running Tarima: the file is the
// proxy's own.
func (c *cli) doorLog(ctx context.Context, q accesslog.Query, asJSON bool) error {
	name, data, err := c.readSiteFile(nil)
	if err != nil {
		return err
	}
	config, err := site.Parse(name, data)
	if err != nil {
		return err
	}
	if config.Proxy.Log.File == "" {
		return &exitError{exitFailed, errors.New(c.say("logs.noDoorLog"))}
	}
	err = accesslog.Read(ctx, config.Proxy.Log.File, q, func(line []byte) error {
		text := string(line)
		if !asJSON {
			text = c.accessText(line)
		}
		_, err := fmt.Fprintln(c.out, text)
		return err
	})
	if ctx.Err() != nil && q.Follow {
		return nil // Ctrl-C is how following ends
	}
	return err
}

// accessLine is what a line of the access log may say.
type accessLine struct {
	Time, Client, Method, Host, Path, Upstream, Note string
	Status                                           int
	Bytes                                            int64
	Took, Held                                       float64
	UpstreamTook                                     float64 `json:"upstream_took"`
	Lost                                             int64
}

// accessText is a line for people. What is no line of ours is shown without
// what a terminal would obey.
func (c *cli) accessText(line []byte) string {
	var l accessLine
	if json.Unmarshal(line, &l) != nil {
		return printable(string(line), len(line))
	}
	at := paint(printable(l.Time, 40), faint, c.color())
	if l.Lost > 0 {
		return at + " " + paint(c.say("logs.lost", values{"Lines": l.Lost}), yellow, c.color())
	}
	parts := []string{at}
	if l.Status != 0 {
		color := green
		switch {
		case l.Status >= 500:
			color = red
		case l.Status >= 400:
			color = yellow
		}
		parts = append(parts, paint(fmt.Sprint(l.Status), color, c.color()))
	}
	parts = append(parts, fmt.Sprintf("%.3fs", l.Took), printable(l.Client, 64), printable(l.Method, 16),
		printable(l.Host, 256)+printable(l.Path, 4096), bytesText(l.Bytes))
	if l.Upstream != "" {
		parts = append(parts, fmt.Sprintf("%s %.3fs", printable(l.Upstream, 256), l.UpstreamTook))
	}
	if l.Held > 0 {
		parts = append(parts, fmt.Sprintf("%s %.3fs", c.say("request.held"), l.Held))
	}
	if l.Note != "" {
		parts = append(parts, "("+printable(l.Note, 1024)+")")
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}
