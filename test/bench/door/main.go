// Door is what the benchmark of the public door needs beside the proxies: an
// application server, the proxy of Tarima with everything switched on, clients
// that no tool plays, and an ACME authority. The first argument names the role.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

var roles = map[string]func(context.Context, []string) error{
	"upstream":   upstream,
	"proxy":      runProxy,
	"handshakes": handshakes,
	"clients":    clients,
	"authority":  authority,
}

func main() {
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bench-door upstream|proxy|handshakes|clients|authority …")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := roles[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench-door "+os.Args[1]+":", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be released
	}
}

// flags of a role.
func flags(role string) *flag.FlagSet { return flag.NewFlagSet("bench-door "+role, flag.ExitOnError) }

// tell writes one line for the benchmark.
func tell(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
