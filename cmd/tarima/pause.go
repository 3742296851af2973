package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// startPause is how far the starts of daemons lie apart that systemd starts
// again and again.
const startPause = time.Second

// pauseBetweenStarts waits when the last start was just before this one, and
// remembers this one. It takes the place of the unit's RestartSec: a unit that
// is in systemd's own pause is stopped without any of its commands, and the
// site would go on. It returns early when ctx ends.
func pauseBetweenStarts(ctx context.Context, run string) error {
	file := filepath.Join(run, "started")
	if err := os.MkdirAll(run, 0o711); err != nil {
		return fmt.Errorf("make the folder %s: %w", run, err)
	}
	info, err := os.Stat(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look when the daemon was started last: %w", err)
	}
	if err == nil {
		// A clock that was set back gives a negative age.
		if age := time.Since(info.ModTime()); age >= 0 && age < startPause {
			select {
			case <-ctx.Done():
			case <-time.After(startPause - age):
			}
		}
	}
	if err := os.WriteFile(file, []byte(time.Now().UTC().Format(time.RFC3339Nano)+"\n"), 0o600); err != nil {
		return fmt.Errorf("remember when the daemon was started: %w", err)
	}
	return nil
}
