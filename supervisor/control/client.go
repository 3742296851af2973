package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
	"tarima/supervisor"
)

// Client speaks to a running daemon.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient returns a client of the daemon whose sockets lie in dir. Reading
// works for members of the group of read.sock too.
func NewClient(dir string) *Client {
	c := &Client{dir: dir}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableKeepAlives: true,
	}}
	return c
}

// dial tries the socket that can do everything, and the reading one when this
// user may not use that.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(c.dir, ControlSocket))
	if errors.Is(err, os.ErrPermission) {
		conn, err = d.DialContext(ctx, "unix", filepath.Join(c.dir, ReadSocket))
	}
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w %s", ErrNoPermission, filepath.Join(c.dir, ControlSocket))
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, ErrNotRunning
	}
	return nil, err
}

// open sends a request and returns the answer's body, or the daemon's problem.
func (c *Client) open(ctx context.Context, method, path string, query url.Values, body io.Reader) (io.ReadCloser, error) {
	target := url.URL{Scheme: "http", Host: "tarima", Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	if response.StatusCode < 300 {
		return response.Body, nil
	}
	defer response.Body.Close()
	var answer struct{ Error *Problem }
	text, err := io.ReadAll(io.LimitReader(response.Body, maxSiteFile))
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(text, &answer) != nil || answer.Error == nil {
		// A path that this socket does not offer: the reading socket, or a
		// daemon of another version.
		if response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed {
			return nil, fmt.Errorf("%w: it is for root", ErrNoPermission)
		}
		return nil, fmt.Errorf("the daemon answered %s", response.Status)
	}
	return nil, answer.Error
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, body io.Reader, into any) error {
	answer, err := c.open(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	if err := json.NewDecoder(answer).Decode(into); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// About asks which daemon answers.
func (c *Client) About(ctx context.Context) (about About, err error) {
	return about, c.call(ctx, http.MethodGet, "/v1/version", nil, nil, &about)
}

// Status asks how the site is.
func (c *Client) Status(ctx context.Context) (status supervisor.SiteStatus, err error) {
	return status, c.call(ctx, http.MethodGet, "/v1/status", nil, nil, &status)
}

// Plan asks what would happen now, or with siteFile when it is not nil.
func (c *Client) Plan(ctx context.Context, siteFile []byte) (plan Planned, err error) {
	if siteFile == nil {
		return plan, c.call(ctx, http.MethodGet, "/v1/plan", nil, nil, &plan)
	}
	return plan, c.call(ctx, http.MethodPost, "/v1/plan", nil, bytes.NewReader(siteFile), &plan)
}

// Apply makes siteFile, or with nil the file on disk, what is wanted.
func (c *Client) Apply(ctx context.Context, siteFile []byte) (applied Applied, err error) {
	return applied, c.call(ctx, http.MethodPost, "/v1/apply", nil, bytes.NewReader(siteFile), &applied)
}

// Act starts, stops or restarts one service.
func (c *Client) Act(ctx context.Context, service string, action Action) error {
	return c.call(ctx, http.MethodPost, "/v1/services/"+url.PathEscape(service)+"/"+string(action), nil, nil, new(struct{}))
}

// StopSite stops the whole site in order and returns when it has ended.
func (c *Client) StopSite(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/site/stop", nil, nil, new(struct{}))
}

// StartSite starts a stopped site.
func (c *Client) StartSite(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/site/start", nil, nil, new(struct{}))
}

// Events asks for events after a sequence number, and waits for the first one
// up to wait.
func (c *Client) Events(ctx context.Context, after uint64, limit int, wait time.Duration) (events []record.Event, err error) {
	query := url.Values{
		"after": {strconv.FormatUint(after, 10)},
		"limit": {strconv.Itoa(limit)},
		"wait":  {wait.String()},
	}
	return events, c.call(ctx, http.MethodGet, "/v1/events", query, nil, &events)
}

// Logs calls emit with each line.
func (c *Client) Logs(ctx context.Context, q LogQuery, emit func(LogLine) error) error {
	query := url.Values{"service": q.Services}
	if !q.Since.IsZero() {
		query.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Tail > 0 {
		query.Set("tail", strconv.Itoa(q.Tail))
	}
	if q.Follow {
		query.Set("follow", "1")
	}
	body, err := c.open(ctx, http.MethodGet, "/v1/logs", query, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	return decodeLines(body, emit)
}

// decodeLines decodes one JSON value after the other until the end.
func decodeLines[T any](r io.Reader, emit func(T) error) error {
	decoder := json.NewDecoder(r)
	for {
		var value T
		switch err := decoder.Decode(&value); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		if err := emit(value); err != nil {
			return err
		}
	}
}

// Usage asks what the containers use.
func (c *Client) Usage(ctx context.Context) (usage []container.Usage, err error) {
	return usage, c.call(ctx, http.MethodGet, "/v1/stats", nil, nil, &usage)
}

// Requests asks what the public door serves at the moment.
func (c *Client) Requests(ctx context.Context) (requests routes.Requests, err error) {
	return requests, c.call(ctx, http.MethodGet, "/v1/requests", nil, nil, &requests)
}

// Images lists what the engine holds.
func (c *Client) Images(ctx context.Context) (images []container.Image, err error) {
	return images, c.call(ctx, http.MethodGet, "/v1/images", nil, nil, &images)
}

// PullImage brings an image here and reports progress on the way.
func (c *Client) PullImage(ctx context.Context, ref string, progress func(container.Progress)) (image container.Image, err error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/images/pull", url.Values{"ref": {ref}}, nil)
	if err != nil {
		return image, err
	}
	defer body.Close()
	finished := false
	err = decodeLines(body, func(l PullLine) error {
		switch {
		case l.Error != nil:
			return l.Error
		case l.Progress != nil:
			progress(*l.Progress)
		case len(l.Images) > 0:
			image, finished = l.Images[0], true
		}
		return nil
	})
	if err == nil && !finished {
		err = errors.New("the daemon ended before the image was here; what came is kept, pull again")
	}
	return image, err
}

// LoadImages sends an OCI archive.
func (c *Client) LoadImages(ctx context.Context, archive io.Reader) (images []container.Image, err error) {
	// The request would close what can be closed; the archive is the caller's.
	return images, c.call(ctx, http.MethodPost, "/v1/images/load", nil, io.NopCloser(archive), &images)
}

// PruneImages removes what nothing needs.
func (c *Client) PruneImages(ctx context.Context) (pruned Pruned, err error) {
	return pruned, c.call(ctx, http.MethodPost, "/v1/images/prune", nil, nil, &pruned)
}

// Doctor asks the daemon for its findings.
func (c *Client) Doctor(ctx context.Context) (findings []Finding, err error) {
	return findings, c.call(ctx, http.MethodGet, "/v1/doctor", nil, nil, &findings)
}

// Exec runs a command in a service's container and returns its exit code.
func (c *Client) Exec(ctx context.Context, service string, e Exec, s Streams) (int, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tarima/v1/exec/"+url.PathEscape(service), nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", protocol)
	if err := request.Write(conn); err != nil {
		return 0, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		return 0, fmt.Errorf("%w: exec is for root", ErrNoPermission)
	}
	payload, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	send := func(kind byte, payload []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return writeFrame(conn, kind, payload)
	}
	if err := send(frameRequest, payload); err != nil {
		return 0, err
	}
	go sendInput(s.Stdin, send)
	ended := make(chan struct{})
	defer close(ended)
	go sendResizes(s.Resizes, ended, send)
	return receiveOutput(ctx, reader, s)
}

func sendInput(stdin io.Reader, send func(byte, []byte) error) {
	if stdin == nil {
		_ = send(frameStdin, nil) // a broken connection shows where the output is read
		return
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(buffer)
		if n > 0 && send(frameStdin, buffer[:n]) != nil {
			return
		}
		if err != nil {
			_ = send(frameStdin, nil)
			return
		}
	}
}

func sendResizes(resizes <-chan Size, ended <-chan struct{}, send func(byte, []byte) error) {
	for {
		select {
		case <-ended:
			return
		case size := <-resizes:
			payload, err := json.Marshal(size)
			if err != nil || send(frameResize, payload) != nil {
				return
			}
		}
	}
}

func receiveOutput(ctx context.Context, r io.Reader, s Streams) (int, error) {
	for {
		kind, payload, err := readFrame(r)
		if err != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			return 0, errors.New("the daemon ended while the command ran")
		}
		switch kind {
		case frameStdout:
			_, err = s.Stdout.Write(payload)
		case frameStderr:
			_, err = s.Stderr.Write(payload)
		case frameExit:
			var code int
			return code, json.Unmarshal(payload, &code)
		case frameError:
			p := new(Problem)
			if err := json.Unmarshal(payload, p); err != nil {
				return 0, err
			}
			return 0, p
		}
		if err != nil {
			return 0, err
		}
	}
}
