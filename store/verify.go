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
	flagMeta     = 0x04
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
	defer f.Close()
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
	if errors.Is(firstErr, errPageSize) {
		return best, firstErr
	}
	if firstErr == nil {
		best, valid = first, 1
	}
	for size := 1024; size <= 1<<16; size *= 2 {
		if firstErr == nil && size != best.pageSize {
			continue
		}
		second, err := readMeta(data, size)
		if errors.Is(err, errPageSize) || err == nil && second.pageSize != size {
			return best, errPageSize
		}
		if err != nil {
			continue
		}
		// They are written in turns, so their transactions are neighbours.
		if firstErr != nil || first.transaction+1 == second.transaction || second.transaction+1 == first.transaction {
			valid++
		}
		if firstErr != nil || second.transaction > best.transaction {
			best = second
		}
		break
	}
	if valid == 0 {
		return best, firstErr
	}
	switch {
	case best.pages < 4 || best.pages > uint64(len(data)/best.pageSize):
		return best, fmt.Errorf("it should have %d pages of %d bytes and has %d bytes", best.pages, best.pageSize, len(data))
	case best.root < 2 || best.root >= best.pages:
		return best, fmt.Errorf("the root page %d is out of range", best.root)
	case best.freelist != noFreelist && (best.freelist < 2 || best.freelist >= best.pages):
		return best, fmt.Errorf("the freelist page %d is out of range", best.freelist)
	}
	// The checksum leaves out the page's header, which the database does not
	// read either.
	best.alone = valid < 2 || !metaHeader(data, 0) || !metaHeader(data[best.pageSize:], 1)
	return best, nil
}

func metaHeader(page []byte, id uint64) bool {
	return len(page) >= pageHeader && binary.NativeEndian.Uint64(page) == id && binary.NativeEndian.Uint16(page[8:]) == flagMeta
}

// errPageSize is about a meta page that has a right checksum and cannot be
// right. The database would go by it even where the other one is good.
var errPageSize = errors.New("its page size makes no sense")

func readMeta(data []byte, at int) (meta, error) {
	if len(data) < at+pageHeader+metaSize {
		return meta{}, errors.New("it is too short")
	}
	page := data[at:]
	body := page[pageHeader : pageHeader+metaSize]
	u32 := func(n int) uint32 { return binary.NativeEndian.Uint32(body[n:]) }
	u64 := func(n int) uint64 { return binary.NativeEndian.Uint64(body[n:]) }
	switch {
	case u32(0) != metaMagic:
		return meta{}, errors.New("it is not a database")
	case u32(4) != formatVersion:
		return meta{}, fmt.Errorf("its format is version %d", u32(4))
	case metaSum(body) != u64(56):
		return meta{}, errors.New("its meta page does not match its checksum")
	}
	m := meta{pageSize: int(u32(8)), root: u64(16), freelist: u64(32), pages: u64(40), transaction: u64(48)}
	if m.pageSize < 1024 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0 {
		return meta{}, errPageSize
	}
	return m, nil
}

// metaSum is the checksum of a meta page's fields before it.
func metaSum(body []byte) uint64 {
	sum := fnv.New64a()
	sum.Write(body[:metaSize-8])
	return sum.Sum64()
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

// packing walks the elements of a page. The database packs a page tightly:
// header, elements, then the elements' data in their order without a gap, then
// zeros. Holding it to that shows damage to counts and sizes, which would make
// records disappear without a trace.
type packing struct {
	span  []byte
	count int
	next  int // where the data of the next element begins
}

func pack(span []byte, count int) (*packing, error) {
	next := pageHeader + count*elementSize
	if next > len(span) {
		return nil, errors.New("holds more elements than it has room for")
	}
	return &packing{span: span, count: count, next: next}, nil
}

// element returns the header of element i.
func (p *packing) element(i int) []byte {
	return p.span[pageHeader+i*elementSize:][:elementSize]
}

// data returns the bytes of element i, of which it says where they begin,
// counted from itself, and how many there are.
func (p *packing) data(i int, at, n uint64) ([]byte, error) {
	if uint64(pageHeader+i*elementSize)+at != uint64(p.next) { //nolint:gosec // not negative
		return nil, errors.New("has an element in the wrong place")
	}
	if n > uint64(len(p.span)-p.next) { //nolint:gosec // not negative
		return nil, errors.New("has an element that runs over its end")
	}
	b := p.span[p.next : p.next+int(n)] //nolint:gosec // below the page's length
	p.next += int(n)                    //nolint:gosec // below the page's length
	return b, nil
}

// end checks what follows the last element.
func (p *packing) end() error {
	if len(bytes.TrimLeft(p.span[p.next:], "\x00")) > 0 {
		return errors.New("has something behind its last element")
	}
	return nil
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
	p, err := pack(span, count)
	if err != nil {
		return fmt.Errorf("page %d %w", id, err)
	}
	var before []byte
	for i := range children {
		e := p.element(i)
		key, err := p.data(i, uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
		if err == nil {
			err = inOrder(key, before, low, high)
		}
		if err != nil {
			return fmt.Errorf("page %d %w", id, err)
		}
		children[i] = child{key: key, id: binary.NativeEndian.Uint64(e[8:])}
		before = key
	}
	if err := p.end(); err != nil {
		return fmt.Errorf("page %d %w", id, err)
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
	p, err := pack(span, count)
	if err != nil {
		return fmt.Errorf("page %d %w", id, err)
	}
	var before []byte
	for i := range count {
		e := p.element(i)
		flags, at := binary.NativeEndian.Uint32(e), uint64(binary.NativeEndian.Uint32(e[4:]))
		keySize, valueSize := uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
		both, err := p.data(i, at, keySize+valueSize)
		var key, value []byte
		if err == nil {
			key, value = both[:keySize], both[keySize:]
			err = inOrder(key, before, low, high)
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
	if err := p.end(); err != nil {
		return fmt.Errorf("page %d %w", id, err)
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
// Pages that are neither are no damage: the database loses some when it deletes
// nested buckets, and only their space is wasted.
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
