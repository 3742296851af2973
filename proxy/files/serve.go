// Package files serves the files of a folder: micro-frontends and what else of a
// site does not change.
//
// What is known of a file (its hash, which encodings of it there are) is found
// out once and believed as long as the file on disk is the same one, unchanged.
// Small files are answered from memory within a budget, large ones are read from
// disk while they are sent. An answer is always of one file in one state, also
// while a folder is replaced by a new release.
package files

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"tarima/proxy/coding"
)

// Ask is which file a request is about.
type Ask struct {
	Base string // folder of all static files of a site
	Root string // folder below it, out of which no name and no link leads
	Name string // decoded path below Root; "" and a folder: its index.html
	// SPA gives every name that stands for no file the index.html of Root, as
	// single-page applications want it. Names with a hash in them are parts of
	// such an application, and are not found.
	SPA bool
}

// attempts to find a file that does not change while it is looked at.
const attempts = 3

// Serve answers a GET or HEAD request, with the headers Content-Type,
// Content-Encoding, ETag, Last-Modified, Cache-Control, Vary and what belongs to
// ranges. It returns an error instead of an answer (ErrNotFound,
// ErrNotAcceptable, ErrChanging, or one of the file system), or when the answer
// could not be finished: the second result says that it had begun.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, ask Ask) (begun bool, err error) {
	name, ok := cleanName(ask.Name)
	if !ok {
		return false, ErrNotFound
	}
	key := entryKey{folderKey{ask.Base, ask.Root}, name}
	for range attempts {
		var e *entry
		e, err = s.find(key, ask.SPA)
		if err == nil {
			if begun, err = s.answer(w, r, e); begun || err == nil {
				return begun, err
			}
		}
		if !errors.Is(err, errUnsteady) {
			break
		}
	}
	switch {
	case errors.Is(err, errUnsteady):
		err = ErrChanging
	case errors.Is(err, os.ErrNotExist):
		err = ErrNotFound
	}
	return false, fmt.Errorf("static file %q: %w", ask.Name, err)
}

// answer sends a known file. An error without an answer begun is about the file.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, e *entry) (begun bool, err error) {
	f := e.file
	accept := coding.None
	if f.varies {
		accept = coding.Parse(r.Header["Accept-Encoding"])
	} else if values := r.Header["Accept-Encoding"]; len(values) > 0 && coding.Parse(values)[coding.Identity] == 0 {
		return false, ErrNotAcceptable
	}
	sizes := f.sizes
	ranges := r.Header["Range"]
	if r.Method != http.MethodGet { // RFC 9110 section 14.2
		ranges = nil
	}
	// Several ranges are answered of the file as it is.
	several := len(ranges) == 1 && strings.Contains(ranges[0], ",") && accept[coding.Identity] > 0
	if several {
		accept = coding.None
	}
	c, ok := accept.Best(sizes)
	if !ok {
		return false, ErrNotAcceptable
	}
	form := f.forms[c]

	switch evaluate(r.Header, form.etag, f.modified) {
	case notModified:
		f.validators(w.Header(), form)
		w.WriteHeader(http.StatusNotModified)
		return true, nil
	case failed:
		w.Header()["Content-Length"] = []string{"0"}
		w.WriteHeader(http.StatusPreconditionFailed)
		return true, nil
	}
	if len(ranges) > 0 && !rangeStands(r.Header, form.etag, f.modified, time.Now()) {
		ranges, several = nil, false
	}
	part, status := span{0, form.id.size}, http.StatusOK
	if several {
		ranges, several = oneOf(ranges, form.id.size)
	}
	if one, ok := spanOf(ranges, form.id.size); ok && !several {
		part, status = one, http.StatusPartialContent
		if part.length == 0 {
			h := w.Header()
			f.validators(h, form)
			h["Content-Range"] = []string{"bytes */" + form.length[0]}
			h["Content-Length"] = []string{"0"}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true, nil
		}
	}

	if r.Method == http.MethodHead {
		f.head(w.Header(), form)
		w.WriteHeader(status)
		return true, nil
	}
	if part.length <= s.cfg.MemoryEach && form.id.size <= s.cfg.MemoryEach && !several {
		data, err := s.bytesOf(e, c)
		if err != nil {
			return false, err
		}
		f.head(w.Header(), form)
		part.head(w.Header(), form, status)
		w.WriteHeader(status)
		return true, writePieces(w, data[part.start:part.start+part.length])
	}
	opened, err := s.open(e, form)
	if err != nil {
		return false, err
	}
	defer func() { _ = opened.Close() }() // read only
	if part.start > 0 {
		if _, err := opened.Seek(part.start, io.SeekStart); err != nil {
			return false, err
		}
	}
	f.head(w.Header(), form)
	if several {
		delete(w.Header(), "Content-Length")
		http.ServeContent(w, onlyRanges(r, ranges), f.name, time.Time{}, opened)
		return true, nil
	}
	part.head(w.Header(), form, status)
	w.WriteHeader(status)
	return true, s.copy(w, r, opened, part.length)
}

// oneOf makes several ranges one when there is only one with bytes in the file,
// and none of those that are to be ignored.
func oneOf(ranges []string, size int64) (left []string, several bool) {
	header, ok := partsOf(ranges, size)
	switch {
	case !ok:
		return nil, false
	case header == "": // none of them is satisfiable
		return []string{"bytes=" + strconv.FormatInt(size, 10) + "-"}, false
	}
	return []string{header}, strings.Contains(header, ",")
}

// onlyRanges is the request without its preconditions, which are settled.
func onlyRanges(r *http.Request, ranges []string) *http.Request {
	plain := *r
	plain.Header = http.Header{"Range": ranges}
	return &plain
}

var (
	varyEncoding = []string{"Accept-Encoding"}
	noSniff      = []string{"nosniff"}
	byteRanges   = []string{"bytes"}
)

// validators are the headers of a 304 (RFC 9110 section 15.4.5).
func (f *file) validators(h http.Header, form *form) {
	h["Etag"] = form.etags
	h["Cache-Control"] = f.caching
	if f.varies {
		h["Vary"] = varyEncoding
	}
}

// head sets the headers of the whole form.
func (f *file) head(h http.Header, form *form) {
	f.validators(h, form)
	h["Content-Type"] = f.contentType
	h["X-Content-Type-Options"] = noSniff
	h["Accept-Ranges"] = byteRanges
	h["Content-Length"] = form.length
	if f.lastModified != nil {
		h["Last-Modified"] = f.lastModified
	}
	if form.coding != nil {
		h["Content-Encoding"] = form.coding
	}
}

// head changes the headers of the whole form to those of a part.
func (p span) head(h http.Header, form *form, status int) {
	if status != http.StatusPartialContent {
		return
	}
	h["Content-Length"] = []string{strconv.FormatInt(p.length, 10)}
	h["Content-Range"] = []string{fmt.Sprintf("bytes %d-%d/%d", p.start, p.start+p.length-1, form.id.size)}
}

// bytesOf gives the content of a form, from memory if it can.
func (s *Server) bytesOf(e *entry, c coding.Coding) ([]byte, error) {
	if data := s.content(e, c); data != nil {
		return data, nil
	}
	form := e.file.forms[c]
	key := e.key.folder
	data, err, _ := s.loads.Do(key.base+"\x00"+key.root+"\x00"+form.source+"\x00"+form.etag, func() (any, error) {
		s.slots <- struct{}{}
		defer func() { <-s.slots }()
		folder, id, err := openFolder(key.base, key.root)
		if err != nil {
			return nil, err
		}
		defer func() { _ = folder.Close() }() // read only
		if id != e.folder {
			return nil, errUnsteady
		}
		return form.read(folder)
	})
	if err != nil {
		s.forget(e)
		return nil, err
	}
	bytes := data.([]byte) //nolint:forcetypeassert // as returned above
	s.keep(e, c, bytes)
	return bytes, nil
}

func (s *Server) open(e *entry, form *form) (*os.File, error) {
	folder, id, err := openFolder(e.key.folder.base, e.key.folder.root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }() // read only
	if id != e.folder {
		s.forget(e)
		return nil, errUnsteady
	}
	f, err := open(folder, form.source, form.id)
	if err != nil {
		s.forget(e)
	}
	return f, err
}

// piece is how much is given to a connection at once: it may have a deadline for
// each.
const piece = 256 << 10

func writePieces(w io.Writer, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), piece)
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// copy sends length bytes of the file; the kernel does on plain HTTP/1
// connections.
func (s *Server) copy(w http.ResponseWriter, r *http.Request, f *os.File, length int64) error {
	src := &io.LimitedReader{R: f, N: length}
	var n int64
	var err error
	if to, ok := w.(io.ReaderFrom); ok && r.ProtoMajor == 1 {
		n, err = to.ReadFrom(src)
	} else {
		buf := s.pool.Get().(*[]byte) //nolint:forcetypeassert // as New says
		n, err = io.CopyBuffer(struct{ io.Writer }{w}, src, *buf)
		s.pool.Put(buf)
	}
	if err == nil && n != length {
		err = fmt.Errorf("%s ended after %d of %d bytes: %w", f.Name(), n, length, io.ErrUnexpectedEOF)
	}
	return err
}
