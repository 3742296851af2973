package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// The database trusts its pages: on damaged ones it panics in goroutines of
// its own, reads beyond its mapping or recurses without end, none of which can
// be caught. So each file is checked page by page, by code that trusts
// nothing, before the database ever sees it.
//
// The layout is the one of bbolt's file format version 2: fixed-size pages in
// the machine's byte order, pages 0 and 1 the two meta pages, the rest branch,
// leaf and freelist pages, each of which may run over into following pages.

const (
	pageHeader    = 16
	elementSize   = 16 // of branch and leaf elements alike
	bucketHeader  = 16
	metaSize      = 64
	metaMagic     = 0xED0CDAED
	formatVersion = 2
	noFreelist    = ^uint64(0)

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf element

	// maxDepth bounds tree and bucket nesting together. A real tree of any
	// size has a dozen levels.
	maxDepth = 64
)

// meta is the root of everything, written last in each transaction.
type meta struct {
	pageSize       int
	root, freelist uint64
	pages          uint64 // all pages in use are below
	transaction    uint64
	// alone says that the other meta page is damaged: if that was the newer
	// one, the last transaction is lost.
	alone bool
}

// Verify checks a bbolt database file page by page without opening it as one,
// and says why it cannot be used. Opening a damaged one may panic where nobody
// can catch it.
func Verify(path string) error { return verifyFile(path) }

// verifyFile checks the database file at path. The error, if it is about the
// content, matches errDamaged.
func verifyFile(path string) error {
	_, err := inspectFile(path)
	return err
}

// inspectFile is verifyFile that also returns the meta page that counts.
func inspectFile(path string) (m meta, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return m, err
	}
	if !info.Mode().IsRegular() {
		return m, fmt.Errorf("%w: %s is not a regular file", errDamaged, path)
	}
	if info.Size() < 2*1024 || info.Size() > 1<<40 {
		return m, fmt.Errorf("%w: it has %d bytes", errDamaged, info.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE) //nolint:gosec // a descriptor fits an int
	if err != nil {
		return m, fmt.Errorf("map %s: %w", path, err)
	}
	defer unix.Munmap(data) //nolint:errcheck // nothing to do about it
	// A medium error under a mapping arrives as a fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: reading it failed: %v", errDamaged, r)
		}
	}()
	return verify(data)
}

// verify checks the content of a database file.
func verify(data []byte) (meta, error) {
	m, err := currentMeta(data)
	if err == nil {
		v := verifier{data: data, meta: m, seen: make([]bool, m.pages)}
		if err = v.tree(m.root, nil, nil, 0); err == nil {
			err = v.freelist()
		}
	}
	if err != nil {
		return m, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return m, nil
}

// currentMeta returns the meta page that the database would go by.
func currentMeta(data []byte) (meta, error) {
	var best meta
	valid := 0
	// The page size stands in the meta page alone: the second page is looked
	// for where the first one says, or else wherever it may be.
	first, firstErr := readMeta(data, 0)
	if firstErr == nil {
		best, valid = first, 1
	}
	for size := 1024; size <= 1<<16; size *= 2 {
		if firstErr == nil && size != best.pageSize {
			continue
		}
		second, err := readMeta(data, size)
		if err != nil || second.pageSize != size {
			continue
		}
		valid++
		if firstErr != nil || second.transaction > best.transaction {
			best = second
		}
		break
	}
	if valid == 0 {
		return best, firstErr
	}
	best.alone = valid == 1
	switch {
	case best.pages < 4 || best.pages > uint64(len(data)/best.pageSize):
		return best, fmt.Errorf("it should have %d pages of %d bytes and has %d bytes", best.pages, best.pageSize, len(data))
	case best.root < 2 || best.root >= best.pages:
		return best, fmt.Errorf("the root page %d is out of range", best.root)
	case best.freelist != noFreelist && (best.freelist < 2 || best.freelist >= best.pages):
		return best, fmt.Errorf("the freelist page %d is out of range", best.freelist)
	}
	return best, nil
}

func readMeta(data []byte, at int) (meta, error) {
	if len(data) < at+pageHeader+metaSize {
		return meta{}, errors.New("it is too short")
	}
	page := data[at:]
	body := page[pageHeader : pageHeader+metaSize]
	u32 := func(n int) uint32 { return binary.NativeEndian.Uint32(body[n:]) }
	u64 := func(n int) uint64 { return binary.NativeEndian.Uint64(body[n:]) }
	sum := fnv.New64a()
	sum.Write(body[:56])
	switch {
	case u32(0) != metaMagic:
		return meta{}, errors.New("it is not a database")
	case u32(4) != formatVersion:
		return meta{}, fmt.Errorf("its format is version %d", u32(4))
	case sum.Sum64() != u64(56):
		return meta{}, errors.New("its meta page does not match its checksum")
	}
	m := meta{pageSize: int(u32(8)), root: u64(16), freelist: u64(32), pages: u64(40), transaction: u64(48)}
	if m.pageSize < 1024 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0 {
		return meta{}, fmt.Errorf("its page size is %d", m.pageSize)
	}
	return m, nil
}

// verifier walks every page that is in use.
type verifier struct {
	data []byte
	meta meta
	seen []bool // pages that belong to something
}

// page claims a page with what it runs over into, and returns its bytes.
func (v *verifier) page(id uint64) (span []byte, flags uint16, count int, err error) {
	if id < 2 || id >= v.meta.pages {
		return nil, 0, 0, fmt.Errorf("page %d is out of range", id)
	}
	start := int(id) * v.meta.pageSize //nolint:gosec // below the file's length
	header := v.data[start:]
	overflow := uint64(binary.NativeEndian.Uint32(header[12:]))
	if own := binary.NativeEndian.Uint64(header); own != id {
		return nil, 0, 0, fmt.Errorf("page %d calls itself %d", id, own)
	}
	if id+overflow >= v.meta.pages {
		return nil, 0, 0, fmt.Errorf("page %d runs over the end", id)
	}
	for i := id; i <= id+overflow; i++ {
		if v.seen[i] {
			return nil, 0, 0, fmt.Errorf("page %d is used twice", i)
		}
		v.seen[i] = true
	}
	length := int(overflow+1) * v.meta.pageSize //nolint:gosec // below the file's length
	return v.data[start : start+length], binary.NativeEndian.Uint16(header[8:]), int(binary.NativeEndian.Uint16(header[10:])), nil
}

// tree checks a page and all below it. Its keys are at least low and below
// high; nil means no bound.
func (v *verifier) tree(id uint64, low, high []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d lies too deep", id)
	}
	span, flags, count, err := v.page(id)
	if err != nil {
		return err
	}
	switch flags {
	case flagLeaf:
		return v.leaf(id, span, count, low, high, depth)
	case flagBranch:
		return v.branch(id, span, count, low, high, depth)
	default:
		return fmt.Errorf("page %d is of no known kind (%#x)", id, flags)
	}
}

// element returns element i of a page, from its first byte on.
func element(span []byte, i, count int) ([]byte, error) {
	if pageHeader+count*elementSize > len(span) {
		return nil, errors.New("holds more elements than it has room for")
	}
	return span[pageHeader+i*elementSize:], nil
}

// cut returns n bytes at an offset, both from the page.
func cut(b []byte, at, n uint32) ([]byte, error) {
	if uint64(at)+uint64(n) > uint64(len(b)) {
		return nil, errors.New("has an element that runs over its end")
	}
	return b[at : at+n], nil
}

// inOrder checks that key follows the one before and lies within the bounds.
func inOrder(key, before, low, high []byte) error {
	switch {
	case len(key) == 0:
		return errors.New("has an empty key")
	case before != nil && bytes.Compare(key, before) <= 0:
		return errors.New("has keys out of order")
	case low != nil && bytes.Compare(key, low) < 0, high != nil && bytes.Compare(key, high) >= 0:
		return errors.New("has a key that belongs to another page")
	}
	return nil
}

func (v *verifier) branch(id uint64, span []byte, count int, low, high []byte, depth int) error {
	if count == 0 {
		return fmt.Errorf("page %d is a branch without children", id)
	}
	type child struct {
		key []byte
		id  uint64
	}
	children := make([]child, count)
	var before []byte
	for i := range children {
		e, err := element(span, i, count)
		if err != nil {
			return fmt.Errorf("page %d %w", id, err)
		}
		key, err := cut(e, binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]))
		if err == nil {
			err = inOrder(key, before, low, high)
		}
		if err != nil {
			return fmt.Errorf("page %d %w", id, err)
		}
		children[i] = child{key: key, id: binary.NativeEndian.Uint64(e[8:])}
		before = key
	}
	for i, c := range children {
		end := high
		if i+1 < len(children) {
			end = children[i+1].key
		}
		if err := v.tree(c.id, c.key, end, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) leaf(id uint64, span []byte, count int, low, high []byte, depth int) error {
	var before []byte
	for i := range count {
		e, err := element(span, i, count)
		if err != nil {
			return fmt.Errorf("page %d %w", id, err)
		}
		flags, at := binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:])
		keySize, valueSize := binary.NativeEndian.Uint32(e[8:]), binary.NativeEndian.Uint32(e[12:])
		key, err := cut(e, at, keySize)
		if err == nil {
			err = inOrder(key, before, low, high)
		}
		var value []byte
		if err == nil {
			value, err = cut(e[uint64(at)+uint64(keySize):], 0, valueSize)
		}
		if err != nil {
			return fmt.Errorf("page %d %w", id, err)
		}
		before = key
		switch flags {
		case 0:
		case flagBucket:
			if err := v.bucket(id, value, depth); err != nil {
				return err
			}
		default:
			return fmt.Errorf("page %d has an element of no known kind (%#x)", id, flags)
		}
	}
	return nil
}

// bucket checks a nested bucket: a root page, or a leaf page within the value.
func (v *verifier) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("page %d has a bucket without a header", id)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return v.tree(root, nil, nil, depth+1)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader {
		return fmt.Errorf("page %d has an inline bucket without a page", id)
	}
	if own, flags := binary.NativeEndian.Uint64(inline), binary.NativeEndian.Uint16(inline[8:]); own != 0 || flags != flagLeaf {
		return fmt.Errorf("page %d has an inline bucket that is no leaf", id)
	}
	if depth >= maxDepth {
		return fmt.Errorf("page %d nests buckets too deep", id)
	}
	return v.leaf(id, inline, int(binary.NativeEndian.Uint16(inline[10:])), nil, nil, depth+1)
}

// freelist checks that free pages are in range, named once and not in use.
func (v *verifier) freelist() error {
	if v.meta.freelist == noFreelist {
		return nil
	}
	span, flags, count, err := v.page(v.meta.freelist)
	if err != nil {
		return err
	}
	if flags != flagFreelist {
		return fmt.Errorf("page %d should be the freelist", v.meta.freelist)
	}
	ids := span[pageHeader:]
	if count == 0xFFFF {
		// The count did not fit its field and stands first in the list.
		n := binary.NativeEndian.Uint64(ids)
		if n > v.meta.pages {
			return fmt.Errorf("the freelist names %d pages", n)
		}
		count, ids = int(n), ids[8:] //nolint:gosec // at most the number of pages
	}
	if count*8 > len(ids) {
		return errors.New("the freelist runs over its end")
	}
	last := uint64(1)
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[i*8:])
		switch {
		case id <= last || id >= v.meta.pages:
			return fmt.Errorf("the freelist names page %d out of order or out of range", id)
		case v.seen[id]:
			return fmt.Errorf("page %d is in use and free", id)
		}
		last = id
	}
	return nil
}
