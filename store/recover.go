package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Recovery says what was wrong with the store and what became of it.
type Recovery struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"` // why the whole file could not be used; "" when only records were bad
	// MovedTo is where the damaged file lies now; "" when there was none.
	MovedTo string `json:"movedTo,omitempty"`
	// From is the copy that took its place, CopiedAt when it was made; changes
	// since then are lost. "" with Empty, and when the file could be kept.
	From     string    `json:"from,omitempty"`
	CopiedAt time.Time `json:"copiedAt,omitzero"`
	// Empty says that there was no good copy: the store holds nothing but
	// the generated secrets, and waits for Rebuild.
	Empty bool `json:"empty,omitempty"`
	// Records are single records that could not be read.
	Records []LostRecord `json:"records,omitempty"`
}

// LostRecord is one record in quarantine.
type LostRecord struct {
	Record string `json:"record"` // SITE/KIND/NAME
	Why    string `json:"why"`
	From   string `json:"from,omitempty"` // the copy that had it; "": it is lost
}

// Recovered returns what had to be recovered since Open, if anything.
func (s *Store) Recovered() (Recovery, bool) {
	s.status.Lock()
	defer s.status.Unlock()
	if s.recovered == nil {
		return Recovery{}, false
	}
	r := *s.recovered
	r.Records = slices.Clone(r.Records)
	return r, true
}

// noteRecovery records what happened; of a file the newest recovery counts.
func (s *Store) noteRecovery(r Recovery) {
	s.status.Lock()
	defer s.status.Unlock()
	if s.recovered != nil {
		r.Records = append(slices.Clone(s.recovered.Records), r.Records...)
		if r.Reason == "" {
			r.Reason, r.MovedTo, r.From, r.CopiedAt, r.Empty = s.recovered.Reason, s.recovered.MovedTo, s.recovered.From, s.recovered.CopiedAt, s.recovered.Empty
		}
	}
	s.recovered = &r
}

// openDatabase opens the file, or what takes the place of a damaged one.
func (s *Store) openDatabase() (*bbolt.DB, error) {
	m, err := inspectFile(s.path())
	copies := s.listCopies()
	if err == nil && m.alone {
		return s.openLastButOne(m)
	}
	switch {
	case err == nil:
		db, openErr := s.openFile()
		if !errors.Is(openErr, errDamaged) {
			return db, openErr
		}
		err = openErr
	case errors.Is(err, os.ErrNotExist) && len(copies) == 0 && len(s.secretSites()) == 0:
		return s.openFile() // the first start
	case errors.Is(err, os.ErrNotExist):
		// Copies or secrets without a database: somebody removed it, or a
		// recovery was cut short.
		err = fmt.Errorf("%w: it is missing", errDamaged)
	}
	if !errors.Is(err, errDamaged) {
		return nil, err
	}
	return s.replace(err)
}

// openLastButOne opens a database of whose two meta pages one is damaged. If
// that was the newer one then the last transaction is lost, which a copy may
// have.
func (s *Store) openLastButOne(m meta) (*bbolt.DB, error) {
	cause := fmt.Errorf("%w: one of its two meta pages is, and the last change may be lost", errDamaged)
	for _, c := range slices.Backward(s.listCopies()) {
		if newest, err := inspectFile(c.path); err == nil {
			if newest.transaction > m.transaction {
				return s.replace(cause)
			}
			break
		}
	}
	db, err := s.openFile()
	if errors.Is(err, errDamaged) {
		return s.replace(err)
	}
	if err != nil {
		return nil, err
	}
	return s.replaced(db, Recovery{At: time.Now().UTC(), Reason: cause.Error()})
}

// replace puts the newest good copy, or an empty database, in the place of the
// damaged one.
func (s *Store) replace(cause error) (*bbolt.DB, error) {
	r := Recovery{At: time.Now().UTC(), Reason: cause.Error()}
	var err error
	if r.MovedTo, err = s.moveAside(); err != nil {
		return nil, err
	}
	for _, c := range slices.Backward(s.listCopies()) {
		if err := verifyFile(c.path); err != nil {
			if !errors.Is(err, errDamaged) {
				return nil, err
			}
			s.log.Error("a copy of the store is damaged too", "copy", c.path, "error", err)
			continue
		}
		if err := copyFile(c.path, s.path(), verifyFile); err != nil {
			return nil, fmt.Errorf("restore %s: %w", c.path, err)
		}
		db, err := s.openFile()
		if errors.Is(err, errDamaged) {
			s.log.Error("a copy of the store cannot be opened", "copy", c.path, "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		r.From, r.CopiedAt = c.path, c.at
		return s.replaced(db, r)
	}
	if err := os.Remove(s.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	db, err := s.openFile()
	if err != nil {
		return nil, err
	}
	r.Empty = true
	return s.replaced(db, r)
}

func (s *Store) replaced(db *bbolt.DB, r Recovery) (*bbolt.DB, error) {
	// Each transaction writes one of the two meta pages anew.
	for range 2 {
		if err := db.Update(skipSequences); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	s.noteRecovery(r)
	s.log.Error("the store was damaged and has been recovered",
		"reason", r.Reason, "moved_to", r.MovedTo, "copy", r.From, "copied_at", r.CopiedAt, "empty", r.Empty)
	return db, nil
}

// skipSequences makes sure that no Seq that was given after the copy is given
// again: readers remember how far they have read. The time in milliseconds is
// far above any number that was counted to, and stays exact in JSON.
func skipSequences(tx *bbolt.Tx) error {
	floor := uint64(max(0, time.Now().UnixMilli())) //nolint:gosec // not negative
	sites := tx.Bucket(bucketSites)
	err := sites.ForEachBucket(func(site []byte) error {
		b := sites.Bucket(site).Bucket([]byte(bucketEvents))
		if b == nil {
			return nil
		}
		// A clock that was set back must not repeat them either.
		floor = max(floor, b.Sequence()+1_000_000)
		return nil
	})
	if err != nil {
		return err
	}
	err = sites.ForEachBucket(func(site []byte) error {
		if b := sites.Bucket(site).Bucket([]byte(bucketEvents)); b != nil {
			return b.SetSequence(floor)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(keyFloor, binary.BigEndian.AppendUint64(nil, floor))
}

// firstSequence is where a new site begins to count.
func firstSequence(tx *bbolt.Tx) uint64 {
	if raw := tx.Bucket(bucketMeta).Get(keyFloor); len(raw) == 8 {
		return binary.BigEndian.Uint64(raw)
	}
	return 0
}

// keptDamaged is how many damaged files are kept for those who want to look.
const keptDamaged = 3

// moveAside gives the damaged file a name with the time in it, and returns
// that. The oldest of several go, so that they cannot fill the disk.
func (s *Store) moveAside() (string, error) {
	to := filepath.Join(s.damagedDir(), "store-"+stamp(time.Now())+".db")
	if err := os.Rename(s.path(), to); errors.Is(err, os.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", fmt.Errorf("move the damaged store aside: %w", err)
	}
	files, _ := filepath.Glob(filepath.Join(s.damagedDir(), "store-*.db"))
	slices.Sort(files)
	for _, old := range files[:max(0, len(files)-keptDamaged)] {
		if err := os.Remove(old); err != nil {
			s.log.Warn("an old damaged store was not removed", "file", old, "error", err)
		}
	}
	return to, errors.Join(syncDir(s.damagedDir()), syncDir(s.config.Dir))
}

// openFile opens a file that is sound or missing, migrates it and looks at
// each of its records once.
func (s *Store) openFile() (*bbolt.DB, error) {
	var db *bbolt.DB
	err := s.guard(func() error {
		var err error
		// Nobody else holds the file while we hold the store's lock, but a
		// person may have opened it with another program.
		db, err = bbolt.Open(s.path(), 0o600, &bbolt.Options{
			Timeout:      time.Second,
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
		})
		if errors.Is(err, berrors.ErrTimeout) {
			return fmt.Errorf("%w: another program has %s open", ErrHeld, s.path())
		}
		// What does not come from the system comes from the content.
		err = classify(err)
		if errno := unix.Errno(0); err != nil && !errors.Is(err, ErrNoSpace) && !errors.As(err, &errno) {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.guard(func() error {
		if err := s.migrate(db); err != nil {
			return err
		}
		return s.scan(db)
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// scan checks that the buckets are those of the schema, and every record's
// checksum. Records that do not match go into quarantine.
func (s *Store) scan(db *bbolt.DB) error {
	var bad []trouble
	var unindexed []string
	err := db.View(func(tx *bbolt.Tx) error {
		if err := shape(tx); err != nil {
			return err
		}
		good := map[string]bool{}
		err := eachRecord(tx, func(l location, raw []byte) error {
			if _, err := unseal(l, raw); err != nil {
				l.key = slices.Clone(l.key)
				bad = append(bad, trouble{location: l, err: err})
			} else {
				good[l.site] = true
			}
			return nil
		})
		for _, t := range bad {
			// The site's own name is damaged, or nearly all of its pages.
			if !good[t.site] {
				return fmt.Errorf("%w: no record of site %q can be read", errDamaged, t.site)
			}
		}
		unindexed = damagedIndexes(tx)
		return err
	})
	if err == nil && len(bad) > 0 {
		err = s.quarantineIn(db, bad)
	}
	if err != nil || len(unindexed) == 0 {
		return err
	}
	s.log.Warn("the index of events was damaged and is made anew", "sites", unindexed)
	return db.Update(func(tx *bbolt.Tx) error {
		for _, site := range unindexed {
			if err := indexHistory(tx, site); err != nil {
				return err
			}
		}
		return nil
	})
}

// damagedIndexes are the sites whose index of events has a damaged entry.
func damagedIndexes(tx *bbolt.Tx) []string {
	var out []string
	sites := tx.Bucket(bucketSites)
	_ = sites.ForEachBucket(func(name []byte) error {
		site := string(name)
		b := findBucket(tx, site, bucketHistory)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if !bytes.Equal(v, historySeal(location{site, bucketHistory, k})) {
				out = append(out, site)
				break
			}
		}
		return nil
	})
	return out
}

// shape checks that buckets and values are where the schema has them. The pages
// may hold together where the mark of a bucket or its name is damaged.
func shape(tx *bbolt.Tx) error {
	top := [][]byte{bucketMeta, bucketQuarantine, bucketSites}
	c := tx.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if v != nil || !slices.ContainsFunc(top, func(b []byte) bool { return bytes.Equal(b, k) }) {
			return fmt.Errorf("%w: it holds %q, which is not in the schema", errDamaged, k)
		}
	}
	for _, name := range top[:2] {
		if err := valuesOnly(tx.Bucket(name)); err != nil {
			return err
		}
	}
	sites := tx.Bucket(bucketSites)
	return sites.ForEach(func(site, v []byte) error {
		if v != nil || !siteName.Match(site) {
			return fmt.Errorf("%w: it holds %q where sites are", errDamaged, site)
		}
		return sites.Bucket(site).ForEach(func(k, v []byte) error {
			if v != nil || !slices.Contains(siteBuckets, string(k)) {
				return fmt.Errorf("%w: site %s holds %q, which is not in the schema", errDamaged, site, k)
			}
			return valuesOnly(sites.Bucket(site).Bucket(k))
		})
	})
}

func valuesOnly(b *bbolt.Bucket) error {
	return b.ForEachBucket(func(k []byte) error {
		return fmt.Errorf("%w: it holds a bucket %q where records are", errDamaged, k)
	})
}

// eachRecord calls fn with every checksummed record.
func eachRecord(tx *bbolt.Tx, fn func(l location, raw []byte) error) error {
	sites := tx.Bucket(bucketSites)
	if sites == nil {
		return nil
	}
	return sites.ForEachBucket(func(k []byte) error {
		site := string(k)
		for _, name := range recordBuckets {
			b := sites.Bucket(k).Bucket([]byte(name))
			if b == nil {
				continue
			}
			err := b.ForEach(func(k, raw []byte) error {
				return fn(location{site, name, k}, raw)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// repair replaces a database that broke while it was in use. Several callers
// may find out at once; the first one repairs.
func (s *Store) repair(broken *bbolt.DB, cause error) error {
	s.database.Lock()
	defer s.database.Unlock()
	if s.db != broken {
		return nil
	}
	// A bad copy may be the fault of the disk under the copy.
	if verifyFile(s.path()) == nil {
		return cause
	}
	// The broken one is left as it is: closing it would wait for locks that
	// died with the transaction. The file under it has another name from now
	// on, so that nothing is written into the new one.
	db, err := s.replace(cause)
	if err != nil {
		return fmt.Errorf("recover the store: %w", classify(err))
	}
	s.db = db
	if err := s.reconcileSecretsIn(db); err != nil {
		return fmt.Errorf("recover the store: %w", classify(err))
	}
	return nil
}

// versionOf reads the schema's number; 0 for a file that has none.
func versionOf(tx *bbolt.Tx) (int, error) {
	b := tx.Bucket(bucketMeta)
	if b == nil || b.Get(keyVersion) == nil {
		return 0, nil
	}
	v, err := strconv.Atoi(string(b.Get(keyVersion)))
	if err != nil || v < 0 {
		return 0, fmt.Errorf("%w: its version is not a number", errDamaged)
	}
	return v, nil
}

// Copy makes a rolling copy now, and checks it. A copy that is not sound shows
// that the database is damaged: it is recovered then.
func (s *Store) Copy(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.status.Lock()
	changes := s.changes
	s.status.Unlock()
	err := s.view(func(tx *bbolt.Tx) error { return s.writeCopy(tx) })
	if err != nil {
		return fmt.Errorf("copy the store: %w", err)
	}
	if !fileExists(s.path()) {
		// Somebody removed the file under us. What is open still works, but
		// would be gone with this process; the copy just made has it all.
		s.database.RLock()
		db := s.db
		s.database.RUnlock()
		if db == nil {
			return ErrClosed
		}
		if err := s.repair(db, fmt.Errorf("%w: it was removed while in use", errDamaged)); err != nil {
			return err
		}
	}
	s.status.Lock()
	s.copied = changes
	s.status.Unlock()
	s.pruneCopies()
	return nil
}

// uncopied says whether anything was committed since the last copy.
func (s *Store) uncopied() bool {
	s.status.Lock()
	defer s.status.Unlock()
	return s.changes != s.copied
}
