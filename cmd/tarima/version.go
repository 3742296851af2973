package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (c *cli) versionCommand() *cobra.Command {
	return c.verb("version", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		fmt.Fprintf(c.out, "tarima %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, dep := range info.Deps {
				if strings.HasPrefix(dep.Path, "github.com/containerd/containerd/v2") || dep.Path == "go.etcd.io/bbolt" || dep.Path == "github.com/caddyserver/certmagic" {
					fmt.Fprintf(c.out, "  %s %s\n", dep.Path, dep.Version)
				}
			}
		}
		if about, err := c.paths().client().About(cmd.Context()); err == nil && about.Version != version {
			fmt.Fprintln(c.err, c.say("version.differs", values{"Running": about.Version}))
		}
		return nil
	})
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
