// Package storetest opens stores for tests and checks them when the test ends.
package storetest

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"tarima/store"
)

// Open opens a store in a folder of its own.
func Open(t testing.TB) *store.Store {
	t.Helper()
	return OpenIn(t, store.Config{Dir: t.TempDir()})
}

// OpenIn opens a store. Reports go to the test's output unless the
// configuration has a logger. When the test ends the store is checked and
// closed; a test that closed it before is fine.
func OpenIn(t testing.TB, config store.Config) *store.Store {
	t.Helper()
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := store.Open(context.Background(), config)
	if err != nil {
		t.Fatalf("open the store: %v", err)
	}
	t.Cleanup(func() { CheckAndClose(t, s) })
	return s
}

// CheckAndClose fails the test when something in the store does not hold
// together.
func CheckAndClose(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Check(); err != nil && !isClosed(err) {
		t.Errorf("the store does not hold together: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close the store: %v", err)
	}
}

func isClosed(err error) bool { return errors.Is(err, store.ErrClosed) }
