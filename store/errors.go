package store

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Opening.
var (
	// ErrHeld is returned by Open when another process holds the store. The
	// error names the process.
	ErrHeld = errors.New("the store is held by another process")

	// ErrNewer is returned by Open when a newer version of the program wrote
	// the store. Nothing is changed; the error says how to go on.
	ErrNewer = errors.New("the store was written by a newer version")

	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the store is closed")
)

// Reading and writing.
var (
	// ErrNoSpace is returned when the disk is full or the quota used up. What
	// was stored before is unharmed, and the same call works when there is
	// space again.
	ErrNoSpace = errors.New("no space left for the store")

	// ErrInvalidName is returned for a site, service or other name that cannot
	// be a key.
	ErrInvalidName = errors.New("invalid name")

	// ErrTooLarge is returned for a record of more than 1 MiB.
	ErrTooLarge = errors.New("record too large")

	// ErrOlderGeneration is returned by SetApplied for a generation that is
	// lower than the one stored: somebody else has applied since.
	ErrOlderGeneration = errors.New("a later generation is already applied")

	// ErrExhausted is returned by Address when the range has no free address,
	// or when there is no free range of ids.
	ErrExhausted = errors.New("nothing left to assign")

	// ErrSecretLost is returned by Secret when the secrets' file is damaged
	// and the database cannot replace it. No new secret is made then: data
	// that the lost one protects would be locked for ever.
	ErrSecretLost = errors.New("a generated secret is lost")
)

// errDamaged marks what shows that the database file cannot be trusted.
var errDamaged = errors.New("the database file is damaged")

// classify makes errors.Is(err, ErrNoSpace) work. The database wraps some
// errors of the system as text only.
func classify(err error) error {
	if err == nil || errors.Is(err, ErrNoSpace) {
		return err
	}
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return fmt.Errorf("%w: %w; free some and it goes on", ErrNoSpace, err)
		}
	}
	return err
}
