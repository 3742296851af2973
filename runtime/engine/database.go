package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// Layout of a bbolt file, version 2. The file consists of pages. Pages 0 and 1
// hold a record of the state each; the valid one with the higher transaction
// counts and names the page where the tree begins. A value in the tree may be a
// tree of its own. All numbers have the byte order of the machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	boltHeader   = 16 // of a page: id, flags (2), count (2), overflow (4)
	boltElement  = 16 // of a branch or a leaf, after the header
	boltBranch   = 1  // flags of a page
	boltLeaf     = 2
	boltSubtree  = 1 // flag of a leaf's element
	boltMaxDepth = 64

	boltRecord      = 64 // state record
	boltPageSizeAt  = 8
	boltRootAt      = 16
	boltPagesAt     = 40 // number of pages of the file
	boltTxAt        = 48
	boltChecksumAt  = 56
	boltMaxPageSize = 64 << 10
)

// checkDatabase reads a database as a whole. containerd opens its databases
// with a check in the background that ends the process when it finds damage,
// and one that is shorter than it says is a fault in memory: neither can be
// survived, so both are looked for before. Damage gives errBroken.
func checkDatabase(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	db := boltFile{content: content}
	if err := db.readState(); err != nil {
		return fmt.Errorf("%w: %s: %w", errBroken, path, err)
	}
	db.seen = make([]bool, db.pages)
	if err := db.walk(db.root, 0); err != nil {
		return fmt.Errorf("%w: %s: %w", errBroken, path, err)
	}
	return nil
}

type boltFile struct {
	content  []byte
	pageSize uint64
	pages    uint64
	root     uint64
	seen     []bool
}

// readState finds the valid state with the higher transaction.
func (f *boltFile) readState() error {
	order := binary.NativeEndian
	valid, latest := false, uint64(0)
	for _, offset := range []int{0, os.Getpagesize()} {
		if len(f.content) < offset+boltHeader+boltRecord {
			continue
		}
		record := f.content[offset+boltHeader:][:boltRecord]
		sum := fnv.New64a()
		_, _ = sum.Write(record[:boltChecksumAt]) // a hash takes everything
		if order.Uint32(record) != boltMagic || order.Uint32(record[4:]) != boltVersion || order.Uint64(record[boltChecksumAt:]) != sum.Sum64() {
			continue
		}
		if tx := order.Uint64(record[boltTxAt:]); !valid || tx > latest {
			valid, latest = true, tx
			f.pageSize = uint64(order.Uint32(record[boltPageSizeAt:]))
			f.root, f.pages = order.Uint64(record[boltRootAt:]), order.Uint64(record[boltPagesAt:])
		}
	}
	if !valid {
		return errors.New("it holds no valid state")
	}
	if f.pageSize < boltHeader+boltRecord || f.pageSize > boltMaxPageSize {
		return fmt.Errorf("its pages have %d bytes", f.pageSize)
	}
	if f.pages > uint64(len(f.content))/f.pageSize {
		return fmt.Errorf("it has %d bytes of %d pages of %d", len(f.content), f.pages, f.pageSize)
	}
	return nil
}

// walk checks a page and all below it.
func (f *boltFile) walk(id uint64, depth int) error {
	order := binary.NativeEndian
	if id < 2 || id >= f.pages {
		return fmt.Errorf("page %d does not exist", id)
	}
	if f.seen[id] || depth > boltMaxDepth {
		return fmt.Errorf("page %d is used twice", id)
	}
	f.seen[id] = true
	page := f.content[id*f.pageSize:]
	overflow := uint64(order.Uint32(page[12:]))
	if order.Uint64(page) != id || overflow >= f.pages-id {
		return fmt.Errorf("page %d is damaged", id)
	}
	return f.walkPage(page[:(overflow+1)*f.pageSize], id, depth)
}

// walkPage checks the content of a page, or of a small tree within a value.
func (f *boltFile) walkPage(page []byte, id uint64, depth int) error {
	order := binary.NativeEndian
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	if (flags != boltBranch && flags != boltLeaf) || len(page) < boltHeader+count*boltElement {
		return fmt.Errorf("page %d is damaged", id)
	}
	for i := range count {
		start := boltHeader + i*boltElement
		element := page[start:]
		if flags == boltBranch {
			position, size := uint64(order.Uint32(element)), uint64(order.Uint32(element[4:]))
			if uint64(start)+position+size > uint64(len(page)) {
				return fmt.Errorf("page %d is damaged", id)
			}
			if err := f.walk(order.Uint64(element[8:]), depth+1); err != nil {
				return err
			}
			continue
		}
		position, key, size := uint64(order.Uint32(element[4:])), uint64(order.Uint32(element[8:])), uint64(order.Uint32(element[12:]))
		from := uint64(start) + position + key
		if from+size > uint64(len(page)) {
			return fmt.Errorf("page %d is damaged", id)
		}
		if order.Uint32(element)&boltSubtree == 0 {
			continue
		}
		if err := f.walkSubtree(page[from:from+size], id, depth); err != nil {
			return err
		}
	}
	return nil
}

// walkSubtree checks the tree that a value is: its own pages, or, when it is
// small, a page that follows within the value.
func (f *boltFile) walkSubtree(value []byte, id uint64, depth int) error {
	if len(value) < 16 || depth > boltMaxDepth {
		return fmt.Errorf("page %d is damaged", id)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return f.walk(root, depth+1)
	}
	if len(value) < 16+boltHeader {
		return fmt.Errorf("page %d is damaged", id)
	}
	return f.walkPage(value[16:], id, depth+1)
}
