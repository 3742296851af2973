package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// tool runs a load generator and returns what it says.
func tool(ctx context.Context, limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // the benchmark's own
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func localhost(c *contender, path string) string {
	return "https://localhost" + c.https[strings.LastIndexByte(c.https, ':'):] + path
}

var wrkTotal = regexp.MustCompile(`(\d+) requests in ([\d.]+)(us|ms|s|m)`)

// wrk asks over HTTP/1.1 with kept connections.
func (d *door) wrk(ctx context.Context, c *contender, path string, connections int) (done, seconds float64, err error) {
	out, err := tool(ctx, d.window+30*time.Second, "wrk", "-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", int(d.window.Seconds())), localhost(c, path))
	if err != nil {
		return 0, 0, err
	}
	return parseWrk(out)
}

// parseWrk wants every request to be answered with success.
func parseWrk(out string) (done, seconds float64, err error) {
	found := wrkTotal.FindStringSubmatch(out)
	if found == nil || strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
		return 0, 0, fmt.Errorf("wrk: not every request was answered: %s", out)
	}
	if done, err = strconv.ParseFloat(found[1], 64); err != nil {
		return 0, 0, err
	}
	took, err := time.ParseDuration(found[2] + found[3])
	if err != nil || done == 0 {
		return 0, 0, fmt.Errorf("wrk: nothing was answered: %s", out)
	}
	return done, took.Seconds(), nil
}

var (
	h2Finished = regexp.MustCompile(`finished in ([\d.]+)(us|ms|s|m), `)
	h2Requests = regexp.MustCompile(`requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	h2Status   = regexp.MustCompile(`status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx`)
)

// h2load asks over HTTP/2.
func (d *door) h2load(ctx context.Context, c *contender, path string, args ...string) (done, seconds float64, err error) {
	out, err := tool(ctx, d.window+time.Minute, append(append([]string{"h2load", "-t1"}, args...), localhost(c, path))...)
	if err != nil {
		return 0, 0, err
	}
	return parseH2load(out)
}

func parseH2load(out string) (done, seconds float64, err error) {
	finished, requests := h2Finished.FindStringSubmatch(out), h2Requests.FindStringSubmatch(out)
	if finished == nil || requests == nil || !h2Status.MatchString(out) || requests[2] != "0" || requests[3] != "0" || requests[4] != "0" {
		return 0, 0, fmt.Errorf("h2load: not every request was answered: %s", out)
	}
	if done, err = strconv.ParseFloat(requests[1], 64); err != nil {
		return 0, 0, err
	}
	took, err := time.ParseDuration(finished[1] + finished[2])
	if err != nil || done == 0 {
		return 0, 0, fmt.Errorf("h2load: nothing was answered: %s", out)
	}
	return done, took.Seconds(), nil
}

const uploads = 6

// upload sends 100 MB some times, two at a time, and counts MB.
func (d *door) upload(ctx context.Context, c *contender, protocol string) (done, seconds float64, err error) {
	args := []string{"h2load", "-t1", "-c2", "-m1", "-n", strconv.Itoa(uploads), "-d", filepath.Join(d.root, "upload")}
	if protocol == "h1" {
		args = append(args, "--h1")
	}
	out, err := tool(ctx, 2*time.Minute, append(args, localhost(c, "/upload"))...)
	if err != nil {
		return 0, 0, err
	}
	n, seconds, err := parseH2load(out)
	if err == nil && n != uploads {
		err = fmt.Errorf("h2load: %g of %d uploads: %s", n, uploads, out)
	}
	return n * 100, seconds, err
}

// connect opens a connection for each request.
func (d *door) connect(ctx context.Context, c *contender, mode string) (done, seconds float64, err error) {
	out, err := tool(ctx, d.window+30*time.Second, filepath.Join(d.root, "bench-door"), "handshakes", "-to", c.https, "-for", d.window.String(), "-mode", mode)
	if err != nil {
		return 0, 0, err
	}
	var said struct{ Done, Resumed float64 }
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		return 0, 0, err
	}
	// Each client's first connection has nothing to resume.
	if mode == "resumed" && said.Resumed < 0.9*said.Done {
		return 0, 0, fmt.Errorf("%g of %g connections were resumed", said.Resumed, said.Done)
	}
	return said.Done, d.window.Seconds(), nil
}
