package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// Config says where the store lies. Only Dir is required.
type Config struct {
	// Dir is the store's folder, made with mode 0700 when it is missing. It
	// holds store.db, store.lock, copies, damaged and secrets.
	Dir    string
	Logger *slog.Logger // nil: slog.Default

	// Wait is how long Open waits for another holder: 0 means 5 s, negative
	// not at all. A daemon that ends needs a moment to let go.
	Wait time.Duration
	// EventsPerSite bounds the history; 0 means 20,000. The oldest go first,
	// a twentieth at a time.
	EventsPerSite int
	// Copies is how many rolling copies are kept beside one for each of the
	// last days; 0 means 4.
	Copies int
	// CopyDelay is how long after a change of what is wanted a copy is made,
	// so that changes in a row share one; 0 means 2 s, negative never by
	// itself.
	CopyDelay time.Duration
	// FirstID is the lowest host id to assign; 0 means 1<<20, and it is rounded
	// up to a multiple of 65,536.
	FirstID uint32
	// SubIDFiles reserve ranges of ids for users; nil means /etc/subuid and
	// /etc/subgid. A file that is missing reserves none.
	SubIDFiles []string
}

const (
	defaultWait      = 5 * time.Second
	defaultEvents    = 20_000
	defaultCopies    = 4
	defaultCopyDelay = 2 * time.Second
	defaultFirstID   = 1 << 20
)

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Wait == 0 {
		c.Wait = defaultWait
	}
	if c.EventsPerSite <= 0 {
		c.EventsPerSite = defaultEvents
	}
	if c.Copies <= 0 {
		c.Copies = defaultCopies
	}
	if c.CopyDelay == 0 {
		c.CopyDelay = defaultCopyDelay
	}
	if c.FirstID == 0 {
		c.FirstID = defaultFirstID
	}
	if c.SubIDFiles == nil {
		c.SubIDFiles = []string{"/etc/subuid", "/etc/subgid"}
	}
	return c
}

// Store is an open store. Its methods may be called from several goroutines.
// A method that returns nil has its change on the disk.
type Store struct {
	config Config
	log    *slog.Logger
	lock   *lockFile

	// writing serialises writers, so that a write may be compared with what
	// is stored before it is made.
	writing sync.Mutex

	// database guards db, which recovery replaces.
	database sync.RWMutex
	db       *bbolt.DB

	// status guards what is known of recovery and copies.
	status    sync.Mutex
	recovered *Recovery
	changes   uint64 // committed since Open
	copied    uint64 // changes at the last copy

	secrets secretFiles

	copier copier
}

// Open opens the store in the folder, makes it when it is missing, migrates an
// older one and recovers a damaged one (see Recovered). It fails with ErrHeld,
// ErrNewer or ErrNoSpace, or with what the system says; it never fails because
// of what the files hold.
func Open(ctx context.Context, config Config) (*Store, error) {
	config = config.withDefaults()
	s := &Store{config: config, log: config.Logger}
	for _, dir := range []string{config.Dir, s.copiesDir(), s.damagedDir(), s.secretsDir()} {
		if err := makePrivate(dir); err != nil {
			return nil, fmt.Errorf("open the store: %w", classify(err))
		}
	}
	var err error
	if s.lock, err = acquire(ctx, filepath.Join(config.Dir, "store.lock"), config.Wait, s.log); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	removeTemporary(config.Dir, s.copiesDir(), s.secretsDir())
	if s.db, err = s.openDatabase(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", classify(err)), s.lock.release())
	}
	if err = s.reconcileSecrets(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", classify(err)), s.db.Close(), s.lock.release())
	}
	s.copier.start(s)
	return s, nil
}

// makePrivate makes a folder that root alone may enter.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// removeTemporary removes what a process that was killed had not yet given its
// name.
func removeTemporary(dirs ...string) {
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, ".*-*"))
		for _, f := range files {
			_ = os.Remove(f)
		}
	}
}

func (s *Store) path() string       { return filepath.Join(s.config.Dir, "store.db") }
func (s *Store) copiesDir() string  { return filepath.Join(s.config.Dir, "copies") }
func (s *Store) damagedDir() string { return filepath.Join(s.config.Dir, "damaged") }
func (s *Store) secretsDir() string { return filepath.Join(s.config.Dir, "secrets") }

// Close makes a last copy if there is something new, and lets go of the store.
func (s *Store) Close() error {
	s.copier.stop()
	var err error
	if s.uncopied() && s.config.CopyDelay > 0 {
		err = s.Copy(context.Background())
	}
	s.database.Lock()
	defer s.database.Unlock()
	if s.db == nil {
		return nil
	}
	closeErr := s.db.Close()
	s.db = nil
	return errors.Join(err, closeErr, s.lock.release())
}

// view runs fn in a transaction that reads. Damage that shows up is repaired
// and fn is run once more, so it must not keep what it gathered the first
// time.
func (s *Store) view(fn func(*bbolt.Tx) error) error {
	return s.run(func(db *bbolt.DB) error { return db.View(fn) })
}

// update runs fn in a transaction that writes, and marks the store as changed.
// The caller holds writing.
func (s *Store) update(fn func(*bbolt.Tx) error) error {
	err := s.run(func(db *bbolt.DB) error { return db.Update(fn) })
	if err == nil {
		s.status.Lock()
		s.changes++
		s.status.Unlock()
	}
	return err
}

func (s *Store) run(transaction func(*bbolt.DB) error) error {
	for repaired := false; ; repaired = true {
		s.database.RLock()
		db := s.db
		if db == nil {
			s.database.RUnlock()
			return ErrClosed
		}
		err := s.guard(func() error { return transaction(db) })
		s.database.RUnlock()
		if !errors.Is(err, errDamaged) || repaired {
			return classify(err)
		}
		if err := s.repair(db, err); err != nil {
			return err
		}
	}
}

// guard turns a panic or a fault of the database on damaged pages into
// errDamaged. Pages were checked at Open; this is for a file that is truncated
// or overwritten while it is in use.
func (s *Store) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		stack := debug.Stack()
		verdict := verifyFile(s.path())
		if !errors.Is(verdict, errDamaged) && !errors.Is(verdict, os.ErrNotExist) {
			// The file is sound: the mistake is in the program, and hiding it
			// would put a good file aside.
			panic(fmt.Sprintf("%v\n%s", r, stack))
		}
		err = fmt.Errorf("%w while in use: %v", errDamaged, r)
	}()
	return fn()
}

// get reads one record into v. Not found is not an error.
func (s *Store) get(l location, v any) (bool, error) {
	var found bool
	var bad error
	err := s.view(func(tx *bbolt.Tx) error {
		found, bad = false, nil
		raw := lookup(tx, l)
		if raw == nil {
			return nil
		}
		if bad = decode(l, raw, v); bad == nil {
			found = true
		}
		return nil
	})
	if err == nil && bad != nil {
		return s.reread(l, v, bad)
	}
	return found, err
}

// reread quarantines a record that could not be read, and reads what came in
// its place.
func (s *Store) reread(l location, v any, bad error) (bool, error) {
	if err := s.quarantine([]trouble{{location: l, err: bad}}); err != nil {
		return false, err
	}
	found := false
	err := s.view(func(tx *bbolt.Tx) error {
		raw := lookup(tx, l)
		found = raw != nil && decode(l, raw, v) == nil
		return nil
	})
	return found, err
}

// put writes one record, unless it is stored already as it is.
func (s *Store) put(l location, v any) error {
	value, err := encode(l, v)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	same := false
	err = s.view(func(tx *bbolt.Tx) error {
		same = bytes.Equal(lookup(tx, l), value)
		return nil
	})
	if err != nil || same {
		return err
	}
	err = s.update(func(tx *bbolt.Tx) error {
		b, err := siteBucket(tx, l.site, l.bucket)
		if err != nil {
			return err
		}
		return b.Put(l.key, value)
	})
	if err != nil {
		return fmt.Errorf("store %s: %w", l, err)
	}
	s.copier.wake()
	return nil
}

// lookup returns the stored bytes of a record, or nil. They live as long as
// the transaction.
func lookup(tx *bbolt.Tx, l location) []byte {
	b := findBucket(tx, l.site, l.bucket)
	if b == nil {
		return nil
	}
	return b.Get(l.key)
}

func findBucket(tx *bbolt.Tx, site, name string) *bbolt.Bucket {
	b := tx.Bucket(bucketSites).Bucket([]byte(site))
	if b == nil {
		return nil
	}
	return b.Bucket([]byte(name))
}

// siteBucket returns a site's bucket, made when it is missing.
func siteBucket(tx *bbolt.Tx, site, name string) (*bbolt.Bucket, error) {
	b, err := tx.Bucket(bucketSites).CreateBucketIfNotExists([]byte(site))
	if err != nil {
		return nil, err
	}
	return b.CreateBucketIfNotExists([]byte(name))
}

// list reads all records of a bucket. Those that cannot be read go into
// quarantine and are missing from the answer, unless a copy has them.
func list[T any](s *Store, site, bucket string) (map[string]T, error) {
	for again := false; ; again = true {
		out := map[string]T{}
		var bad []trouble
		err := s.view(func(tx *bbolt.Tx) error {
			out, bad = map[string]T{}, nil
			b := findBucket(tx, site, bucket)
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, raw []byte) error {
				l := location{site: site, bucket: bucket, key: bytes.Clone(k)}
				var v T
				if err := decode(l, raw, &v); err != nil {
					bad = append(bad, trouble{location: l, err: err})
				} else {
					out[string(k)] = v
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		if len(bad) == 0 || again {
			return out, nil
		}
		if err := s.quarantine(bad); err != nil {
			return nil, err
		}
	}
}

// Sites are the sites that the store knows, in order of their names.
func (s *Store) Sites() ([]string, error) {
	var sites []string
	err := s.view(func(tx *bbolt.Tx) error {
		sites = nil
		return tx.Bucket(bucketSites).ForEachBucket(func(k []byte) error {
			sites = append(sites, string(k))
			return nil
		})
	})
	return sites, err
}
