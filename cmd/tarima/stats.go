package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (c *cli) statsCommand() *cobra.Command {
	var asJSON bool
	cmd := c.verb("stats", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		usage, err := c.paths().client().Usage(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, usage)
		}
		rows := [][]cell{{}}
		for _, head := range []string{"service", "memory", "cpu", "processes"} {
			rows[0] = append(rows[0], cell{c.say("head." + head), faint})
		}
		for _, u := range usage {
			_, name, _ := strings.Cut(u.ID, ".")
			rows = append(rows, []cell{
				{text: name},
				{text: memoryText(u.Memory, u.MemoryLimit)},
				{text: u.CPU.Round(10 * time.Millisecond).String()},
				{text: strconv.FormatInt(u.Pids, 10)},
			})
		}
		writeTable(c.out, c.color(), rows)
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}
