package accesslog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// followEvery is how often a log that is followed is looked at.
const followEvery = 250 * time.Millisecond

// maxLine is more than a line of ours can have, in bytes.
const maxLine = 64 << 10

// Query selects lines.
type Query struct {
	Since  time.Time // zero: no bound; lines without a time are always there
	Tail   int       // the last lines; 0: all
	Follow bool      // go on with what comes, until the context ends
}

// Read calls emit with the lines of the log at path and of those that it was
// before, oldest first. The folder may belong to somebody else: symbolic links
// are not followed and what is no file is refused.
func Read(ctx context.Context, path string, q Query, emit func(line []byte) error) error {
	r := reader{path: path, query: q, emit: emit}
	defer r.close()
	if err := r.kept(ctx); err != nil || !q.Follow {
		return err
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := r.follow(ctx); err != nil {
			return err
		}
	}
}

type reader struct {
	path  string
	query Query
	emit  func([]byte) error

	file *os.File // the newest one
	rest []byte   // of a line whose end is not there yet
	tail [][]byte
	live bool // tail is over: lines are passed on as they come
}

// kept reads what is there.
func (r *reader) kept(ctx context.Context) error {
	all, err := filepath.Glob(globbed(r.path) + ".*")
	if err != nil {
		return err
	}
	var numbers []int
	for _, p := range all {
		if n, err := strconv.Atoi(strings.TrimPrefix(p, r.path+".")); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	for _, n := range numbers {
		f, err := openRegular(r.path + "." + strconv.Itoa(n))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted in the meantime
		}
		if err != nil {
			return err
		}
		err = r.read(ctx, f)
		r.rest = nil
		_ = f.Close() // read only
		if err != nil {
			return err
		}
	}
	if r.file, err = openRegular(r.path); err == nil {
		err = r.read(ctx, r.file)
	}
	if err != nil && (len(numbers) == 0 && !r.query.Follow || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	r.live = true
	for _, line := range r.tail {
		if err := r.emit(line); err != nil {
			return err
		}
	}
	r.tail = nil
	return nil
}

// follow reads what has come since.
func (r *reader) follow(ctx context.Context) error {
	if r.file != nil {
		if err := r.read(ctx, r.file); err != nil {
			return err
		}
		here, err := r.file.Stat()
		if err != nil {
			return err
		}
		there, err := os.Lstat(r.path)
		if err == nil && os.SameFile(here, there) {
			at, err := r.file.Seek(0, io.SeekCurrent)
			if err == nil && at > here.Size() {
				_, err = r.file.Seek(0, io.SeekStart) // emptied by somebody
			}
			return err
		}
		if err != nil {
			return nil // between two files
		}
		// What came between the last look and the move.
		if err := r.read(ctx, r.file); err != nil {
			return err
		}
		r.close()
		r.rest = nil
	}
	f, err := openRegular(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.file = f
	return r.read(ctx, f)
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // read only
		r.file = nil
	}
}

// read passes the whole lines on that a file has from here.
func (r *reader) read(ctx context.Context, f *os.File) error {
	in := bufio.NewReaderSize(f, maxLine)
	for {
		part, err := in.ReadSlice('\n')
		if len(r.rest)+len(part) <= maxLine {
			r.rest = append(r.rest, part...)
		}
		switch {
		case err == nil:
			line := bytes.TrimSuffix(r.rest, []byte{'\n'})
			if err := r.line(line); err != nil {
				return err
			}
			r.rest = r.rest[:0]
		case errors.Is(err, io.EOF):
			return ctx.Err()
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (r *reader) line(line []byte) error {
	if len(line) == 0 || !r.query.Since.IsZero() && before(line, r.query.Since) {
		return nil
	}
	if r.live || r.query.Tail == 0 {
		return r.emit(line)
	}
	if len(r.tail) == r.query.Tail {
		r.tail = r.tail[1:]
	}
	r.tail = append(r.tail, slices.Clone(line))
	return nil
}

func before(line []byte, since time.Time) bool {
	var at struct{ Time time.Time }
	return json.Unmarshal(line, &at) == nil && !at.Time.IsZero() && at.Time.Before(since)
}

func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		_ = f.Close() // the first error is told
		return nil, err
	}
	return f, nil
}
