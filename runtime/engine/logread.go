package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// LogQuery says which lines of a log are wanted.
type LogQuery struct {
	Since  time.Time // lines from then on; zero: from the oldest
	Tail   int       // at most so many of the newest; 0: all
	Follow bool      // go on with new lines until the context ends
}

// followInterval is how often a followed log is looked at for new lines.
const followInterval = 200 * time.Millisecond

// tailChunk is how much of a file is read at once from its end.
const tailChunk = 64 << 10

// LogTail returns the last lines of a container's log, oldest first, without
// their times. A container that never wrote any has none.
func (e *Engine) LogTail(id string, lines int) []string {
	site, name, ok := strings.Cut(id, ".")
	if !ok || lines <= 0 {
		return nil
	}
	tail, err := tailLines(e.logFile(site, name), lines)
	if err != nil {
		e.log.Warn("reading a log", "container", id, "error", err)
	}
	texts := make([]string, 0, len(tail))
	for _, line := range tail {
		texts = append(texts, line.Text)
	}
	return texts
}

// Logs reads the log of a service across its older files, and on with Follow
// across rotations. A service that never wrote has an empty log. The error of
// the last pair, if any, ends the sequence.
func (e *Engine) Logs(ctx context.Context, site, name string, query LogQuery) iter.Seq2[LogLine, error] {
	return readLog(ctx, e.logFile(site, name), query)
}

func readLog(ctx context.Context, path string, query LogQuery) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		r := &logReader{path: path, since: query.Since}
		defer r.close()
		send := func(lines []LogLine) bool {
			for _, line := range lines {
				if !line.Time.Before(query.Since) && !yield(line, nil) {
					return false
				}
			}
			return true
		}
		var err error
		if query.Tail > 0 {
			err = r.skipTo(query.Tail)
		} else {
			err = r.skipToOldest()
		}
		for {
			if err != nil {
				yield(LogLine{}, err)
				return
			}
			var lines []LogLine
			lines, err = r.next()
			if !send(lines) {
				return
			}
			if err != nil || len(lines) > 0 || r.more {
				continue
			}
			if !query.Follow {
				send(r.join.rest())
				return
			}
			if !wait(ctx, followInterval) {
				return
			}
		}
	}
}

// logReader reads the files of one log one after the other. It knows a file by
// its inode, as the files change their names while it reads.
type logReader struct {
	path  string
	since time.Time
	file  *os.File
	inode uint64
	held  []byte // the beginning of an entry whose end is not written yet
	join  joiner
	more  bool // next has read something, or moved on to another file
}

func (r *logReader) close() {
	if r.file != nil {
		_ = r.file.Close() // only read
	}
}

// logFiles returns the existing files of a log, oldest first.
func logFiles(path string) ([]string, error) {
	var files []string
	for n := 0; ; n++ {
		name := rotatedName(path, n)
		_, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			if n == 0 {
				continue // between two steps of a rotation
			}
			break
		}
		if err != nil {
			return nil, err
		}
		files = append(files, name)
	}
	slices.Reverse(files)
	return files, nil
}

func (r *logReader) open(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	r.close()
	r.file, r.inode, r.held = file, inodeOf(info), nil
	return nil
}

func inodeOf(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

// skipToOldest opens the oldest file that may hold lines since r.since.
func (r *logReader) skipToOldest() error {
	files, err := logFiles(r.path)
	if err != nil || len(files) == 0 {
		return err
	}
	for _, name := range files[:len(files)-1] {
		info, err := os.Stat(name)
		if err == nil && !info.ModTime().Before(r.since) {
			return r.openOrNewer(name)
		}
	}
	return r.openOrNewer(files[len(files)-1])
}

func (r *logReader) openOrNewer(name string) error {
	err := r.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // rotated away in between; next finds what there is
	}
	return err
}

// skipTo places the reader so that at most count entries that end a line lie
// before the end.
func (r *logReader) skipTo(count int) error {
	files, err := logFiles(r.path)
	if err != nil || len(files) == 0 {
		return err
	}
	for i, name := range slices.Backward(files) {
		if err := r.openOrNewer(name); err != nil || r.file == nil {
			return err
		}
		offset, found, err := seekTail(r.file, count)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		count -= found
		if count <= 0 || i == 0 {
			_, err := r.file.Seek(offset, io.SeekStart)
			return err
		}
	}
	return nil
}

// seekTail finds from where on a file holds count entries that end a line. It
// reads from the end and no more than it must.
func seekTail(file *os.File, count int) (offset int64, found int, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	end := info.Size()
	var rest []byte // the beginning of the chunk read last: the end of an entry
	for end > 0 {
		start := max(end-tailChunk, 0)
		chunk := make([]byte, end-start, int(end-start)+len(rest))
		if _, err := file.ReadAt(chunk, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		chunk = append(chunk, rest...)
		for {
			cut := bytes.LastIndexByte(bytes.TrimSuffix(chunk, []byte{'\n'}), '\n')
			if cut < 0 && start > 0 {
				break
			}
			entry := bytes.TrimSuffix(chunk[cut+1:], []byte{'\n'})
			if parsed, ok := parseEntry(entry); ok && !parsed.Partial {
				if found == count {
					return start + int64(cut+1) + int64(len(chunk[cut+1:])), found, nil
				}
				found++
			}
			chunk = chunk[:cut+1]
			if cut < 0 {
				return 0, found, nil
			}
		}
		rest, end = chunk, start
	}
	return 0, found, nil
}

// next returns the lines that have come to their end since the last call.
func (r *logReader) next() ([]LogLine, error) {
	r.more = false
	if r.file == nil {
		if err := r.openOrNewer(r.path); err != nil || r.file == nil {
			return nil, err
		}
	}
	buffer := make([]byte, tailChunk)
	n, err := r.file.Read(buffer)
	if n > 0 {
		r.more = true
		return r.take(buffer[:n]), nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	return nil, r.follow()
}

// follow moves on to the next newer file when this one has been rotated, or
// to the beginning when it has been emptied.
func (r *logReader) follow() error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	position, err := r.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if info.Size() < position {
		r.held, r.more = nil, true
		_, err := r.file.Seek(0, io.SeekStart)
		return err
	}
	files, err := logFiles(r.path)
	if err != nil {
		return err
	}
	for i, name := range files {
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is being rotated; the next look finds it
		}
		if err != nil {
			return err
		}
		if inodeOf(info) != r.inode {
			continue
		}
		if i == len(files)-1 {
			return nil // still the present one
		}
		r.more = true
		return r.openOrNewer(files[i+1])
	}
	// Removed, or rotated out while we were slow: on with the oldest there is.
	if len(files) > 0 {
		r.more = true
		return r.openOrNewer(files[0])
	}
	return nil
}

func (r *logReader) take(text []byte) []LogLine {
	var lines []LogLine
	for {
		end := bytes.IndexByte(text, '\n')
		if end < 0 {
			r.held = append(r.held, text...)
			// Longer than any entry: not ours, so not kept in memory either.
			if len(r.held) > 2*maxPart+64 {
				r.held = r.held[:0]
			}
			return lines
		}
		entry := text[:end]
		if len(r.held) > 0 {
			entry = append(r.held, entry...)
			r.held = r.held[:0]
		}
		text = text[end+1:]
		if parsed, ok := parseEntry(entry); ok {
			if line, whole := r.join.add(parsed); whole {
				lines = append(lines, line)
			}
		}
	}
}

// tailLines returns the last lines of a log.
func tailLines(path string, count int) ([]LogLine, error) {
	var lines []LogLine
	for line, err := range readLog(context.Background(), path, LogQuery{Tail: count}) {
		if err != nil {
			return lines, err
		}
		lines = append(lines, line)
	}
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	return lines, nil
}
