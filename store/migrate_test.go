package store_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"tarima/store"
	"tarima/store/record"
	"tarima/store/storetest"
)

// TestMigrationFromSchema0 opens a file of the first schema, wants all of it
// and the file as it was beside it, and that a second start has nothing to do.
func TestMigrationFromSchema0(t *testing.T) {
	dir := t.TempDir()
	old := must[[]byte](t)(os.ReadFile(filepath.Join("testdata", "schema-0.db")))
	check(t, os.WriteFile(filepath.Join(dir, "store.db"), old, 0o600))
	config := store.Config{Dir: dir, CopyDelay: -1}
	s := storetest.OpenIn(t, config)

	a, known, err := s.Applied("default")
	if err != nil || !known || a.Generation != 3 || string(a.SiteFile) != "[site]\n" {
		t.Errorf("applied: %+v, %v, %v", a, known, err)
	}
	if err := s.SetApplied("default", record.Applied{Generation: 2}); err == nil {
		t.Error("a generation below the migrated one was taken")
	}
	if i := must[map[string]record.Intent](t)(s.Intents("default")); !i["cms"].Stopped {
		t.Errorf("intents: %+v", i)
	}
	if e := must[[]record.Event](t)(s.ServiceEvents("default", "lms", 10)); len(e) != 2 || e[0].Seq != 3 || e[1].Seq != 1 {
		t.Errorf("events of lms: %+v", e)
	}
	if v := must[string](t)(s.Secret("default", "mysql-root", func() (string, error) { return "made anew", nil })); v != "old secret" {
		t.Errorf("secret: %q", v)
	}
	if rec, _ := s.Recovered(); len(rec.Records) != 1 || rec.Records[0].Record != "default/jobs/spoiled" {
		t.Errorf("the one record that is no JSON: %+v", rec)
	}
	if e := must[record.Event](t)(s.AppendEvent("default", record.Event{Kind: record.Started})); e.Seq != 4 {
		t.Errorf("the next number is %d", e.Seq)
	}
	before, _ := filepath.Glob(filepath.Join(dir, "copies", "before-schema-1-*.db"))
	if len(before) != 1 || !bytes.Equal(must[[]byte](t)(os.ReadFile(before[0])), old) {
		t.Errorf("the older file is not kept as it was: %q", before)
	}
	s = reopen(t, s, config)
	if again, _ := filepath.Glob(filepath.Join(dir, "copies", "before-schema-1-*.db")); len(again) != 1 {
		t.Errorf("migrated twice: %q", again)
	}
	storetest.CheckAndClose(t, s)
}

// TestUnreadableVersion treats a version that is no number as damage.
func TestUnreadableVersion(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, true)
	setVersion(t, filepath.Join(dir, "store.db"), "rubbish")
	s := storetest.OpenIn(t, store.Config{Dir: dir})
	if rec, yes := s.Recovered(); !yes || rec.From == "" || !strings.Contains(rec.Reason, "version") {
		t.Errorf("recovery: %+v", rec)
	}
}

// TestFixtureIsSchema0 makes the fixture when it is missing, so that it can be
// seen how it came to be.
func TestFixtureIsSchema0(t *testing.T) {
	path := filepath.Join("testdata", "schema-0.db")
	if _, err := os.Stat(path); err != nil {
		check(t, os.MkdirAll("testdata", 0o755))
		raw(t, path, func(tx *bbolt.Tx) error {
			sites, err := tx.CreateBucket([]byte("sites"))
			check(t, err)
			site, err := sites.CreateBucket([]byte("default"))
			check(t, err)
			for bucket, records := range map[string]map[string]string{
				"state":   {"applied": `{"generation":3,"siteFile":"W3NpdGVdCg==","release":"ulmo","at":"2026-01-02T03:04:05Z"}`},
				"intents": {"cms": `{"service":"cms","stopped":true,"restart":0,"at":"2026-01-02T03:04:05Z"}`},
				"jobs":    {"spoiled": "\x00\x01"},
				"secrets": {"mysql-root": `"old secret"`},
				"events": {
					"\x00\x00\x00\x00\x00\x00\x00\x01": `{"seq":1,"at":"2026-01-02T03:04:05Z","kind":"started","service":"lms"}`,
					"\x00\x00\x00\x00\x00\x00\x00\x02": `{"seq":2,"at":"2026-01-02T03:04:05Z","kind":"applied"}`,
					"\x00\x00\x00\x00\x00\x00\x00\x03": `{"seq":3,"at":"2026-01-02T03:04:05Z","kind":"exited","service":"lms","exitCode":1}`,
				},
			} {
				b, err := site.CreateBucket([]byte(bucket))
				check(t, err)
				for k, v := range records {
					check(t, b.Put([]byte(k), []byte(v)))
				}
				if bucket == "events" {
					check(t, b.SetSequence(3))
				}
			}
			return nil
		})
	}
	db := must[*bbolt.DB](t)(bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true}))
	defer db.Close()
	check(t, db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket([]byte("meta")) != nil {
			t.Error("the fixture has been migrated")
		}
		return nil
	}))
}
