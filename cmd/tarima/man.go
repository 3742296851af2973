//go:build man

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// The program that makes the manual pages for the package is the program
// itself with this file; nobody else carries the writer of manual pages.
func init() {
	forPackagers = append(forPackagers, (*cli).manCommand)
}

// manCommand writes the manual pages, made from the same source as --help.
func (c *cli) manCommand(root *cobra.Command) *cobra.Command {
	cmd := c.verb("man DIR", cobra.ExactArgs(1), func(_ *cobra.Command, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return fmt.Errorf("folder for the manual pages: %w", err)
		}
		// The day on which a page was made is nobody's business, and would make
		// every package a different one.
		root.DisableAutoGenTag = true
		header := &doc.GenManHeader{Title: "TARIMA", Section: "8", Source: "Tarima", Manual: "Tarima"}
		if err := doc.GenManTree(root, header, filepath.Clean(args[0])); err != nil {
			return fmt.Errorf("write the manual pages: %w", err)
		}
		return nil
	})
	cmd.Hidden = true
	return cmd
}
