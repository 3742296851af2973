package store

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// TestSoundDatabasesPass works on databases at random, with deep buckets, large
// values, many deletions and each way of keeping the freelist, and wants every
// state of the file to pass: a false alarm would throw good data away.
func TestSoundDatabasesPass(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for name, options := range map[string]*bbolt.Options{
		"list":           {FreelistType: bbolt.FreelistArrayType, NoSync: true},
		"map":            {FreelistType: bbolt.FreelistMapType, NoSync: true},
		"freelist apart": {NoFreelistSync: true, NoSync: true},
		"small pages":    {PageSize: 1024, NoSync: true},
		"large pages":    {PageSize: 16384, NoSync: true},
	} {
		path := filepath.Join(t.TempDir(), "sound.db")
		db, err := bbolt.Open(path, 0o600, options)
		if err != nil {
			t.Fatal(err)
		}
		for round := range 60 {
			err := db.Update(func(tx *bbolt.Tx) error {
				for range r.IntN(60) {
					if err := alter(r, tx); err != nil {
						return err
					}
				}
				if round%10 == 9 { // also a transaction that is given up
					return errShort
				}
				return nil
			})
			if err != nil && err != errShort { //nolint:errorlint // as it was returned
				t.Fatal(err)
			}
			if m, err := inspectFile(path); err != nil || m.alone && round > 0 {
				t.Fatalf("%s, after %d transactions: %v, %+v", name, round+1, err, m)
			}
		}
		copyPath := filepath.Join(t.TempDir(), "copy.db")
		if err := db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(copyPath, 0o600) }); err != nil {
			t.Fatal(err)
		}
		if m, err := inspectFile(copyPath); err != nil || m.alone {
			t.Errorf("%s: a copy: %v, %+v", name, err, m)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(path); info.Size() < 1<<16 {
			t.Errorf("%s: only %d bytes were written", name, info.Size())
		}
	}
}

// alter puts or deletes something at a random depth.
func alter(r *rand.Rand, tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte{'a' + byte(r.IntN(3))})
	for err == nil && r.IntN(3) == 0 {
		b, err = b.CreateBucketIfNotExists([]byte(fmt.Sprint("bucket", r.IntN(4))))
	}
	if err != nil {
		return err
	}
	key := []byte(fmt.Sprint("key", r.IntN(400)))
	switch r.IntN(8) {
	case 0:
		if b.Bucket([]byte("bucket1")) != nil {
			return b.DeleteBucket([]byte("bucket1"))
		}
		return nil
	case 1, 2:
		return b.Delete(key)
	case 3:
		return b.Put(key, make([]byte, r.IntN(40_000)))
	case 4:
		return b.Put(key, nil)
	default:
		value := make([]byte, r.IntN(300))
		for i := range value {
			value[i] = byte(r.Uint32())
		}
		return b.Put(key, value)
	}
}

// TestMissingElementsAreNoticed makes the count of each page in use smaller and
// wants the file refused: what it leaves out would be gone without a trace.
func TestMissingElementsAreNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sound.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		err := db.Update(func(tx *bbolt.Tx) error {
			for range 50 {
				if err := alter(r, tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := verify(data)
	if err != nil {
		t.Fatal(err)
	}
	used := verifier{data: data, meta: m, seen: make([]bool, m.pages)}
	if err := used.tree(m.root, nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for id := 2; id < int(m.pages); id++ {
		page := data[id*m.pageSize:]
		count := binary.NativeEndian.Uint16(page[10:])
		// A page in use that is not what another one runs over into.
		if !used.seen[id] || binary.NativeEndian.Uint64(page) != uint64(id) || count == 0 {
			continue
		}
		for _, fewer := range []uint16{0, count - 1} {
			binary.NativeEndian.PutUint16(page[10:], fewer)
			if _, err := verify(data); err == nil {
				t.Errorf("page %d with %d of %d elements passes", id, fewer, count)
			}
			tried++
		}
		binary.NativeEndian.PutUint16(page[10:], count)
	}
	if tried < 50 {
		t.Errorf("only %d changes were tried", tried)
	}
}
