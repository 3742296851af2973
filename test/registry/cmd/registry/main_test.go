package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarima/test/registry"
)

func TestProgram(t *testing.T) {
	image, err := registry.Random(1024, 1, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "app")
	if err := registry.Add(dir, "docker.io/library/app:1", image); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-listen", "127.0.0.1:0", "-fault", "kind=manifest,status=500,times=1", dir}, in, io.Discard)
		in.Close()
	}()
	lines := bufio.NewScanner(out)
	lines.Scan()
	address, ok := strings.CutPrefix(lines.Text(), "listening on ")
	if !ok {
		t.Fatalf("first line is %q", lines.Text())
	}
	lines.Scan()
	if lines.Text() != "library/app:1" {
		t.Errorf("second line is %q, want the image's name", lines.Text())
	}
	client := &http.Client{Timeout: time.Minute}
	for _, want := range []int{500, 200} {
		resp, err := client.Get("http://" + address + "/v2/library/app/manifests/1")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("status is %d, want %d", resp.StatusCode, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("program ended with %v", err)
	}
}

func TestCommandLineErrors(t *testing.T) {
	for _, args := range [][]string{{}, {"-listen", "0.0.0.0:0", t.TempDir()}, {"/nonexistent"}, {"-fault", "x", t.TempDir()}, {"-unknown"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
