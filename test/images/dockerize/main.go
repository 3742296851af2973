// Command dockerize waits for servers to take connections, as the program of
// that name in the published Open edX image does:
//
//	dockerize -wait tcp://mysql:3306 -timeout 20s [command…]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// places is a flag that may be given several times.
type places []*url.URL

func (p *places) String() string { return fmt.Sprint(*p) }

func (p *places) Set(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "tcp", "tcp4", "tcp6", "http", "https":
		*p = append(*p, u)
		return nil
	}
	return fmt.Errorf("invalid protocol %q: tcp, http or https", u.Scheme)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "dockerize:", err)
		os.Exit(1)
	}
}

func run() error {
	var wait places
	flag.Var(&wait, "wait", "server to wait for (tcp://HOST:PORT or http://…); several times")
	timeout := flag.Duration("timeout", 10*time.Second, "how long to wait")
	interval := flag.Duration("wait-retry-interval", time.Second, "pause between attempts")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	for _, u := range wait {
		if err := await(ctx, u, *interval); err != nil {
			return err
		}
	}
	if flag.NArg() == 0 {
		return nil
	}
	path, err := exec.LookPath(flag.Arg(0))
	if err != nil {
		return err
	}
	return syscall.Exec(path, flag.Args(), os.Environ())
}

// await asks until the server answers or ctx ends.
func await(ctx context.Context, u *url.URL, interval time.Duration) error {
	for {
		err := ask(ctx, u)
		if err == nil {
			fmt.Println("Connected to", u)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("timeout while waiting for %s: %w", u, err)
		case <-time.After(interval):
		}
	}
}

func ask(ctx context.Context, u *url.URL) error {
	if u.Scheme == "http" || u.Scheme == "https" {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return err
		}
		client := http.Client{Timeout: 10 * time.Second}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		if answer.StatusCode >= 300 {
			err = errors.New(answer.Status)
		}
		return errors.Join(err, answer.Body.Close())
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, u.Scheme, u.Host)
	if err != nil {
		return err
	}
	return conn.Close()
}
