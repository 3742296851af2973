package accesslog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is where a log lies. When it is large or old, it becomes PATH.1, that
// one PATH.2 and so on, and the oldest are deleted.
//
// Two processes may write to one file, as they do while one hands over to the
// other. A file that was moved away or deleted by others is begun anew.
type File struct {
	Path  string        // absolute
	Size  int64         // bytes after which a new one begins; 0: 50 MB
	Age   time.Duration // of its begin, after which a new one begins; 0: a week, negative: never
	Keep  int           // older files; 0: 5
	Total int64         // bytes of all of them together; 0: Size for each
}

type fileSink struct {
	File
	file    *os.File
	regular bool
	torn    bool // the last line was cut
}

func newFileSink(f File) (*fileSink, error) {
	if !filepath.IsAbs(f.Path) {
		return nil, fmt.Errorf("%w: %q is no absolute path", ErrConfig, f.Path)
	}
	if f.Size < 0 || f.Keep < 0 || f.Total < 0 {
		return nil, fmt.Errorf("%w: size %d, keep %d, total %d", ErrConfig, f.Size, f.Keep, f.Total)
	}
	if f.Size == 0 {
		f.Size = 50 << 20
	}
	if f.Age == 0 {
		f.Age = 7 * 24 * time.Hour
	}
	if f.Keep == 0 {
		f.Keep = 5
	}
	if f.Total == 0 {
		f.Total = f.Size * int64(f.Keep+1)
	}
	return &fileSink{File: f}, nil
}

func (s *fileSink) open() error {
	// With O_NONBLOCK a FIFO that nobody reads is an error instead of a wait.
	f, err := os.OpenFile(s.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o640)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(s.Path), 0o750); err == nil {
			f, err = os.OpenFile(s.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o640)
		}
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.file, s.regular = f, info.Mode().IsRegular()
	return nil
}

func (s *fileSink) reopen() {
	if s.file != nil {
		_ = s.file.Close() // everything was written, by system calls
		s.file = nil
	}
}

func (s *fileSink) close() { s.reopen() }

func (s *fileSink) write(p []byte) (int, error) {
	if s.file != nil && !s.current() {
		s.reopen() // moved away or deleted
	}
	if s.file == nil {
		if err := s.open(); err != nil {
			return 0, err
		}
	}
	if err := s.rotate(int64(len(p))); err != nil {
		return 0, err
	}
	if s.torn {
		// What came of a line before the disk was full must not spoil the
		// next one.
		if _, err := s.file.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		s.torn = false
	}
	n, err := s.file.Write(p)
	if err != nil {
		s.torn = n > 0 && p[n-1] != '\n'
	}
	return n, err
}

// current says whether the open file is the one that the path leads to.
func (s *fileSink) current() bool {
	here, err := s.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(s.Path)
	return err == nil && os.SameFile(here, there)
}

// rotate begins a new file when the one that is open is full or old.
func (s *fileSink) rotate(more int64) error {
	info, err := s.file.Stat()
	if err != nil || !s.regular || info.Size() == 0 {
		return err
	}
	if info.Size()+more <= s.Size && (s.Age < 0 || time.Since(born(s.file, info)) < s.Age) {
		return nil
	}
	// One at a time: the lock ends with the descriptor.
	if err := unix.Flock(int(s.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil // another process does it
		}
		return fmt.Errorf("lock %s: %w", s.Path, err)
	}
	if s.current() {
		if err := s.shift(info.Size()); err != nil {
			return err
		}
	}
	s.reopen()
	return s.open()
}

// shift moves each file to the next number and deletes those that are too many
// or too large together.
func (s *fileSink) shift(size int64) error {
	old, err := filepath.Glob(globbed(s.Path) + ".*")
	if err != nil {
		return err
	}
	for _, path := range old {
		n, err := strconv.Atoi(strings.TrimPrefix(path, s.Path+"."))
		if err != nil || n < s.Keep {
			continue // not one of ours, or one to keep
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	total := size
	for n := 1; n < s.Keep; n++ {
		info, err := os.Stat(s.numbered(n))
		if err != nil {
			continue
		}
		// The file that begins now will be as large as it may.
		if total += info.Size(); total+s.Size > s.Total {
			if err := os.Remove(s.numbered(n)); err != nil {
				return err
			}
		}
	}
	for n := s.Keep - 1; n > 0; n-- {
		if err := os.Rename(s.numbered(n), s.numbered(n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(s.Path, s.numbered(1))
}

func (s *fileSink) numbered(n int) string { return s.Path + "." + strconv.Itoa(n) }

// globbed escapes what filepath.Glob would take for a pattern.
func globbed(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// born is when a file was made, or last written to where the file system does
// not know.
func born(f *os.File, info fs.FileInfo) time.Time {
	var x unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &x); err == nil && x.Mask&unix.STATX_BTIME != 0 {
		return time.Unix(x.Btime.Sec, int64(x.Btime.Nsec))
	}
	return info.ModTime()
}
