package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// startPause is how far the starts of daemons lie apart that systemd starts
// again and again.
const startPause = time.Second

// pauseBetweenStarts waits when the last start was just before this one, or
// when that is not known, and remembers this one. It takes the place of the
// unit's RestartSec: a unit that is in systemd's own pause is stopped without
// any of its commands, and the site would go on. It returns early when ctx
// ends.
func pauseBetweenStarts(ctx context.Context, run string) error {
	file := filepath.Join(run, "started")
	age, err := sinceStart(file)
	if err != nil {
		age = 0
	}
	// A clock that was set back gives a negative age.
	if age >= 0 && age < startPause {
		select {
		case <-ctx.Done():
		case <-time.After(startPause - age):
		}
	}
	now := time.Now().UTC().Format(time.RFC3339Nano) + "\n"
	return errors.Join(err, os.WriteFile(file, []byte(now), 0o600))
}

// sinceStart is how long the last start is ago, longer than any pause when
// there was none.
func sinceStart(file string) (time.Duration, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return 0, err
	}
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return startPause, nil
	}
	if err != nil {
		return 0, err
	}
	return time.Since(info.ModTime()), nil
}
