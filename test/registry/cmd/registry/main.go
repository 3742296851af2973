// Registry serves folders of OCI layouts over plain http on loopback, for tests
// and the demo:
//
//	registry -listen 127.0.0.1:5000 FOLDER...
//
// It prints "listening on ADDRESS" once it answers, then what it serves. With
// -fault it misbehaves on purpose; see [registry.ParseFault].
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"tarima/test/registry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("registry", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:5000", "loopback `address` to listen on; port 0 takes a free one")
	server := &registry.Server{}
	flags.Func("fault", "misbehave, as in kind=blob,status=429,retry-after=2,times=3; may be given again", func(text string) error {
		fault, err := registry.ParseFault(text)
		if err != nil {
			return err
		}
		server.Inject(fault)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	server.Dirs = flags.Args()
	if len(server.Dirs) == 0 {
		return fmt.Errorf("give at least one folder of OCI layouts")
	}
	names, err := server.Names()
	if err != nil {
		return err
	}
	listener, err := registry.Listen(ctx, *listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "listening on", listener.Addr())
	for _, name := range names {
		fmt.Fprintln(stdout, name)
	}
	return server.Serve(ctx, listener)
}
