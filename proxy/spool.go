package proxy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// An answer of this size fits into what the kernel holds for a
	// connection: the upstream is free at once without us.
	smallAnswer = 16 << 10
	// A client that has not taken its answer by then is a slow one. A quick
	// one never pays for a second goroutine.
	slowAfter = 50 * time.Millisecond
	// So much of the disk is left to everything else.
	diskReserve = 1 << 30
	// Each one that reads ahead holds up to two pieces beside the budget.
	maxSpools = 512
)

// spools keeps the answers that clients take slowly, so that they do not
// occupy a worker of the application meanwhile: in memory up to a bound, then
// on disk up to another, then not at all.
type spools struct {
	limits  Buffers
	logger  *slog.Logger
	buffers *buffers
	memory  budget
	disk    budget
	open    atomic.Int64 // answers that are spooled
	told    atomic.Bool  // that the disk is of no use
}

// budget is a bounded number of bytes.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

func newSpools(limits Buffers, logger *slog.Logger, pool *buffers) *spools {
	return &spools{
		limits: limits, logger: logger, buffers: pool,
		memory: budget{limit: limits.Memory}, disk: budget{limit: max(limits.Disk, 0)},
	}
}

// spool is the body of one answer. It reads from the upstream when it is asked
// to, until slowAfter: from then on a goroutine of its own reads ahead.
//
// What it holds is in this order: pieces in memory, then the file.
type spool struct {
	*spools
	src   io.ReadCloser
	freed func() // the upstream has said everything

	takeover *time.Timer

	mu      sync.Mutex
	turn    *sync.Cond // something has changed
	reading bool       // src, by who asks
	late    bool       // slowAfter is over, and that read is not
	ahead   bool       // a goroutine reads src
	ended   chan struct{}
	closed  bool
	err     error // of src

	pieces []piece
	held   int64 // bytes of the memory budget

	file          *os.File
	read, written int64 // of the file
	writing       bool
	noDisk        bool
}

// piece is a part of an answer in memory.
type piece struct {
	data       []byte // of the pool
	begin, end int
	counted    bool // in the budget
}

// wrap returns the body to read in place of src. freed is called once when the
// upstream has said everything.
func (s *spools) wrap(src io.ReadCloser, freed func()) io.ReadCloser {
	b := &spool{spools: s, src: src, freed: freed, ended: make(chan struct{})}
	b.turn = sync.NewCond(&b.mu)
	b.takeover = time.AfterFunc(slowAfter, b.readAhead)
	return b
}

// Read gives what comes next.
func (b *spool) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ahead {
		if b.err != nil {
			return 0, b.err
		}
		b.reading = true
		b.mu.Unlock()
		n, err := b.src.Read(p)
		b.mu.Lock()
		b.reading = false
		b.over(err)
		if b.late && b.begin() {
			go b.fill()
		}
		return n, err
	}
	for {
		switch {
		case len(b.pieces) > 0:
			return b.fromMemory(p), nil
		case b.read < b.written:
			return b.fromFile(p)
		case b.err != nil:
			return 0, b.err
		case b.closed:
			return 0, os.ErrClosed
		}
		b.turn.Wait()
	}
}

func (b *spool) fromMemory(p []byte) int {
	first := &b.pieces[0]
	n := copy(p, first.data[first.begin:first.end])
	if first.begin += n; first.begin == first.end {
		b.drop(first)
		b.pieces = b.pieces[1:]
		b.turn.Signal()
	}
	return n
}

func (b *spool) drop(p *piece) {
	b.buffers.Put(p.data)
	if p.counted {
		b.held -= int64(len(p.data))
		b.memory.give(int64(len(p.data)))
	}
}

func (b *spool) fromFile(p []byte) (int, error) {
	if left := b.written - b.read; int64(len(p)) > left {
		p = p[:left]
	}
	// Nobody else moves this end.
	b.mu.Unlock()
	n, err := b.file.ReadAt(p, b.read)
	b.mu.Lock()
	b.read += int64(n)
	if b.read == b.written && !b.writing {
		b.empty()
	}
	if err != nil && n == len(p) {
		err = nil
	}
	return n, err
}

// empty gives the room on disk back.
func (b *spool) empty() {
	if err := b.file.Truncate(0); err != nil {
		b.noDisk = true // it keeps its room until the end
		return
	}
	b.disk.give(b.written)
	b.read, b.written = 0, 0
	b.turn.Signal()
}

// over keeps how the upstream ended.
func (b *spool) over(err error) {
	if err == nil || b.err != nil {
		return
	}
	b.err = err
	if errors.Is(err, io.EOF) {
		b.freed()
	}
	b.turn.Signal()
}

// readAhead takes the reading over from who asks.
func (b *spool) readAhead() {
	b.mu.Lock()
	b.late = true
	begin := !b.reading && b.begin()
	b.mu.Unlock()
	if begin {
		b.fill()
	}
}

// begin says whether reading ahead may begin; it is called with the lock held.
func (b *spool) begin() bool {
	if b.closed || b.err != nil {
		return false
	}
	if b.open.Add(1) > maxSpools {
		b.open.Add(-1)
		b.late = false
		return false // as if there were none
	}
	b.ahead = true
	return true
}

// fill reads the rest of the answer as quickly as there is room for it.
func (b *spool) fill() {
	defer close(b.ended)
	defer b.open.Add(-1)
	buf := b.buffers.Get()
	for {
		n, err := b.src.Read(buf)
		var placed bool
		if n > 0 {
			if buf, placed = b.place(buf, n); !placed {
				break
			}
		}
		if err != nil {
			b.mu.Lock()
			b.over(err)
			b.mu.Unlock()
			break
		}
	}
	b.buffers.Put(buf)
}

// place keeps n bytes, waiting for room, and returns a buffer to go on with;
// false when nobody wants them any more.
func (b *spool) place(buf []byte, n int) (next []byte, placed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed {
		if b.read == b.written { // nothing on disk: this goes behind what is in memory
			if last := len(b.pieces) - 1; last >= 0 && len(buf)-b.pieces[last].end >= n {
				b.pieces[last].end += copy(b.pieces[last].data[b.pieces[last].end:], buf[:n])
				b.turn.Signal()
				return buf, true
			}
			// One piece is always possible, or nothing would move.
			size := int64(len(buf))
			counted := b.held+size <= b.limits.MemoryEach && b.memory.take(size)
			if counted || len(b.pieces) == 0 {
				if counted {
					b.held += size
				}
				b.pieces = append(b.pieces, piece{data: buf, end: n, counted: counted})
				b.turn.Signal()
				return b.buffers.Get(), true
			}
		}
		if !b.noDisk && b.written+int64(n) <= b.limits.DiskEach && b.disk.take(int64(n)) {
			if n = b.toFile(buf, n); n == 0 {
				return buf, true
			}
			continue
		}
		b.turn.Wait()
	}
	return buf, false
}

// toFile writes n bytes that are in the budget and returns how many are left,
// at the beginning of buf.
func (b *spool) toFile(buf []byte, n int) (left int) {
	b.writing = true
	b.mu.Unlock()
	var err error
	if b.file == nil {
		b.file, err = b.temporary()
	}
	done := 0
	if err == nil {
		done, err = b.file.WriteAt(buf[:n], b.written)
	}
	b.mu.Lock()
	b.writing = false
	b.written += int64(done)
	left = copy(buf, buf[done:n])
	b.disk.give(int64(left))
	if err != nil {
		b.noDisk = true
		if !b.told.Swap(true) {
			b.logger.Warn("answers for slow clients cannot be kept on disk", "folder", b.limits.Dir, "error", err)
		}
	}
	b.turn.Signal()
	return left
}

// temporary makes a file that has no name and is gone with the process.
func (s *spools) temporary() (*os.File, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.limits.Dir, &fs); err != nil {
		return nil, fmt.Errorf("space for answers: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < diskReserve { //nolint:gosec // no disk has 2^63 bytes
		return nil, fmt.Errorf("space for answers: %d MiB are free, %d are left alone", free>>20, diskReserve>>20)
	}
	fd, err := unix.Open(s.limits.Dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "answer"), nil //nolint:gosec // a descriptor is not negative
	}
	// Not every file system knows files without a name.
	f, err := os.CreateTemp(s.limits.Dir, ".answer-*")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// Close ends the reading and gives everything back.
func (b *spool) Close() error {
	b.takeover.Stop()
	b.mu.Lock()
	again, ahead := b.closed, b.ahead
	b.closed = true
	b.turn.Broadcast()
	b.mu.Unlock()
	if again {
		return nil
	}
	err := b.src.Close() // and with it a read that is under way
	if ahead {
		<-b.ended
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.pieces {
		b.drop(&b.pieces[i])
	}
	b.pieces = nil
	if b.file != nil {
		b.disk.give(b.written)
		b.read, b.written = 0, 0
		err = errors.Join(err, b.file.Close())
	}
	return err
}
