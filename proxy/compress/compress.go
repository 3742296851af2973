// Package compress makes pages smaller on their way to the visitor.
//
// It encodes text alone, never a stream of events, never what says that it is
// not to be transformed, and never what would help to guess a secret: see
// Visit.
package compress

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tarima/proxy/coding"
)

// Config of a Compressor. Zero values take the defaults that are named.
type Config struct {
	// AtOnce is how many answers are encoded at the same time, each with about
	// half a MiB; 0: 8 for each processor. Others are sent as they are.
	AtOnce int
	// MaxLoad is the load of the machine for each processor above which nothing
	// is encoded; 0: 4, negative: none.
	MaxLoad float64
	// Load tells the machine's load; nil: the kernel's average over a minute.
	Load func() float64
}

// Compressor encodes answers. Its methods may be called from several goroutines.
type Compressor struct {
	cfg    Config
	room   atomic.Int64
	looked atomic.Int64 // when the load was looked at, in nanoseconds
	busy   atomic.Bool
	stats  struct{ encoded, refused atomic.Uint64 }
}

// New makes a Compressor. It starts nothing and needs no end.
func New(cfg Config) *Compressor {
	if cfg.AtOnce == 0 {
		cfg.AtOnce = 8 * runtime.GOMAXPROCS(0)
	}
	if cfg.MaxLoad == 0 {
		cfg.MaxLoad = 4
	}
	if cfg.Load == nil {
		cfg.Load = kernelLoad
	}
	c := &Compressor{cfg: cfg}
	c.room.Store(int64(cfg.AtOnce))
	return c
}

// Stats is what a Compressor does and did.
type Stats struct {
	Running int    // answers that are being encoded
	Encoded uint64 // answers, ever
	Refused uint64 // answers that were not, for want of room or of processor
}

// Stats returns the numbers of this moment.
func (c *Compressor) Stats() Stats {
	return Stats{Running: c.cfg.AtOnce - int(c.room.Load()), Encoded: c.stats.encoded.Load(), Refused: c.stats.refused.Load()}
}

// kernelLoad is what /proc/loadavg says, which a sandbox may hide.
func kernelLoad() float64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	const one = 1 << 16 // SI_LOAD_SHIFT of linux/sysinfo.h
	return float64(info.Loads[0]) / one
}

// The load changes slowly.
const lookEvery = int64(time.Second)

// overloaded says whether the machine has better things to do.
func (c *Compressor) overloaded() bool {
	if c.cfg.MaxLoad < 0 {
		return false
	}
	now, last := time.Now().UnixNano(), c.looked.Load()
	if (last == 0 || now-last >= lookEvery) && c.looked.CompareAndSwap(last, now) {
		c.busy.Store(c.cfg.Load() > c.cfg.MaxLoad*float64(runtime.NumCPU()))
	}
	return c.busy.Load()
}

func (c *Compressor) enter() bool {
	if c.room.Add(-1) < 0 {
		c.room.Add(1)
		return false
	}
	return true
}

func (c *Compressor) leave() { c.room.Add(1) }

// Visit is what of a request decides whether its answer may be encoded.
type Visit struct {
	Request *http.Request // as the client sent it
	// Secure is a request over HTTPS: without it there is no secret to guess.
	Secure bool
	// Own says whether a host is one of the site's own.
	Own func(host string) bool
}

// Apply encodes an answer if that is possible, useful and safe, and says in Vary
// that it depends on Accept-Encoding. The body is encoded as it is read; what the
// upstream sent and then waited with is passed on at once.
func (c *Compressor) Apply(v Visit, resp *http.Response) {
	h := resp.Header
	if resp.StatusCode == http.StatusNotModified {
		weakenRevalidated(v.Request, h)
		return
	}
	if !encodable(v.Request, resp) {
		return
	}
	if !coding.Lists(h["Vary"], "Accept-Encoding") && !coding.Lists(h["Vary"], "*") {
		h.Add("Vary", "Accept-Encoding")
	}
	if v.Request.Method == http.MethodHead || resp.Body == http.NoBody || resp.ContentLength >= 0 && resp.ContentLength < coding.Smallest {
		return
	}
	accept := coding.Parse(v.Request.Header["Accept-Encoding"])
	best := choose(accept)
	if best == coding.Identity || !v.safe(h) {
		return
	}
	if c.overloaded() || !c.enter() {
		c.stats.refused.Add(1)
		return
	}
	c.stats.encoded.Add(1)
	h.Set("Content-Encoding", best.String())
	h.Del("Content-Length")
	h.Del("Accept-Ranges")
	if etag := h.Get("Etag"); etag != "" {
		h.Set("Etag", weak(etag))
	}
	resp.Body = newBody(resp.Body, best, resp.ContentLength < 0, c.leave)
	resp.ContentLength = -1
}

// choose between the codings that are quick: the better liked, and zstd of two.
func choose(accept coding.Accept) coding.Coding {
	best, ok := accept.Best([coding.Count]int64{coding.Brotli: -1, coding.Zstd: 1, coding.Gzip: 2, coding.Identity: 3})
	if !ok {
		return coding.Identity
	}
	return best
}

// encodable says whether an answer is a text that may be sent in another form.
func encodable(r *http.Request, resp *http.Response) bool {
	h := resp.Header
	switch resp.StatusCode {
	case http.StatusNoContent, http.StatusResetContent, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return false
	}
	if resp.StatusCode < 200 || len(r.Header["Range"]) > 0 {
		return false
	}
	// It has a form already, or one that is signed.
	for _, name := range []string{"Content-Encoding", "Content-Range", "Content-Md5", "Content-Digest", "Digest"} {
		if len(h[name]) > 0 {
			return false
		}
	}
	// RFC 9110 section 7.7, and what nginx is told in that way.
	if coding.Lists(h["Cache-Control"], "no-transform") || coding.Lists(r.Header["Cache-Control"], "no-transform") || coding.Lists(h["X-Accel-Buffering"], "no") {
		return false
	}
	return coding.Text(h.Get("Content-Type"))
}

// safe says whether the length of the encoded answer helps nobody.
//
// Who can make a visitor's browser ask for pages, choose a part of their content
// and watch the length of the answers, can guess a secret in them letter by
// letter (BREACH, CVE-2013-3587): a right guess compresses better. So an answer
// that may hold something of this visitor is encoded only when no stranger can
// have made the browser ask. Browsers tell in Sec-Fetch-Site, which no script can
// set, and which other clients do not send.
func (v Visit) safe(answer http.Header) bool {
	if !v.Secure {
		return true
	}
	h := v.Request.Header
	if len(h["Cookie"]) == 0 && !sentByItself(h["Authorization"]) && len(answer["Set-Cookie"]) == 0 {
		return true // the same for everybody
	}
	if len(h["Sec-Fetch-Site"]) != 1 {
		return false
	}
	switch h["Sec-Fetch-Site"][0] {
	case "same-origin", "none": // none: the visitor typed it, or took a bookmark
		return true
	case "same-site":
		// Another name of the same domain: of ours, or of somebody's blog.
		host, ok := strings.CutPrefix(h.Get("Origin"), "https://")
		return ok && v.Own != nil && v.Own(host)
	}
	return false
}

// sentByItself: a browser adds a password that it knows to whatever it is made
// to ask. A token is added by a program.
func sentByItself(authorization []string) bool {
	for _, value := range authorization {
		scheme, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "JWT") {
			return true
		}
	}
	return false
}

// weak is the tag of what means the same and is not the same bytes (RFC 9110
// section 8.8.1).
func weak(etag string) string {
	if strings.HasPrefix(etag, "W/") {
		return etag
	}
	return "W/" + etag
}

// weakenRevalidated gives a 304 the tag under which the client knows the page.
func weakenRevalidated(r *http.Request, h http.Header) {
	etag := h.Get("Etag")
	if etag != "" && !strings.HasPrefix(etag, "W/") && !coding.Lists(r.Header["If-None-Match"], etag) && coding.Lists(r.Header["If-None-Match"], weak(etag)) {
		h.Set("Etag", weak(etag))
	}
}

// body encodes another one while it is read.
type body struct {
	src     io.ReadCloser
	encoder encoder
	out     *slice
	in      []byte
	flush   bool // what came so far is wanted at once
	err     error
	release func()
}

// slice collects what an encoder writes.
type slice struct {
	data []byte
	read int
}

func (s *slice) Write(p []byte) (int, error) {
	if s.read == len(s.data) {
		s.data, s.read = s.data[:0], 0
	}
	s.data = append(s.data, p...)
	return len(p), nil
}

func newBody(src io.ReadCloser, c coding.Coding, flush bool, leave func()) *body {
	w := workplaceOf(c)
	b := &body{src: src, encoder: w.encoder, out: &w.out, in: w.in, flush: flush}
	b.release = func() {
		b.encoder, b.release = nil, nil
		w.tidy()
		leave()
	}
	return b
}

// Read serves io.Reader.
func (b *body) Read(p []byte) (int, error) {
	for b.out == nil || b.out.read == len(b.out.data) {
		if b.err != nil {
			b.leave()
			return 0, b.err
		}
		n, err := b.src.Read(b.in)
		if n > 0 {
			if _, werr := b.encoder.Write(b.in[:n]); err == nil {
				err = werr
			}
			if b.flush && err == nil {
				err = b.encoder.Flush()
			}
		}
		if err == io.EOF { //nolint:errorlint // as io.Reader says, unwrapped
			if cerr := b.encoder.Close(); cerr != nil {
				err = cerr
			}
		}
		b.err = err
	}
	n := copy(p, b.out.data[b.out.read:])
	b.out.read += n
	return n, nil
}

// leave gives the encoder back, once.
func (b *body) leave() {
	if b.release != nil {
		release := b.release
		b.out, b.in = nil, nil
		release()
	}
}

// Close serves io.Closer; it may come at any time.
func (b *body) Close() error {
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	b.leave()
	return b.src.Close()
}
