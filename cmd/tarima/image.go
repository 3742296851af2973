package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"tarima/runtime/container"
)

func (c *cli) imageCommand() *cobra.Command {
	cmd := c.verb("image", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() })
	cmd.AddCommand(c.imagePullCommand(), c.imageLoadCommand(), c.imageListCommand(), c.imagePruneCommand())
	return cmd
}

// imageVerb is like verb, with its texts under image.NAME.
func (c *cli) imageVerb(use, name string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: c.say("image." + name + ".short"), Long: c.say("image." + name + ".long"), Args: c.args(args), RunE: run,
	}
}

func (c *cli) imagePullCommand() *cobra.Command {
	return c.imageVerb("pull IMAGE…", "pull", cobra.MinimumNArgs(1), func(cmd *cobra.Command, args []string) error {
		for _, ref := range args {
			image, err := c.paths().client().PullImage(cmd.Context(), ref, c.progress())
			if err != nil {
				return err
			}
			c.printImage(image)
		}
		return nil
	})
}

// progress returns a function that shows a pull: one line that is written
// again on a terminal, a line per phase elsewhere.
func (c *cli) progress() func(container.Progress) {
	phase := ""
	live := c.terminal()
	return func(p container.Progress) {
		line := fmt.Sprintf("%s: %s", p.Ref, p.Phase)
		if p.Total > 0 {
			line += fmt.Sprintf(" %s / %s", bytesText(p.Done), bytesText(p.Total))
		}
		switch {
		case live && p.Phase == "done":
			fmt.Fprintf(c.err, "\r\x1b[K%s\n", line)
		case live:
			fmt.Fprintf(c.err, "\r\x1b[K%s", line)
		case p.Phase != phase:
			fmt.Fprintln(c.err, line)
		}
		phase = p.Phase
	}
}

func (c *cli) printImage(i container.Image) {
	fmt.Fprintf(c.out, "%s %s\n", i.Ref, i.Digest)
}

func (c *cli) imageLoadCommand() *cobra.Command {
	return c.imageVerb("load FILE…", "load", cobra.MinimumNArgs(1), func(cmd *cobra.Command, args []string) error {
		for _, name := range args {
			archive, err := c.openFile(name)
			if err != nil {
				return err
			}
			images, err := c.paths().client().LoadImages(cmd.Context(), archive)
			if e := archive.Close(); err == nil {
				err = e
			}
			if err != nil {
				return fmt.Errorf("load %s: %w", name, err)
			}
			for _, image := range images {
				c.printImage(image)
			}
		}
		return nil
	})
}

// openFile opens a file to read; "-" is the standard input.
func (c *cli) openFile(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(c.stdin), nil
	}
	return os.Open(name)
}

func (c *cli) imageListCommand() *cobra.Command {
	var asJSON bool
	cmd := c.imageVerb("list", "list", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		images, err := c.paths().client().Images(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, images)
		}
		rows := [][]cell{{}}
		for _, head := range []string{"image", "digest", "size", "use"} {
			rows[0] = append(rows[0], cell{c.say("head." + head), faint})
		}
		for _, i := range images {
			use := i.Lease
			if i.InUse {
				use = c.say("image.inUse")
			}
			digest := i.Digest
			if len(digest) > 19 {
				digest = digest[:19]
			}
			rows = append(rows, []cell{{text: i.Ref}, {text: digest}, {text: bytesText(i.Size)}, {text: use}})
		}
		writeTable(c.out, c.color(), rows)
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

func (c *cli) imagePruneCommand() *cobra.Command {
	return c.imageVerb("prune", "prune", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		pruned, err := c.paths().client().PruneImages(cmd.Context())
		if err != nil {
			return err
		}
		fmt.Fprintln(c.err, c.say("image.freed", values{"Size": bytesText(pruned.Freed)}))
		return nil
	})
}
