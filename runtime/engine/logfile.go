package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Defaults of container.LogLimits, in bytes.
const (
	defaultLogFile  = 10 << 20
	defaultLogTotal = 50 << 20
	minLogFile      = 64 << 10
)

// logFile writes the log of one container: NAME.log, older files NAME.log.1,
// NAME.log.2 and so on. A write that fails is dropped and counted, never
// repeated: a container must not stand still because a disk is full. As soon
// as a write succeeds again, a remark says how much is missing.
type logFile struct {
	path  string
	limit int64 // bytes of one file
	keep  int   // files in all, the present one included

	mu      sync.Mutex
	file    *os.File
	size    int64
	torn    bool  // the file ends within an entry
	dropped int64 // entries since the last successful write
	reason  error // why
	now     func() time.Time
}

func newLogFile(path string, limit, total int64) *logFile {
	if limit <= 0 {
		limit = defaultLogFile
	}
	if total <= 0 {
		total = max(defaultLogTotal, limit)
	}
	// At least two files, or a rotation would throw the newest lines away.
	limit = max(min(limit, total/2), minLogFile)
	return &logFile{path: path, limit: limit, keep: int(max(total/limit, 2)), now: time.Now}
}

// write appends whole entries; count is their number.
func (l *logFile) write(entries []byte, count int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(entries); err != nil {
		l.dropped += count
		l.reason = err
	}
}

func (l *logFile) append(entries []byte) error {
	if err := l.ready(int64(len(entries))); err != nil {
		return err
	}
	if l.dropped > 0 || l.torn {
		var remark []byte
		if l.torn {
			remark = append(remark, '\n')
		}
		if l.dropped > 0 {
			text := fmt.Sprintf("%d lines or parts of lines were not written: %v", l.dropped, l.reason)
			remark = appendEntry(remark, l.now(), streamLog, true, []byte(text))
		}
		if err := l.put(remark); err != nil {
			return err
		}
		l.dropped, l.reason = 0, nil
	}
	return l.put(entries)
}

// put writes all or takes back what was written of it.
func (l *logFile) put(text []byte) error {
	n, err := l.file.Write(text)
	l.size += int64(n)
	if err == nil {
		l.torn = false
		return nil
	}
	if n > 0 {
		if cut := l.file.Truncate(l.size - int64(n)); cut == nil {
			l.size -= int64(n)
		} else {
			l.torn = true
		}
	}
	return err
}

// ready opens the file, rotates it when more bytes would not fit, and opens it
// anew when somebody has removed it.
func (l *logFile) ready(more int64) error {
	if l.file != nil {
		info, err := l.file.Stat()
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink == 0 {
			l.shut()
		} else {
			l.size = info.Size() // somebody may have emptied it
		}
	}
	if l.file != nil && l.size > 0 && l.size+more > l.limit {
		l.shut()
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if l.file != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o750); err != nil {
		return err
	}
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	l.file, l.size = file, info.Size()
	l.torn = l.size > 0 && !endsLine(l.path, l.size)
	return nil
}

// endsLine says whether the last byte of a file is a newline: a shim that was
// killed may have left half an entry.
func endsLine(path string, size int64) bool {
	file, err := os.Open(path)
	if err != nil {
		return true
	}
	defer file.Close()
	var last [1]byte
	_, err = file.ReadAt(last[:], size-1)
	return err != nil || last[0] == '\n'
}

func (l *logFile) shut() {
	if l.file != nil {
		_ = l.file.Close() // nothing is buffered that a close could lose
		l.file = nil
	}
}

// rotate moves every file one place on, the oldest away first, so that the
// total is kept even on a full disk. A file that cannot be moved stays: the
// next write tries again.
func (l *logFile) rotate() error {
	if err := l.removeOld(); err != nil {
		return err
	}
	for n := l.keep - 2; n >= 0; n-- {
		from := rotatedName(l.path, n)
		if err := os.Rename(from, rotatedName(l.path, n+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeOld removes the files that the next rotation would push out, among
// them those that lie over from a time of larger limits.
func (l *logFile) removeOld() error {
	for n := l.keep - 1; ; n++ {
		err := os.Remove(rotatedName(l.path, n))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped > 0 && l.ready(0) == nil {
		_ = l.append(nil) // the remark; if that fails too there is nobody to tell
	}
	l.shut()
}

// rotatedName is the name of the nth older file; 0 is the present one.
func rotatedName(path string, n int) string {
	if n == 0 {
		return path
	}
	return path + "." + strconv.Itoa(n)
}

// parseBytes reads a number of bytes from an annotation; 0 when there is none.
func parseBytes(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
