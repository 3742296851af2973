package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"tarima/store/record"
)

// Check looks for anything in the open store that does not hold together: the
// database's own check, every record's checksum, shape and key, the index of
// events, addresses and ids that are given twice, secrets that are not in both
// places. It reads everything and is meant for tests and for doctors.
func (s *Store) Check() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	var found []error
	note := func(format string, args ...any) { found = append(found, fmt.Errorf(format, args...)) }
	err := s.view(func(tx *bbolt.Tx) error {
		found = nil
		for err := range tx.Check() {
			// Pages that are lost to both waste space and nothing else.
			if !strings.HasSuffix(err.Error(), "unreachable unfreed") {
				found = append(found, err)
			}
		}
		ids := map[uint32]string{}
		hosts := map[string]string{}
		err := eachRecord(tx, func(l location, raw []byte) error {
			checkRecord(l, raw, ids, hosts, note)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketSites).ForEachBucket(func(site []byte) error {
			checkHistory(tx, string(site), note)
			return nil
		})
	})
	if err != nil {
		return err
	}
	s.database.RLock()
	defer s.database.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	stored, err := secretsIn(s.db)
	if err != nil {
		return err
	}
	for site, secrets := range stored {
		inFile, err := s.readSecrets(site)
		if err != nil {
			note("%w", err)
		} else if !maps.Equal(secrets, inFile) {
			note("secrets of %s: database has %v, file %v, or values differ", site,
				slices.Sorted(maps.Keys(secrets)), slices.Sorted(maps.Keys(inFile)))
		}
	}
	return errors.Join(found...)
}

func checkRecord(l location, raw []byte, ids map[uint32]string, hosts map[string]string, note func(string, ...any)) {
	named := func(v any, name func() string) {
		if err := decode(l, raw, v); err != nil {
			note("%s: %w", l, err)
		} else if name() != string(l.key) {
			note("%s holds the record of %q", l, name())
		}
	}
	switch l.bucket {
	case bucketState:
		switch string(l.key) {
		case string(keyApplied):
			var a record.Applied
			named(&a, func() string { return string(keyApplied) })
		case string(keyMaintenance):
			var m record.Maintenance
			named(&m, func() string { return string(keyMaintenance) })
		default:
			var g uint64
			named(&g, func() string { return string(keyGeneration) })
		}
	case bucketIntents:
		var i record.Intent
		named(&i, func() string { return i.Service })
	case bucketImages:
		var i record.Image
		named(&i, func() string { return i.Ref })
	case bucketJobs:
		var j record.JobRecord
		named(&j, func() string { return j.Name })
	case bucketSecrets:
		var v string
		named(&v, func() string { return string(l.key) })
	case bucketEvents:
		var e record.Event
		named(&e, func() string { return string(sequenceKey(e.Seq)) })
	case bucketAddresses:
		var a assignment
		named(&a, func() string { return a.Service })
		if other, twice := ids[a.IDBase]; twice && a.IDBase != 0 {
			note("%s has the ids of %s", l, other)
		}
		host := l.site + " " + a.V4.String()
		if other, twice := hosts[host]; twice {
			note("%s has the address of %s", l, other)
		}
		ids[a.IDBase], hosts[host] = l.String(), l.String()
	}
}

// checkHistory compares the index of a site's events with the events.
func checkHistory(tx *bbolt.Tx, site string, note func(string, ...any)) {
	want := map[string]bool{}
	if events := findBucket(tx, site, bucketEvents); events != nil {
		last := events.Sequence()
		_ = events.ForEach(func(k, raw []byte) error {
			var e record.Event
			// One that cannot be read was reported by checkRecord.
			readable := decode(location{site, bucketEvents, k}, raw, &e) == nil
			if readable && binary.BigEndian.Uint64(k) > last {
				note("%s: event %d is later than the last one given, %d", site, e.Seq, last)
			}
			if readable && e.Service != "" {
				want[string(historyKey(e.Service, e.Seq))] = true
			}
			return nil
		})
	}
	if history := findBucket(tx, site, bucketHistory); history != nil {
		_ = history.ForEach(func(k, v []byte) error {
			if !bytes.Equal(v, historySeal(location{site, bucketHistory, k})) {
				note("%s: the index has a damaged entry", site)
			}
			if !want[string(k)] {
				note("%s: the index names an event that is not there: %q", site, k)
			}
			delete(want, string(k))
			return nil
		})
	}
	if len(want) > 0 {
		note("%s: %d events are not in the index", site, len(want))
	}
}
