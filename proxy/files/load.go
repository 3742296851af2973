package files

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tarima/proxy/coding"
)

// file is what is known of one file. It never changes, except for what the
// cache keeps of it.
type file struct {
	name    string // in the folder
	survey  survey
	settled bool // a later change would be seen in the survey

	modified time.Time // whole seconds; zero: unknown
	sizes    [coding.Count]int64
	forms    [coding.Count]*form // nil: there is none

	contentType, caching, lastModified []string
	varies                             bool
}

// form is a file in one encoding.
type form struct {
	source string // the name of the file that holds it
	id     identity
	sum    [sha256.Size]byte // zero: not looked at
	etag   string
	etags  []string // etag as a header's values
	length []string // the size as a header's values
	coding []string // of Content-Encoding; nil: none
}

// Stamps of files are as coarse as the kernel's tick: a second change within
// it leaves no trace.
const tick = 50 * time.Millisecond

// load looks at a file and at its encodings. An encoding counts when decoding it
// gives the file: one that was left behind by another release does not.
func load(folder *os.Root, name string, s survey) (*file, error) {
	f := &file{
		name: name, survey: s, settled: time.Since(time.Unix(0, s.youngest)) > tick,
		contentType: []string{TypeOf(name)}, caching: []string{cachingOf(name)},
		varies: encodable(name, s.file.size),
	}
	// The change, not the modification: images carry the same modification time
	// in every release, and RFC 9110 section 8.8.2.1 allows no future.
	if changed := time.Unix(0, s.file.changed); changed.Before(time.Now()) {
		f.modified = changed.Truncate(time.Second)
		f.lastModified = []string{f.modified.UTC().Format(http.TimeFormat)}
	}
	for c := range f.sizes {
		f.sizes[c] = -1
	}
	plain := &form{source: name, id: s.file}
	if s.file.size <= largest {
		if err := plain.hash(folder); err != nil {
			return nil, err
		}
		plain.etag = `"` + hex.EncodeToString(plain.sum[:12]) + `"`
	} else {
		id := s.file
		plain.etag = fmt.Sprintf(`"%x-%x-%x-%x"`, id.inode, id.size, id.modified, id.changed)
	}
	f.add(coding.Identity, plain)
	for i, source := range sources(name) {
		c := coding.Coding(i / 2)
		if s.encoded[i] == (identity{}) || f.forms[c] != nil || s.encoded[i].size >= s.file.size {
			continue
		}
		e := &form{source: source, id: s.encoded[i], coding: []string{c.String()}}
		same, err := e.encodes(folder, c, plain)
		if err != nil {
			return nil, err
		}
		if same {
			e.etag = plain.etag[:len(plain.etag)-1] + "-" + c.String() + `"`
			f.add(c, e)
		}
	}
	return f, nil
}

func (f *file) add(c coding.Coding, e *form) {
	e.etags, e.length = []string{e.etag}, []string{strconv.FormatInt(e.id.size, 10)}
	f.forms[c], f.sizes[c] = e, e.id.size
}

// hash reads the form once.
func (e *form) hash(folder *os.Root) error {
	f, err := open(folder, e.source, e.id)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, e.id.size+1))
	if err != nil {
		return err
	}
	if err := still(f, e.id, n); err != nil {
		return err
	}
	h.Sum(e.sum[:0])
	return nil
}

// still says whether a file is what it was, after n bytes of it were read.
func still(f *os.File, id identity, n int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if n != id.size || identityOf(info) != id {
		return errUnsteady
	}
	return nil
}

// read returns the form's bytes, those of which it was made and no others.
func (e *form) read(folder *os.Root) ([]byte, error) {
	f, err := open(folder, e.source, e.id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data := make([]byte, e.id.size)
	if _, err := io.ReadFull(f, data); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return nil, errUnsteady
		}
		return nil, err
	}
	if sha256.Sum256(data) != e.sum {
		return nil, errUnsteady
	}
	return data, nil
}

// encodes says whether e is an encoding of the plain form, and learns its hash.
func (e *form) encodes(folder *os.Root, c coding.Coding, plain *form) (bool, error) {
	f, err := open(folder, e.source, e.id)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // read only
	encoded := sha256.New()
	counted := &counter{r: io.TeeReader(f, encoded)}
	same := decodesTo(counted, c, plain.id.size, plain.sum)
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return false, err
	}
	if err := still(f, e.id, counted.n); err != nil {
		return false, err
	}
	encoded.Sum(e.sum[:0])
	return same, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// decodesTo decodes no more than it has to: an encoding may be of much more than
// it seems.
func decodesTo(r io.Reader, c coding.Coding, size int64, sum [sha256.Size]byte) bool {
	var decoded io.Reader
	switch c {
	case coding.Brotli:
		decoded = brotli.NewReader(r)
	case coding.Zstd:
		// Browsers have no larger windows (RFC 9659).
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return false
		}
		defer d.Close()
		decoded = d
	default:
		d, err := gzip.NewReader(r)
		if err != nil {
			return false
		}
		decoded = d
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(decoded, size+1))
	return err == nil && n == size && bytes.Equal(h.Sum(nil), sum[:])
}
