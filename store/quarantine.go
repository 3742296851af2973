package store

import (
	"encoding/json"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"tarima/store/record"
)

// trouble is a record that could not be read.
type trouble struct {
	location
	err error
}

// quarantined is such a record as it is kept: exactly the bytes that were
// found, for those who want to look.
type quarantined struct {
	At     time.Time `json:"at"`
	Site   string    `json:"site"`
	Bucket string    `json:"bucket"`
	Key    []byte    `json:"key"`
	Raw    []byte    `json:"raw"`
	Why    string    `json:"why"`
}

// keptQuarantined bounds the quarantine; the oldest go first.
const keptQuarantined = 200

// quarantine puts records aside, and what a copy has in their place.
func (s *Store) quarantine(bad []trouble) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.run(func(db *bbolt.DB) error { return s.quarantineIn(db, bad) })
}

func (s *Store) quarantineIn(db *bbolt.DB, bad []trouble) error {
	// Copies are read before the transaction begins: it should be short.
	lost := make([]LostRecord, len(bad))
	replacements := make([][]byte, len(bad))
	var wanted []location
	var place []int
	for i, t := range bad {
		lost[i] = LostRecord{Record: t.String(), Why: t.err.Error()}
		// Events are many, and one more or less decides nothing.
		if t.bucket != bucketEvents {
			wanted, place = append(wanted, t.location), append(place, i)
		}
	}
	found, paths := s.fromCopies(wanted)
	unknown := map[[2]string]bool{}
	for i := range wanted {
		replacements[place[i]], lost[place[i]].From = found[i], paths[i]
		if found[i] == nil {
			unknown[[2]string{wanted[i].site, wanted[i].bucket}] = true
		}
	}
	var moved []LostRecord
	err := db.Update(func(tx *bbolt.Tx) error {
		moved = nil
		sites := map[string]bool{}
		for i, t := range bad {
			done, err := moveRecord(tx, t, replacements[i])
			if err != nil {
				return err
			}
			if done {
				moved = append(moved, lost[i])
			}
			if t.bucket == bucketEvents {
				sites[t.site] = true
			}
		}
		for site := range sites {
			if err := indexHistory(tx, site); err != nil {
				return err
			}
		}
		return trimQuarantine(tx)
	})
	if err != nil || len(moved) == 0 {
		return err
	}
	// No copy knows a record of that name: perhaps it is the name that is
	// damaged, and the copy has the record under the right one.
	for u := range unknown {
		more, err := s.addMissing(db, u[0], u[1])
		if err != nil {
			return err
		}
		moved = append(moved, more...)
	}
	s.noteRecovery(Recovery{At: time.Now().UTC(), Records: moved})
	for _, l := range moved {
		s.log.Error("a record of the store could not be read and is in quarantine", "record", l.Record, "why", l.Why, "copy", l.From)
	}
	return nil
}

// addMissing takes from the newest copy the records of a bucket that are not
// in the database.
func (s *Store) addMissing(db *bbolt.DB, site, bucket string) ([]LostRecord, error) {
	records, values, from := s.missingIn(db, site, bucket)
	if len(records) == 0 {
		return nil, nil
	}
	var added []LostRecord
	err := db.Update(func(tx *bbolt.Tx) error {
		added = nil
		b := findBucket(tx, site, bucket)
		if b == nil {
			return nil
		}
		for i, l := range records {
			if bucket == bucketAddresses && placeTaken(b, l, values[i]) {
				continue // it was released and given to another service since
			}
			if err := b.Put(l.key, values[i]); err != nil {
				return err
			}
			added = append(added, LostRecord{Record: l.String(), Why: "was missing", From: from})
		}
		return nil
	})
	return added, err
}

// placeTaken says whether the address in a stored record belongs to another
// service by now.
func placeTaken(b *bbolt.Bucket, l location, raw []byte) bool {
	var a assignment
	if decode(l, raw, &a) != nil {
		return true
	}
	taken := false
	_ = b.ForEach(func(k, raw []byte) error {
		var other assignment
		if decode(location{l.site, l.bucket, k}, raw, &other) == nil {
			taken = taken || other.V4 == a.V4 || other.IDBase == a.IDBase
		}
		return nil
	})
	return taken
}

// moveRecord moves one record into quarantine, unless somebody else did.
func moveRecord(tx *bbolt.Tx, t trouble, replacement []byte) (bool, error) {
	b := findBucket(tx, t.site, t.bucket)
	if b == nil {
		return false, nil
	}
	raw := b.Get(t.key)
	if raw == nil {
		return false, nil
	}
	entry, err := json.Marshal(quarantined{
		At: time.Now().UTC(), Site: t.site, Bucket: t.bucket,
		Key: t.key, Raw: slices.Clone(raw), Why: t.err.Error(),
	})
	if err != nil {
		return false, err
	}
	q := tx.Bucket(bucketQuarantine)
	n, err := q.NextSequence()
	if err != nil {
		return false, err
	}
	if err := q.Put(sequenceKey(n), entry); err != nil {
		return false, err
	}
	if replacement != nil {
		return true, b.Put(t.key, replacement)
	}
	return true, b.Delete(t.key)
}

func trimQuarantine(tx *bbolt.Tx) error {
	q := tx.Bucket(bucketQuarantine)
	var keys [][]byte
	err := q.ForEach(func(k, _ []byte) error {
		keys = append(keys, slices.Clone(k))
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range keys[:max(0, len(keys)-keptQuarantined)] {
		if err := q.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// indexHistory makes the index of a site's events anew.
func indexHistory(tx *bbolt.Tx, site string) error {
	b := tx.Bucket(bucketSites).Bucket([]byte(site))
	if b == nil {
		return nil
	}
	if b.Bucket([]byte(bucketHistory)) != nil {
		if err := b.DeleteBucket([]byte(bucketHistory)); err != nil {
			return err
		}
	}
	history, err := b.CreateBucket([]byte(bucketHistory))
	if err != nil {
		return err
	}
	events := b.Bucket([]byte(bucketEvents))
	if events == nil {
		return nil
	}
	return events.ForEach(func(k, raw []byte) error {
		var e record.Event
		// One that cannot be read is put into quarantine by its next reader.
		if readable := decode(location{site, bucketEvents, k}, raw, &e) == nil; readable && e.Service != "" {
			return putHistory(history, site, e)
		}
		return nil
	})
}
