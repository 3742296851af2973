package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// stampLayout sorts by name as by time.
const stampLayout = "20060102T150405.000000000Z"

func stamp(t time.Time) string { return t.UTC().Format(stampLayout) }

// copied is one rolling copy.
type copied struct {
	path string
	at   time.Time
}

// listCopies returns the rolling copies, oldest first.
func (s *Store) listCopies() []copied {
	files, _ := filepath.Glob(filepath.Join(s.copiesDir(), "store-*.db"))
	var out []copied
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "store-"), ".db")
		if at, err := time.Parse(stampLayout, name); err == nil {
			out = append(out, copied{path: f, at: at})
		}
	}
	slices.SortFunc(out, func(a, b copied) int { return a.at.Compare(b.at) })
	return out
}

// writeCopy writes what the transaction sees to a new copy.
func (s *Store) writeCopy(tx *bbolt.Tx) error {
	at := time.Now().UTC()
	// A clock that was set back must not make the new copy look old.
	if all := s.listCopies(); len(all) > 0 && !at.After(all[len(all)-1].at) {
		at = all[len(all)-1].at.Add(time.Nanosecond)
	}
	return writeDurably(filepath.Join(s.copiesDir(), "store-"+stamp(at)+".db"), func(w io.Writer) error {
		_, err := tx.WriteTo(w)
		return err
	}, verifyFile)
}

// keptDays is how many of the last days keep a copy each, against damage that
// is noticed late.
const keptDays = 3

// pruneCopies removes copies that are not to be kept.
func (s *Store) pruneCopies() {
	for _, c := range expendable(s.listCopies(), s.config.Copies) {
		if err := os.Remove(c.path); err != nil {
			s.log.Warn("an old copy of the store was not removed", "file", c.path, "error", err)
		}
	}
}

// expendable returns the copies that go: all but the newest few and the last
// one of each of the last days before those.
func expendable(all []copied, keep int) []copied {
	rest := all[:max(0, len(all)-keep)]
	days := map[string]bool{}
	var out []copied
	for _, c := range slices.Backward(rest) {
		day := c.at.Format(time.DateOnly)
		if !days[day] && len(days) < keptDays {
			days[day] = true
			continue
		}
		out = append(out, c)
	}
	return out
}

// hourly is how often the history is copied, when nothing that is wanted has
// changed. Each copy also checks the database as a whole.
const hourly = time.Hour

// copier makes copies by itself.
type copier struct {
	changed chan struct{}
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

func (c *copier) start(s *Store) {
	if s.config.CopyDelay < 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.changed, c.cancel = make(chan struct{}, 1), cancel
	c.done.Go(func() { c.run(ctx, s) })
}

// wake tells that something wanted has changed.
func (c *copier) wake() {
	select {
	case c.changed <- struct{}{}:
	default: // it knows already, or there is none
	}
}

func (c *copier) stop() {
	if c.cancel != nil {
		c.cancel()
		c.done.Wait()
	}
}

func (c *copier) run(ctx context.Context, s *Store) {
	tick := time.NewTicker(hourly)
	defer tick.Stop()
	var due <-chan time.Time
	delay := s.config.CopyDelay
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
			if due == nil {
				due = time.After(delay)
			}
			continue
		case <-due:
		case <-tick.C:
			if !s.uncopied() {
				continue
			}
		}
		due = nil
		err := s.Copy(ctx)
		switch {
		case err == nil:
			delay = s.config.CopyDelay
		case errors.Is(err, ErrClosed), ctx.Err() != nil:
			return
		default:
			// A full disk is not helped by trying often.
			delay = min(max(2*delay, time.Second), time.Minute)
			due = time.After(delay)
			s.log.Error("the store was not copied; it is tried again", "error", err, "in", delay)
		}
	}
}

// fromCopies looks for records in the copies, newest first. It returns each
// record's stored bytes and the copy's path, where a copy has it.
func (s *Store) fromCopies(wanted []location) ([][]byte, []string) {
	found, paths := make([][]byte, len(wanted)), make([]string, len(wanted))
	for _, c := range slices.Backward(s.listCopies()) {
		err := s.readCopy(c.path, func(tx *bbolt.Tx) error {
			for i, l := range wanted {
				if found[i] != nil {
					continue
				}
				raw := lookup(tx, l)
				if _, err := unseal(l, raw); err == nil {
					found[i], paths[i] = slices.Clone(raw), c.path
				}
			}
			return nil
		})
		if err != nil {
			s.log.Warn("a copy of the store could not be read", "copy", c.path, "error", err)
		}
	}
	return found, paths
}

// readCopy reads from a copy that is sound and of this schema.
func (s *Store) readCopy(path string, read func(*bbolt.Tx) error) error {
	if err := verifyFile(path); err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second, NoStatistics: true})
	if err != nil {
		return fmt.Errorf("open the copy: %w", err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		// A copy of an older schema may have other records under a name.
		if v, err := versionOf(tx); err != nil || v != schemaVersion {
			return err
		}
		if err := shape(tx); err != nil {
			return err
		}
		return read(tx)
	})
	return errors.Join(err, db.Close())
}

// missingIn returns the records that the newest readable copy has in a bucket
// where the database has none.
func (s *Store) missingIn(db *bbolt.DB, site, bucket string) (records []location, values [][]byte, from string) {
	for _, c := range slices.Backward(s.listCopies()) {
		records, values = nil, nil
		err := s.readCopy(c.path, func(old *bbolt.Tx) error {
			b := findBucket(old, site, bucket)
			if b == nil {
				return nil
			}
			return db.View(func(tx *bbolt.Tx) error {
				return b.ForEach(func(k, raw []byte) error {
					l := location{site, bucket, slices.Clone(k)}
					if _, err := unseal(l, raw); err == nil && lookup(tx, l) == nil {
						records, values = append(records, l), append(values, slices.Clone(raw))
					}
					return nil
				})
			})
		})
		if err == nil {
			return records, values, c.path
		}
	}
	return nil, nil, ""
}
