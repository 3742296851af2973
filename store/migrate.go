package store

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"tarima/store/record"
)

// migrations lead from the version that is their index to the next one, each
// within the transaction of all.
var migrations = []func(*bbolt.Tx) error{
	0: sealRecords,
}

// migrate brings the database to schemaVersion. The file as it was is copied
// to copies/before-schema-N-TIME.db first, and such copies are never removed.
func (s *Store) migrate(db *bbolt.DB) error {
	version, fresh := 0, false
	err := db.View(func(tx *bbolt.Tx) (err error) {
		version, err = versionOf(tx)
		first, _ := tx.Cursor().First()
		fresh = first == nil
		return err
	})
	switch {
	case err != nil:
		return err
	case version == 0 && !fresh && !isSchema0(db):
		// Without a version it must look like the first schema.
		return fmt.Errorf("%w: it has no version", errDamaged)
	case version > schemaVersion:
		return fmt.Errorf("%w: %s has schema %d and this one knows %d; install that version again, or put %s in its place, which was made before the change",
			ErrNewer, s.path(), version, schemaVersion, filepath.Join(s.copiesDir(), fmt.Sprintf("before-schema-%d-*.db", schemaVersion+1)))
	case version == schemaVersion && !fresh:
		return nil
	}
	if !fresh {
		to := filepath.Join(s.copiesDir(), fmt.Sprintf("before-schema-%d-%s.db", schemaVersion, stamp(time.Now())))
		if err := copyFile(s.path(), to, verifyFile); err != nil {
			return fmt.Errorf("copy the store before its migration: %w", err)
		}
		s.log.Info("migrating the store", "from", version, "to", schemaVersion, "copy", to)
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketSites, bucketQuarantine} {
			_, err := tx.CreateBucketIfNotExists(name)
			if errors.Is(err, berrors.ErrIncompatibleValue) {
				return fmt.Errorf("%w: %q is not a bucket", errDamaged, name)
			}
			if err != nil {
				return err
			}
		}
		if !fresh {
			for from := version; from < schemaVersion; from++ {
				if err := migrations[from](tx); err != nil {
					return fmt.Errorf("migrate the store from schema %d: %w", from, err)
				}
			}
		}
		return tx.Bucket(bucketMeta).Put(keyVersion, strconv.AppendInt(nil, schemaVersion, 10))
	})
}

// isSchema0 says whether the database has sites and nothing that came later.
func isSchema0(db *bbolt.DB) bool {
	err := db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketSites) == nil || tx.Bucket(bucketMeta) != nil || tx.Bucket(bucketQuarantine) != nil {
			return errDamaged
		}
		return nil
	})
	return err == nil
}

// sealRecords leads from schema 0, in which records were JSON without a
// checksum and events were not indexed by service.
func sealRecords(tx *bbolt.Tx) error {
	type change struct {
		location
		value []byte
	}
	var changes []change
	sites := map[string]bool{}
	err := eachRecord(tx, func(l location, raw []byte) error {
		sites[l.site] = true
		l.key = slices.Clone(l.key)
		if raw == nil || !bytes.HasPrefix(raw, []byte("{")) && !bytes.HasPrefix(raw, []byte(`"`)) {
			return nil // left for the quarantine, as it was found
		}
		changes = append(changes, change{l, seal(l, raw)})
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range changes {
		if err := findBucket(tx, c.site, c.bucket).Put(c.key, c.value); err != nil {
			return err
		}
	}
	for site := range sites {
		if err := indexHistory(tx, site); err != nil {
			return err
		}
		// The generation had no record of its own.
		var a record.Applied
		applied, generation := location{site, bucketState, keyApplied}, location{site, bucketState, keyGeneration}
		raw := lookup(tx, applied)
		if raw == nil || decode(applied, raw, &a) != nil {
			continue
		}
		value, err := encode(generation, a.Generation)
		if err != nil {
			return err
		}
		if err := findBucket(tx, site, bucketState).Put(keyGeneration, value); err != nil {
			return err
		}
	}
	return nil
}
