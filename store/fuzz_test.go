package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"tarima/store/record"
)

// FuzzDecode reads arbitrary bytes as a record: what was sealed comes back,
// anything else is an error and never a panic.
func FuzzDecode(f *testing.F) {
	l := location{"default", bucketEvents, sequenceKey(1)}
	good, err := encode(l, record.Event{Seq: 1, Kind: record.Started, Service: "lms"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("00000000 {}"))
	f.Add([]byte("zzzzzzzz null"))
	f.Add(seal(l, []byte("[1]")))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e record.Event
		body, err := unseal(l, raw)
		if err == nil && !bytes.Equal(seal(l, body), raw) {
			t.Errorf("%q passes for a record", raw)
		}
		if decode(l, raw, &e) == nil && err != nil {
			t.Errorf("%q was decoded although it is no record", raw)
		}
		other := l
		other.key = sequenceKey(2)
		if err == nil {
			if _, err := unseal(other, raw); err == nil {
				t.Errorf("%q passes in another place", raw)
			}
		}
	})
}

// FuzzVerify changes bytes of a real database, with its meta pages' checksums
// made right again. A file that passes must be one that the database can walk
// to its end.
func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, site := range []string{"a", "b"} {
				b, err := tx.CreateBucketIfNotExists([]byte(site))
				if err != nil {
					return err
				}
				inner, err := b.CreateBucketIfNotExists([]byte("inner"))
				if err != nil {
					return err
				}
				for n := range 100 {
					if err := inner.Put(binary.BigEndian.AppendUint64(nil, uint64(n)), bytes.Repeat([]byte{byte(i)}, 60)); err != nil {
						return err
					}
				}
				if err := b.Put([]byte("big"), bytes.Repeat([]byte("x"), 9000)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		f.Fatal(err)
	}
	original, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := verify(original); err != nil {
		f.Fatalf("a sound database: %v", err)
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 10, 0xff})
	f.Add([]byte{1, 0x10, 16, 0xff, 2, 0x20, 8, 4})
	f.Add([]byte{4, 0x90, 0, 1, 5, 0x80, 12, 9})
	f.Fuzz(func(t *testing.T, edits []byte) {
		data := bytes.Clone(original)
		// Each edit: page, offset in two bytes, new value.
		for len(edits) >= 4 {
			at := int(edits[0])*4096 + int(edits[1])<<4&0xff0 | int(edits[2])
			data[at%len(data)] = edits[3]
			edits = edits[4:]
		}
		for _, page := range []int{0, 4096} {
			fixMeta(data[page:])
		}
		if _, err := verify(data); err != nil {
			return
		}
		walk(t, data)
	})
}

// fixMeta makes the checksum of a meta page right.
func fixMeta(page []byte) {
	body := page[pageHeader : pageHeader+metaSize]
	binary.NativeEndian.PutUint64(body[56:], metaSum(body))
}

// walk opens the file with the database itself, which must neither panic nor
// fault, and reads and writes everything.
func walk(t *testing.T, data []byte) {
	path := filepath.Join(t.TempDir(), "fuzzed.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		t.Fatalf("a file that passed cannot be opened: %v", err)
	}
	var all func(b *bbolt.Bucket) error
	all = func(b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return all(b.Bucket(k))
			}
			return nil
		})
	}
	err = db.View(func(tx *bbolt.Tx) error {
		c := tx.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if v == nil {
				if err := all(tx.Bucket(k)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("read: %v", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("new"))
		if errors.Is(err, berrors.ErrIncompatibleValue) {
			return nil
		}
		if err != nil {
			return err
		}
		return b.Put([]byte("k"), bytes.Repeat([]byte("v"), 5000))
	})
	if err != nil {
		t.Errorf("write: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// TestChecksumIsCRC32C holds the format to its description.
func TestChecksumIsCRC32C(t *testing.T) {
	l := location{"default", bucketIntents, []byte("lms")}
	want := crc32.Checksum([]byte("default\x00intents\x00lms\x00{}"), crc32.MakeTable(crc32.Castagnoli))
	if got := string(seal(l, []byte("{}"))); got != fmt.Sprintf("%08x {}", want) {
		t.Errorf("got %q, want %08x", got, want)
	}
}
