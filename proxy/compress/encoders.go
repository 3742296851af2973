package compress

import (
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tarima/proxy/coding"
)

// encoder is what gzip and zstd have in common.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// workplace is an encoder with its buffers, used for one answer after another.
type workplace struct {
	encoder encoder
	out     slice
	in      []byte
	pool    *sync.Pool
}

// Window of zstd in bytes: pages are not larger by much, and it is what an
// encoder holds.
const window = 128 << 10

// Both are the quickest levels: the time of a better one costs a visitor more
// than it saves.
var gzips, zstds sync.Pool

func workplaceOf(c coding.Coding) *workplace {
	pool := &gzips
	if c == coding.Zstd {
		pool = &zstds
	}
	w, ok := pool.Get().(*workplace)
	if !ok {
		w = &workplace{in: make([]byte, 32<<10), encoder: newEncoder(c), pool: pool}
	}
	w.encoder.Reset(&w.out)
	return w
}

func newEncoder(c coding.Coding) encoder {
	if c == coding.Zstd {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(window),
			zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are constants
		}
		return w
	}
	w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}

// An answer that expanded is not a reason to hold its buffer for ever.
const largestBuffer = 256 << 10

// tidy makes it ready for somebody else.
func (w *workplace) tidy() {
	w.encoder.Reset(io.Discard)
	if cap(w.out.data) > largestBuffer {
		w.out.data = nil
	}
	w.out.data, w.out.read = w.out.data[:0], 0
	w.pool.Put(w)
}
