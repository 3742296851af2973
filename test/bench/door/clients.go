package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"tarima/test/host"
)

// Connections of one address: the shipped limit is 512.
const perAddress = 250

// clients opens a number of TLS connections from many addresses of the
// loopback, asks once on each and keeps them until its input ends: "idle" ones
// have read their answer; "slow" ones read its head and then 1 KB a second.
func clients(ctx context.Context, args []string) error {
	f := flags("clients")
	to := f.String("to", "", "address")
	host := f.String("host", "localhost", "name")
	path := f.String("path", "/bytes/1024", "")
	many := f.Int("clients", 1000, "")
	slow := f.Bool("slow", false, "read the body slowly")
	_ = f.Parse(args) // it exits itself
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	config := &tls.Config{ServerName: *host, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true} //nolint:gosec // the load is the point
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", *path, *host)
	begin := make(chan struct{}, 32) // handshakes at a time
	failed := make(chan error, *many)
	var opened, closed sync.WaitGroup
	for i := range *many {
		begin <- struct{}{}
		opened.Add(1)
		closed.Go(func() {
			c, body, err := ask(i, *to, config, request, !*slow)
			<-begin
			if err != nil {
				failed <- err
				opened.Done()
				return
			}
			defer func() { _ = c.Close() }()
			opened.Done()
			trickle(ctx, body, *slow)
		})
	}
	opened.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	if err := tell(map[string]int{"open": *many}); err != nil {
		return err
	}
	end := make(chan struct{})
	go func() { _, _ = bufio.NewReader(os.Stdin).ReadString('\n'); close(end) }()
	select {
	case <-end:
	case <-ctx.Done():
	}
	stop()
	closed.Wait()
	return nil
}

func ask(number int, to string, config *tls.Config, request string, whole bool) (net.Conn, io.Reader, error) {
	dialer := net.Dialer{
		Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+number/perAddress))}, Control: host.SlowNetwork,
	}
	raw, err := dialer.Dial("tcp", to)
	if err != nil {
		return nil, nil, err
	}
	c := tls.Client(raw, config)
	_ = c.SetDeadline(time.Now().Add(60 * time.Second)) // the next line tells
	if _, err := io.WriteString(c, request); err != nil {
		return nil, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil) //nolint:bodyclose // the connection is closed
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("answer %s", resp.Status)
	}
	if whole {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	_ = c.SetDeadline(time.Time{}) // the connection stays
	return c, resp.Body, err
}

func trickle(ctx context.Context, body io.Reader, slow bool) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	piece := make([]byte, 1024)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if slow {
			if _, err := io.ReadFull(body, piece); err != nil {
				return
			}
		}
	}
}
