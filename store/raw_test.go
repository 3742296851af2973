package store_test

import (
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"tarima/store"
)

func textLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func isNewer(err error) bool { return errors.Is(err, store.ErrNewer) }

// raw opens a database that no store has open.
func raw(t *testing.T, path string, change func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	check(t, err)
	check(t, db.Update(change))
	check(t, db.Close())
}

func setVersion(t *testing.T, path, version string) {
	t.Helper()
	raw(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte(version)) })
}
