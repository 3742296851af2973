package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// logPipes takes what a container writes to its two outputs and brings it into
// a logFile. The runtime side of the shim opens the write ends by their name
// under /proc/self/fd, as it would open a FIFO, so that there is no FIFO on
// disk that a crash could leave.
type logPipes struct {
	log      *logFile
	out, err [2]*os.File // read end, write end
	done     chan struct{}
	streams  sync.WaitGroup
}

func openLogPipes(log *logFile) (*logPipes, error) {
	p := &logPipes{log: log, done: make(chan struct{})}
	var err error
	if p.out[0], p.out[1], err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.err[0], p.err[1], err = os.Pipe(); err != nil {
		return nil, errors.Join(err, p.out[0].Close(), p.out[1].Close())
	}
	p.streams.Go(func() { p.copy(p.out[0], streamOut) })
	p.streams.Go(func() { p.copy(p.err[0], streamErr) })
	go func() {
		p.streams.Wait()
		log.close()
		close(p.done)
	}()
	return p, nil
}

// names of the write ends, valid within this process until closeWriteEnds.
func (p *logPipes) names() (out, err string) {
	return fmt.Sprintf("/proc/self/fd/%d", p.out[1].Fd()), fmt.Sprintf("/proc/self/fd/%d", p.err[1].Fd())
}

func (p *logPipes) closeWriteEnds() {
	_ = p.out[1].Close()
	_ = p.err[1].Close()
}

// wait returns when all output is in the log, or after at most limit.
func (p *logPipes) wait(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// copy reads one output to its end.
func (p *logPipes) copy(source *os.File, stream string) {
	defer source.Close()
	s := splitter{stream: stream, log: p.log}
	buffer := make([]byte, 2*maxPart)
	for {
		n, err := source.Read(buffer)
		if n > 0 {
			s.take(buffer[:n], p.log.now())
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.take([]byte(fmt.Sprintf("\nreading this output failed: %v\n", err)), p.log.now())
			}
			s.flush(p.log.now())
			return
		}
	}
}

// splitter cuts a stream of bytes into log entries. What it holds back is at
// most maxPart bytes of a line without an end.
type splitter struct {
	stream string
	log    *logFile
	held   []byte
	batch  []byte
}

// take writes all lines that end within chunk in one write.
func (s *splitter) take(chunk []byte, at time.Time) {
	s.batch = s.batch[:0]
	var count int64
	for {
		end := bytes.IndexByte(chunk, '\n')
		if end < 0 {
			break
		}
		line := chunk[:end]
		if len(s.held) > 0 {
			s.held = append(s.held, line...)
			line = s.held
		}
		for len(line) > maxPart {
			s.batch = appendEntry(s.batch, at, s.stream, false, line[:maxPart])
			line = line[maxPart:]
			count++
		}
		s.batch = appendEntry(s.batch, at, s.stream, true, line)
		count++
		s.held = s.held[:0]
		chunk = chunk[end+1:]
	}
	s.held = append(s.held, chunk...)
	for len(s.held) >= maxPart {
		s.batch = appendEntry(s.batch, at, s.stream, false, s.held[:maxPart])
		s.held = s.held[:copy(s.held, s.held[maxPart:])]
		count++
	}
	if count > 0 {
		s.log.write(s.batch, count)
	}
}

// flush writes what has no end at the end of the output.
func (s *splitter) flush(at time.Time) {
	if len(s.held) > 0 {
		s.log.write(appendEntry(nil, at, s.stream, false, s.held), 1)
		s.held = nil
	}
}
