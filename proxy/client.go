package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"tarima/proxy/routes"
)

const (
	clientTimeout = 10 * time.Second
	firstBackoff  = 50 * time.Millisecond
	lastBackoff   = 5 * time.Second
	maxEventLine  = 64 << 10
)

// Client speaks to a proxy over its control socket. It remembers the last
// snapshot that was acknowledged and, while Events runs, puts it again to a
// proxy that was started anew. What comes from the proxy is bounded in size
// but otherwise as the proxy sent it.
type Client struct {
	http *http.Client

	mu   sync.Mutex
	last *routes.Snapshot
}

// NewClient makes a client for the proxy behind the unix socket. It connects
// when it is used.
func NewClient(socket string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		IdleConnTimeout: clientTimeout,
	}}}
}

func (c *Client) close() { c.http.CloseIdleConnections() }

// Put sends a snapshot and returns when the proxy serves it or refuses it. A
// refusal is told by the acknowledgement's Error, beside the generation that
// the proxy serves instead: one that is not below the snapshot's own asks for
// a greater one (routes.ErrStale), otherwise the snapshot is wrong
// (routes.ErrInvalid). An error means that no proxy answered.
func (c *Client) Put(ctx context.Context, s routes.Snapshot) (routes.Ack, error) {
	ack, err := c.put(ctx, s)
	if err == nil && ack.Error == "" {
		c.mu.Lock()
		if c.last == nil || c.last.Generation <= s.Generation {
			c.last = &s
		}
		c.mu.Unlock()
	}
	return ack, err
}

func (c *Client) put(ctx context.Context, s routes.Snapshot) (routes.Ack, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return routes.Ack{}, fmt.Errorf("routes: %w", err)
	}
	var ack routes.Ack
	status, err := c.call(ctx, http.MethodPut, "/v1/routes", body, &ack)
	if err != nil {
		return ack, fmt.Errorf("put routes: %w", err)
	}
	if status != http.StatusOK && ack.Error == "" {
		return ack, fmt.Errorf("put routes: answer %d", status)
	}
	return ack, nil
}

// State asks how the proxy is.
func (c *Client) State(ctx context.Context) (State, error) {
	var s State
	status, err := c.call(ctx, http.MethodGet, "/v1/state", nil, &s)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answer %d", status)
	}
	if err != nil {
		return s, fmt.Errorf("state of the proxy: %w", err)
	}
	return s, nil
}

// Healthy returns nil when a proxy answers.
func (c *Client) Healthy(ctx context.Context) error {
	status, err := c.call(ctx, http.MethodGet, healthPath, nil, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answer %d", status)
	}
	if err != nil {
		return fmt.Errorf("health of the proxy: %w", err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, method, path string, body []byte, answer any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	status, data, err := c.send(ctx, method, path, body)
	if err != nil {
		return 0, err
	}
	if answer != nil {
		if err := json.Unmarshal(data, answer); err != nil {
			return 0, fmt.Errorf("answer: %w", err)
		}
	}
	return status, nil
}

// send a request and return the status and the body of the answer.
func (c *Client) send(ctx context.Context, method, path string, body []byte) (status int, data []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil, fmt.Errorf("the proxy is not running; start it with: systemctl start tarima-proxy: %w", err)
	}
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err = io.ReadAll(io.LimitReader(resp.Body, maxSnapshotBytes))
	return resp.StatusCode, data, err
}

// Events delivers what the proxy tells until ctx ends, and then closes the
// channel. It connects again after a loss, with growing pauses, and goes on
// after the last event that it delivered.
func (c *Client) Events(ctx context.Context) <-chan routes.Event {
	out := make(chan routes.Event)
	go func() {
		defer close(out)
		defer c.close()
		f := follower{client: c, out: out}
		pause := firstBackoff
		for ctx.Err() == nil {
			if f.follow(ctx) {
				pause = firstBackoff
			}
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			pause = min(2*pause, lastBackoff)
		}
	}()
	return out
}

// follower reads event streams one after the other.
type follower struct {
	client   *Client
	out      chan<- routes.Event
	instance string
	seq      uint64
}

// follow reads one stream to its end and says whether there was one.
func (f *follower) follow(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The proxy shows its life every streamBeat: silence is a dead one.
	alive := time.AfterFunc(3*streamBeat, cancel)
	defer alive.Stop()
	resp, err := f.open(ctx)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }() // read only
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventLine)
	for lines.Scan() {
		alive.Reset(3 * streamBeat)
		var e routes.Event
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Seq <= f.seq {
			return false // not a stream of ours
		}
		select {
		case f.out <- e:
			f.seq = e.Seq
		case <-ctx.Done():
			return true
		}
		alive.Reset(3 * streamBeat)
	}
	return true
}

func (f *follower) open(ctx context.Context) (*http.Response, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet,
			"http://proxy/v1/events?after="+strconv.FormatUint(f.seq, 10), nil)
		if err != nil {
			return nil, err
		}
		resp, err := f.client.http.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			_ = resp.Body.Close() // read only
			return nil, fmt.Errorf("events: answer %d", resp.StatusCode)
		}
		instance := resp.Header.Get(instanceHeader)
		if instance == f.instance {
			return resp, nil
		}
		// Another process: its numbers start anew, and it may have missed
		// the last snapshot.
		f.instance = instance
		f.client.putAgain(ctx)
		if f.seq == 0 {
			return resp, nil
		}
		f.seq = 0
		_ = resp.Body.Close() // read only
	}
}

func (c *Client) putAgain(ctx context.Context) {
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if last != nil {
		// A refusal means that somebody was quicker; no answer, that the
		// stream ends as well and all begins anew.
		_, _ = c.put(ctx, *last)
	}
}
