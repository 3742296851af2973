package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"go.etcd.io/bbolt"

	"tarima/store/record"
)

const (
	maxText = 8 << 10  // bytes of a reason or message
	maxTail = 64 << 10 // bytes of a log tail
)

// AppendEvent assigns Seq, and At where it is zero, and returns the event as
// stored. Of a long reason the first 8 KiB stay, of a long log tail the last
// 64 KiB. When the history is full its oldest part goes.
func (s *Store) AppendEvent(site string, e record.Event) (record.Event, error) {
	if err := checkSite(site); err != nil {
		return e, err
	}
	if e.Service != "" {
		if err := checkKey("service", e.Service); err != nil {
			return e, err
		}
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	e.At = e.At.UTC().Round(0)
	e.Reason, e.LogTail = shorten(e.Reason), shortenTail(e.LogTail)

	s.writing.Lock()
	defer s.writing.Unlock()
	stored := e
	err := s.update(func(tx *bbolt.Tx) error {
		stored = e
		events, err := siteBucket(tx, site, bucketEvents)
		if err != nil {
			return err
		}
		history, err := siteBucket(tx, site, bucketHistory)
		if err != nil {
			return err
		}
		if events.Sequence() == 0 {
			if err := events.SetSequence(firstSequence(tx)); err != nil {
				return err
			}
		}
		if stored.Seq, err = events.NextSequence(); err != nil {
			return err
		}
		l := location{site, bucketEvents, sequenceKey(stored.Seq)}
		value, err := encode(l, stored)
		if err != nil {
			return err
		}
		if err := events.Put(l.key, value); err != nil {
			return err
		}
		if stored.Service != "" {
			if err := putHistory(history, site, stored); err != nil {
				return err
			}
		}
		return s.trim(site, events, history, stored.Seq)
	})
	if err != nil {
		return e, fmt.Errorf("store an event of %s: %w", site, err)
	}
	return stored, nil
}

// trim removes the oldest events, a batch at a time: one deletion per append
// would touch twice the pages.
func (s *Store) trim(site string, events, history *bbolt.Bucket, seq uint64) error {
	batch := max(1, s.config.EventsPerSite/20)
	if seq%uint64(batch) != 0 {
		return nil
	}
	// Counting is a walk over some thousand keys in memory, once per batch; a
	// stored count could be wrong.
	excess := -s.config.EventsPerSite
	c := events.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		excess++
	}
	if excess <= 0 {
		return nil
	}
	// Deleting under a cursor makes it skip: gather first.
	var keys, indexed [][]byte
	unreadable := false
	c = events.Cursor()
	for k, raw := c.First(); k != nil && len(keys) < excess; k, raw = c.Next() {
		keys = append(keys, bytes.Clone(k))
		var e record.Event
		if decode(location{site, bucketEvents, k}, raw, &e) != nil {
			unreadable = true
		} else if e.Service != "" {
			indexed = append(indexed, historyKey(e.Service, e.Seq))
		}
	}
	for _, k := range keys {
		if err := events.Delete(k); err != nil {
			return err
		}
	}
	if unreadable {
		// Its place in the index is unknown.
		return indexHistory(events.Tx(), site)
	}
	for _, k := range indexed {
		if err := history.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// Events returns events with Seq > after, oldest first, at most limit; none
// for a limit below 1.
func (s *Store) Events(site string, after uint64, limit int) ([]record.Event, error) {
	if err := checkSite(site); err != nil {
		return nil, err
	}
	if limit < 1 || after == ^uint64(0) {
		return nil, nil
	}
	return s.readEvents(func(tx *bbolt.Tx, read func([]byte) bool) {
		events := findBucket(tx, site, bucketEvents)
		if events == nil {
			return
		}
		n := 0
		c := events.Cursor()
		for k, _ := c.Seek(sequenceKey(after + 1)); k != nil && n < limit; k, _ = c.Next() {
			if read(k) {
				n++
			}
		}
	}, site)
}

// ServiceEvents returns a service's newest events, newest first, at most
// limit; none for a limit below 1.
func (s *Store) ServiceEvents(site, service string, limit int) ([]record.Event, error) {
	if err := checkNames(site, "service", service); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, nil
	}
	return s.readEvents(func(tx *bbolt.Tx, read func([]byte) bool) {
		history := findBucket(tx, site, bucketHistory)
		if history == nil {
			return
		}
		n := 0
		prefix := historyKey(service, 0)[:len(service)+1]
		c := history.Cursor()
		// The key after the service's last one, and one back.
		k, _ := c.Seek(historyKey(service, ^uint64(0)))
		if k == nil {
			k, _ = c.Last()
		}
		for ; k != nil && n < limit; k, _ = c.Prev() {
			if bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+8 {
				if read(k[len(prefix):]) {
					n++
				}
			} else if bytes.Compare(k, prefix) < 0 {
				return
			}
		}
	}, site)
}

// readEvents gathers the events that choose names, and quarantines those that
// cannot be read. choose calls read with a key and is told whether it counted.
func (s *Store) readEvents(choose func(tx *bbolt.Tx, read func(key []byte) bool), site string) ([]record.Event, error) {
	var out []record.Event
	var bad []trouble
	err := s.view(func(tx *bbolt.Tx) error {
		out, bad = nil, nil
		events := findBucket(tx, site, bucketEvents)
		choose(tx, func(key []byte) bool {
			raw := events.Get(key)
			if raw == nil {
				return false
			}
			l := location{site, bucketEvents, bytes.Clone(key)}
			var e record.Event
			if err := decode(l, raw, &e); err != nil {
				bad = append(bad, trouble{location: l, err: err})
				return false
			}
			out = append(out, e)
			return true
		})
		return nil
	})
	if err == nil && len(bad) > 0 {
		err = s.quarantine(bad)
	}
	return out, err
}

func sequenceKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func historyKey(service string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(service), 0), seq)
}

// putHistory enters an event into the index of its site.
func putHistory(history *bbolt.Bucket, site string, e record.Event) error {
	l := location{site, bucketHistory, historyKey(e.Service, e.Seq)}
	return history.Put(l.key, historySeal(l))
}

// historySeal is the value of an index entry, which makes damage to its key
// noticed.
func historySeal(l location) []byte {
	return appendSum(make([]byte, 0, prefixLength), l.checksum(nil))
}

// shorten bounds a text for people, at a character's boundary.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// shortenTail keeps the last lines.
func shortenTail(lines []string) []string {
	left := maxTail
	first := len(lines)
	for first > 0 && left >= len(lines[first-1]) {
		first--
		left -= len(lines[first]) + 1
	}
	if first == len(lines) && first > 0 {
		// One line alone is too long: its end says most.
		last := lines[first-1]
		return []string{strings.ToValidUTF8("…"+last[len(last)-maxText:], "")}
	}
	out := make([]string, len(lines)-first)
	for i, l := range lines[first:] {
		out[i] = strings.ToValidUTF8(l, "\uFFFD")
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
