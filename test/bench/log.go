package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarima/runtime/container"
	"tarima/supervisor"
)

const (
	logLines  = 500_000
	logRounds = 7
)

// flood prints numbered lines of about a hundred bytes as quickly as it can.
var flood = []string{"/bin/awk", fmt.Sprintf(`BEGIN { for (i = 1; i <= %d; i++) print "number " i " of the lines that a web server might write about a request GET /courses/course-v1:a+b+c 200" }`, logLines)}

// logs compares the way of lines from a container's output to its log file:
// from the start of the container to its end, which comes when everything has
// been taken.
func (b *bench) logs(ctx context.Context) error {
	if err := b.logSpeed(ctx); err != nil {
		return err
	}
	return b.logSurvival(ctx)
}

func (b *bench) logSpeed(ctx context.Context) (err error) {
	a, err := b.appliance("l", "-archive", b.archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop(), b.peer.clear(context.WithoutCancel(ctx))) }()
	var speed pairs
	for i := range logRounds {
		spec := placed(fmt.Sprint("flood", i), 3, 100_000_000)
		spec.Kind, spec.Entrypoint = container.Job, flood
		spec.Log = container.LogLimits{File: 1 << 30, Total: 2 << 30}
		ended, err := a.start(spec)
		if err != nil {
			return err
		}
		ours, err := countLines(filepath.Join(a.root, "log", "default", spec.Name+".log"))
		if err != nil {
			return err
		}
		if err := a.remove(spec.Name); err != nil {
			return err
		}
		began := time.Now()
		if _, err := b.peer.run(ctx, append(append(dockerRun, "--name", spec.Name, imageName), flood...)...); err != nil {
			return err
		}
		if _, err := b.peer.run(ctx, "wait", spec.Name); err != nil {
			return err
		}
		took := time.Since(began)
		path, err := b.peer.run(ctx, "inspect", "--format", "{{.LogPath}}", spec.Name)
		if err != nil {
			return err
		}
		theirs, err := countLines(path)
		if err != nil {
			return err
		}
		if ours != logLines || theirs != logLines {
			fmt.Fprintf(b.out, "  of %d lines, ours kept %d, docker %d\n", logLines, ours, theirs)
		}
		speed.add(float64(ours)/ended.Seconds, float64(theirs)/took.Seconds())
		if _, err := b.peer.run(ctx, "rm", "--force", spec.Name); err != nil {
			return err
		}
	}
	f := speed.figure("log path", "lines/s", "docker json-file").ratioAtLeast(1)
	f.Note = "start and end of the container included on both sides"
	b.add(f)
	return nil
}

func countLines(path string) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewReaderSize(file, 1<<20)
	count := 0
	for {
		part, err := lines.ReadSlice('\n')
		if len(part) > 0 && part[len(part)-1] == '\n' {
			count++
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return count, nil
		}
	}
}

// logSurvival kills the daemon while a container floods its log, again and
// again, and counts the lines that are missing at the end.
func (b *bench) logSurvival(ctx context.Context) (err error) {
	desired := filepath.Join(b.root, "desired.json")
	spec := idleSpec("flood", 1)
	// In pieces, so that it goes on while the daemon is killed several times.
	spec.Entrypoint = []string{"/bin/awk", fmt.Sprintf(`BEGIN { for (i = 1; i <= %d; i++) { print "number " i " of the lines"; if (i %% 50000 == 0) system("sleep 0.3") } system("sleep 1000000") }`, logLines)}
	spec.Log = container.LogLimits{File: 1 << 30, Total: 2 << 30}
	if err := writeDesired(desired, supervisor.Desired{Site: "default", Services: []supervisor.Service{{Spec: spec}}}); err != nil {
		return err
	}
	a, err := b.appliance("k", "-archive", b.archive, "-desired", desired)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	if _, err := a.collect(time.Minute, "started", 1); err != nil {
		return err
	}
	path := filepath.Join(a.root, "log", "default", "flood.log")
	kills := 0
	for {
		count, err := countLines(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if count >= logLines || kills > 100 {
			break
		}
		if err := a.kill(syscall.SIGKILL); err != nil {
			return err
		}
		kills++
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		if a, err = startAppliance(filepath.Join(b.top, "bin", "bench-appliance"), a.root, "-desired", desired); err != nil {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	lost, err := missing(path)
	if err != nil {
		return err
	}
	b.add(figure{
		Name: "log lines lost under kill -9 of the daemon", Value: float64(lost), Unit: "lines",
		Note: fmt.Sprintf("of %d, the daemon was killed %d times", logLines, kills),
	}.atMost(0))
	return nil
}

// missing counts the numbers of lines that are not in a log.
func missing(path string) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	seen := make([]bool, logLines+1)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		at := slices.Index(words, "number")
		if at < 0 || at+1 >= len(words) {
			continue
		}
		if n, err := strconv.Atoi(words[at+1]); err == nil && n >= 1 && n <= logLines {
			seen[n] = true
		}
	}
	lost := 0
	for _, ok := range seen[1:] {
		if !ok {
			lost++
		}
	}
	return lost, lines.Err()
}
