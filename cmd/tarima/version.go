package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
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
