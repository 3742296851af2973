package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"tarima/runtime/container"
)

// writeLines writes numbered lines, one batch each.
func writeLines(l *logFile, from, to int) {
	for i := from; i < to; i++ {
		l.write(appendEntry(nil, time.Now(), streamOut, true, []byte(strconv.Itoa(i))), 1)
	}
}

func texts(t *testing.T, path string, query LogQuery) []string {
	t.Helper()
	var got []string
	for line, err := range readLog(t.Context(), path, query) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, line.Text)
	}
	return got
}

func TestLogRotationKeepsTheTotal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "site", "web.log")
	l := newLogFile(path, minLogFile, 4*minLogFile)
	const lines = 20_000
	writeLines(l, 0, lines)
	l.close()
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > minLogFile {
			t.Errorf("%s has %d bytes", file, info.Size())
		}
		total += info.Size()
	}
	if len(files) != 4 || total > 4*minLogFile || total < 3*minLogFile {
		t.Errorf("%d files of %d bytes", len(files), total)
	}
	// What is left are the newest lines, without a gap, over all files.
	got := texts(t, path, LogQuery{})
	if got[len(got)-1] != strconv.Itoa(lines-1) {
		t.Errorf("the last line is %s", got[len(got)-1])
	}
	for i, text := range got {
		if want := strconv.Itoa(lines - len(got) + i); text != want {
			t.Fatalf("line %d is %s, want %s", i, text, want)
		}
	}
	// Smaller limits later remove what lies over.
	l = newLogFile(path, minLogFile, 2*minLogFile)
	writeLines(l, 0, 4000)
	l.close()
	if files, _ = filepath.Glob(path + "*"); len(files) != 2 {
		t.Errorf("after smaller limits: %v", files)
	}
}

func TestLogTailOfAnyLength(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.log")
	l := newLogFile(path, minLogFile, 4*minLogFile)
	writeLines(l, 0, 4000) // several files
	l.close()
	for _, count := range []int{1, 2, 10, 1000, 1500, 3000, 3999, 4000} {
		lines, err := tailLines(path, count)
		if err != nil || len(lines) != count || lines[0].Text != strconv.Itoa(4000-count) || lines[count-1].Text != "3999" {
			t.Errorf("the last %d: %d lines from %v, %v", count, len(lines), first2(lines), err)
		}
	}
	if lines, err := tailLines(filepath.Join(t.TempDir(), "none.log"), 5); err != nil || len(lines) != 0 {
		t.Errorf("of a log that is not there: %v, %v", lines, err)
	}
}

func first2(lines []LogLine) []LogLine { return lines[:min(2, len(lines))] }

func TestLogSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.log")
	l := newLogFile(path, 0, 0)
	begin := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for i := range 100 {
		l.write(appendEntry(nil, begin.Add(time.Duration(i)*time.Minute), streamOut, true, []byte(strconv.Itoa(i))), 1)
	}
	l.close()
	if got := texts(t, path, LogQuery{Since: begin.Add(90 * time.Minute)}); len(got) != 10 || got[0] != "90" {
		t.Errorf("since minute 90: %v", got)
	}
}

// A follower sees every line once and in order although files change their
// names under it.
func TestLogFollowAcrossRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.log")
	const lines = 30_000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := newLogFile(path, minLogFile, 64*minLogFile)
	done := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		next := 0
		for line, err := range readLog(ctx, path, LogQuery{Follow: true}) {
			if next == 0 {
				close(begun)
			}
			if err != nil {
				done <- err
				return
			}
			if line.Text != strconv.Itoa(next) {
				done <- fmt.Errorf("line %d is %s", next, line.Text)
				return
			}
			if next++; next == lines {
				done <- nil
				return
			}
		}
		done <- errors.New("the sequence ended early")
	}()
	writeLines(l, 0, 1)
	<-begun // what follows is about names that change under a follower
	writeLines(l, 1, lines)
	l.close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Error("the follower does not come to the end")
	}
}

func TestLogOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("this test mounts a tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 192<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "web.log")
	l := newLogFile(path, 1<<20, 4<<20)
	writeLines(l, 0, 5000) // far more than fits; it must not block
	if l.dropped == 0 {
		t.Fatal("the disk was not full")
	}
	missing := l.dropped
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	writeLines(l, 5000, 5010)
	l.close()
	got := texts(t, path, LogQuery{})
	kept := 5000 - int(missing)
	if len(got) != kept+1+10 {
		t.Fatalf("%d lines; %d before, one remark and 10 after were expected", len(got), kept)
	}
	for i, text := range got[:kept] {
		if text != strconv.Itoa(i) {
			t.Fatalf("line %d is %q", i, text)
		}
	}
	if !strings.HasPrefix(got[kept], fmt.Sprintf("%d lines", missing)) || !strings.Contains(got[kept], "no space left") {
		t.Errorf("the remark says %q", got[kept])
	}
	if got[len(got)-1] != "5009" {
		t.Errorf("the last line is %q", got[len(got)-1])
	}
}

func TestLogFileRemovedOrTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.log")
	l := newLogFile(path, 0, 0)
	writeLines(l, 0, 3)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	writeLines(l, 3, 5)
	l.close()
	if got := texts(t, path, LogQuery{}); strings.Join(got, " ") != "3 4" {
		t.Errorf("after the removal: %v", got)
	}
	// A killed writer left half an entry.
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("2026-01-01T00:00:00Z std"); err != nil {
		t.Fatal(err)
	}
	file.Close()
	l = newLogFile(path, 0, 0)
	writeLines(l, 5, 6)
	l.close()
	if got := texts(t, path, LogQuery{}); strings.Join(got, " ") != "3 4 5" {
		t.Errorf("after the torn entry: %v", got)
	}
}

// Whatever a container writes, in whatever pieces, comes back as the same
// lines.
func TestSplitterAndReaderAreInverse(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, strconv.Itoa(n)+".log")
		text := rapid.SliceOfN(rapid.OneOf(
			rapid.SliceOfN(rapid.Byte(), 0, 50),
			rapid.Map(rapid.IntRange(maxPart-2, 3*maxPart+2), func(n int) []byte { return bytes.Repeat([]byte("x"), n) }),
			rapid.Just([]byte("\n")),
		), 0, 20).Draw(t, "text")
		all := bytes.Join(text, nil)
		l := newLogFile(path, 64<<20, 128<<20)
		s := splitter{stream: streamOut, log: l}
		for rest := all; len(rest) > 0; {
			cut := rapid.IntRange(1, min(len(rest), 2*maxPart)).Draw(t, "cut")
			s.take(rest[:cut], time.Now())
			rest = rest[cut:]
		}
		s.flush(time.Now())
		l.close()
		var back []byte
		for line, err := range readLog(context.Background(), path, LogQuery{}) {
			if err != nil {
				t.Fatal(err)
			}
			back = append(back, line.Text...)
			if !line.Partial {
				back = append(back, '\n')
			}
		}
		if !bytes.Equal(back, all) {
			t.Fatalf("wrote %d bytes, read %d", len(all), len(back))
		}
		_ = os.Remove(path)
	})
}

// Both ways to read the end of a log agree on any file.
func FuzzLogReader(f *testing.F) {
	entry := func(stream, tag, text string) string {
		return "2026-01-02T03:04:05.000000006Z " + stream + " " + tag + " " + text + "\n"
	}
	f.Add([]byte(entry("stdout", "F", "one")+entry("stderr", "P", "tw")+entry("stdout", "F", "three")+entry("stderr", "F", "o")), uint8(2))
	f.Add([]byte("rubbish\n\n\x00\xff"+entry("stdout", "F", "")+"2026-01-02T03:04:05Z stdout"), uint8(1))
	f.Add([]byte(strings.Repeat(entry("stdout", "P", "y"), 7)+entry("stdout", "F", "end")), uint8(3))
	f.Fuzz(func(t *testing.T, content []byte, count uint8) {
		path := filepath.Join(t.TempDir(), "x.log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var all []LogLine
		for line, err := range readLog(t.Context(), path, LogQuery{}) {
			if err != nil {
				t.Fatal(err)
			}
			if strings.ContainsRune(line.Text, '\n') {
				t.Fatalf("a line with an end inside: %q", line.Text)
			}
			if len(line.Text) > MaxLogLine+len(content) {
				t.Fatalf("a line of %d bytes from a file of %d", len(line.Text), len(content))
			}
			all = append(all, line)
		}
		// Parts of lines make the two differ where a tail begins within a line;
		// without them they are the same.
		tail, err := tailLines(path, int(count))
		if err != nil {
			t.Fatal(err)
		}
		if len(tail) > int(count) || len(tail) > len(all) {
			t.Fatalf("the last %d lines are %d of %d", count, len(tail), len(all))
		}
		for _, line := range all {
			if line.Partial {
				return
			}
		}
		if bytes.Contains(content, []byte(" P ")) {
			return
		}
		want := all[max(len(all)-int(count), 0):]
		for i := range want {
			if tail[i] != want[i] {
				t.Fatalf("line %d of the tail is %+v, want %+v", i, tail[i], want[i])
			}
		}
	})
}

func TestLogOfAContainer(t *testing.T) {
	e := newEngine(t)
	spec := shell("lines", `printf 'no end'; head -c 100000 /dev/zero | tr '\0' z; printf '\n\n'; printf '\377\n' >&2; printf last`)
	spec.Log = container.LogLimits{}
	mustStart(t, e, spec)
	waitState(t, e, spec.ID(), container.Exited)
	var out, err []LogLine
	for line, failure := range e.Logs(t.Context(), "test", "lines", LogQuery{}) {
		if failure != nil {
			t.Fatal(failure)
		}
		if line.Stream == streamErr {
			err = append(err, line)
		} else {
			out = append(out, line)
		}
	}
	if len(out) != 3 || len(out[0].Text) != 100006 || out[0].Partial || out[1].Text != "" || out[2].Text != "last" || !out[2].Partial {
		t.Errorf("%d lines, the first of %d bytes: %+v", len(out), len(out[0].Text), out[1:])
	}
	if len(err) != 1 || err[0].Text != "\377" {
		t.Errorf("errors: %+v", err)
	}
	if age := time.Since(out[0].Time); age < 0 || age > deadline {
		t.Errorf("time of the first line: %v", out[0].Time)
	}
}
