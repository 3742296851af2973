package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// handshakes opens a connection for each request, for a number of seconds, and
// tells how many requests were answered.
func handshakes(ctx context.Context, args []string) error {
	f := flags("handshakes")
	to := f.String("to", "", "address")
	host := f.String("host", "localhost", "name")
	path := f.String("path", "/bytes/1024", "")
	lasts := f.Duration("for", 3*time.Second, "")
	many := f.Int("clients", 16, "at a time")
	mode := f.String("mode", "full", "full, resumed or mlkem")
	_ = f.Parse(args)                                                                                                                  // it exits itself
	config := &tls.Config{ServerName: *host, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // the load is the point
	switch *mode {
	case "full":
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	case "resumed":
		config.CurvePreferences = []tls.CurveID{tls.X25519}
		config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	case "mlkem":
		config.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	default:
		return fmt.Errorf("mode %q", *mode)
	}
	ctx, stop := context.WithTimeout(ctx, *lasts)
	defer stop()
	var done, resumed atomic.Int64
	failed := make(chan error, *many)
	var all sync.WaitGroup
	for range *many {
		all.Go(func() {
			own := config.Clone()
			if config.ClientSessionCache != nil {
				own.ClientSessionCache = tls.NewLRUClientSessionCache(0)
			}
			request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", *path, *host)
			for ctx.Err() == nil {
				again, err := oneHandshake(*to, own, request)
				if err != nil {
					failed <- err
					return
				}
				done.Add(1)
				if again {
					resumed.Add(1)
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	return tell(map[string]int64{"done": done.Load(), "resumed": resumed.Load()})
}

func oneHandshake(to string, config *tls.Config, request string) (resumed bool, err error) {
	c, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return false, err
	}
	defer func() { _ = c.Close() }() // everything was read
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return false, err
	}
	t := tls.Client(c, config)
	if _, err := io.WriteString(t, request); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(t), nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("answer %s", resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return t.ConnectionState().DidResume, err
}
