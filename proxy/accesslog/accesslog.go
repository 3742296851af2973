// Package accesslog writes a line of JSON for every request that a door served.
//
// A request never waits for the disk: lines are gathered in memory, within a
// bound, and one goroutine writes them. Lines that found no room, or that the
// disk did not take, are counted, and the log itself says how many are missing.
package accesslog

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// gather is how long the first line waits for others to be written with:
	// a system call for each would cost more than all the rest.
	gather = 250 * time.Millisecond
	// hurry is the size of gathered lines from which they are written at once.
	hurry = 64 << 10
	// queue bounds the lines that wait in memory, in bytes: several seconds of
	// a busy server.
	queue = 1 << 20
	// tellEvery keeps the journal from being flooded.
	tellEvery = time.Minute
	// closing is how long Close waits for a disk that hangs.
	closing = 5 * time.Second
)

// Config of a log. Writer or File is given.
type Config struct {
	Writer io.Writer // nil: File
	File   File
	// Fields to write, of [Fields]; none: all, and those alone that a request has.
	Fields    []string
	Addresses Addresses // "": Full
	Logger    *slog.Logger
	// Trouble is told what is wrong with writing, and nil when it is over; nil:
	// nobody. It is called from the log's goroutine.
	Trouble func(error)
}

// Log takes entries from any goroutine.
type Log struct {
	format  format
	out     sink
	logger  *slog.Logger
	trouble func(error)

	mu      sync.Mutex
	pending []byte
	lines   int

	begun   chan struct{} // holds one: a first line is pending
	crowded chan struct{} // holds one: write at once
	renewal chan struct{} // holds one: open the file anew
	stop    chan struct{}
	ended   chan struct{}
	once    sync.Once

	lost atomic.Uint64

	// Of the goroutine alone.
	spare   []byte
	told    uint64 // of lost, in the log itself
	spoken  uint64 // of lost, in the journal
	nextSay time.Time
	failing bool
}

// sink is where gathered lines go. It returns how many bytes of p it took.
type sink interface {
	write(p []byte) (int, error)
	reopen()
	close()
}

// Open begins a log. The error is about the configuration, [ErrConfig]: a file
// that cannot be opened is told as trouble and tried again, for a door has to
// serve without a log, too.
func Open(c Config) (*Log, error) {
	f, err := newFormat(c.Fields, c.Addresses)
	if err != nil {
		return nil, err
	}
	l := &Log{
		format: f, logger: c.Logger, trouble: c.Trouble,
		begun: make(chan struct{}, 1), crowded: make(chan struct{}, 1), renewal: make(chan struct{}, 1),
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	if l.logger == nil {
		l.logger = slog.Default()
	}
	if l.trouble == nil {
		l.trouble = func(error) {}
	}
	if c.Writer != nil {
		l.out = stream{c.Writer}
	} else if l.out, err = newFileSink(c.File); err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Add takes an entry. It never waits for the disk.
func (l *Log) Add(e *Entry) {
	b, _ := scratch.Get().(*[]byte) // New makes nothing else
	*b = l.format.append((*b)[:0], e)
	l.mu.Lock()
	fits := len(l.pending)+len(*b) <= queue
	if fits {
		l.pending = append(l.pending, *b...)
		l.lines++
	}
	if !fits {
		l.lost.Add(1) // beside what it comes after, for its place in the log
	}
	first, crowded := l.lines == 1, len(l.pending) >= hurry
	l.mu.Unlock()
	scratch.Put(b)
	if first {
		nudge(l.begun)
	}
	if crowded {
		nudge(l.crowded)
	}
}

// Reopen lets go of the file after what is gathered has been written, for
// whoever moved it away. It does not wait.
func (l *Log) Reopen() { nudge(l.renewal) }

// Lost is how many lines were never written.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Close writes what is gathered. A disk that hangs is waited for a few seconds
// and no longer.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.stop) })
	timer := time.NewTimer(closing)
	defer timer.Stop()
	select {
	case <-l.ended:
		return nil
	case <-timer.C:
		return errors.New("access log: the disk does not take the last lines")
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // somebody was quicker
	}
}

func (l *Log) run() {
	defer close(l.ended)
	defer l.out.close()
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for {
		select {
		case <-l.begun:
		case <-l.renewal:
			l.renew()
			continue
		case <-l.stop:
			l.flush()
			return
		}
		timer.Reset(gather)
		select {
		case <-timer.C:
		case <-l.crowded:
		case <-l.renewal:
			l.renew()
			continue
		case <-l.stop:
		}
		l.flush()
	}
}

func (l *Log) renew() {
	l.flush()
	l.out.reopen()
}

// flush writes what is gathered and says what is missing.
func (l *Log) flush() {
	l.mu.Lock()
	batch, lines, lost := l.pending, l.lines, l.lost.Load()
	l.pending, l.lines = l.spare[:0], 0
	l.mu.Unlock()
	defer func() { l.spare = batch[:0] }()
	if lines > 0 {
		n, err := l.out.write(batch)
		if err != nil {
			l.lost.Add(uint64(countLines(batch[n:]))) //nolint:gosec // not negative
		}
		l.report(err)
	}
	if lost > l.told && !l.failing {
		if _, err := l.out.write(appendLoss(nil, time.Now(), lost-l.told)); err == nil {
			l.told = lost
		}
	}
	if lost > l.spoken && !l.failing && !time.Now().Before(l.nextSay) {
		l.logger.Warn("lines of the access log are lost", "lines", lost-l.spoken)
		l.spoken, l.nextSay = lost, time.Now().Add(tellEvery)
	}
}

// report tells once that writing fails, and once that it works again.
func (l *Log) report(err error) {
	switch {
	case err != nil && !l.failing:
		l.failing = true
		l.logger.Error("the access log cannot be written; requests are served without", "error", err)
		l.trouble(err)
	case err == nil && l.failing:
		l.failing = false
		l.logger.Info("the access log is written again", "lost", l.lost.Load()-l.spoken)
		l.spoken, l.nextSay = l.lost.Load(), time.Now().Add(tellEvery)
		l.trouble(nil)
	}
}

// countLines that end in b: the one that was cut is among them.
func countLines(b []byte) int {
	n := 0
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	return n
}

// stream is a writer that is somebody else's.
type stream struct{ w io.Writer }

func (s stream) write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	return max(0, min(n, len(p))), err
}

func (stream) reopen() {}

func (stream) close() {}
