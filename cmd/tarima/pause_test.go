package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestPauseBetweenStarts(t *testing.T) {
	for name, c := range map[string]struct {
		age   time.Duration // of the last start; 0: there was none
		ended bool
		want  time.Duration
	}{
		"the first start":             {0, false, 0},
		"just before":                 {300 * time.Millisecond, false, 700 * time.Millisecond},
		"long ago":                    {time.Second, false, 0},
		"in the future":               {-time.Hour, false, 0},
		"stopped while it would wait": {300 * time.Millisecond, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			run := filepath.Join(t.TempDir(), "run")
			synctest.Test(t, func(t *testing.T) {
				file := filepath.Join(run, "started")
				if c.age != 0 {
					if err := pauseBetweenStarts(t.Context(), run); err != nil { // remembers
						t.Fatal(err)
					}
					last := time.Now().Add(-c.age)
					if err := os.Chtimes(file, last, last); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.ended {
					cancel()
				}
				begin := time.Now()
				if err := pauseBetweenStarts(ctx, run); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(begin); took != c.want {
					t.Errorf("it waited for %s, want %s", took, c.want)
				}
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				// The file system's clock is the real one.
				if !info.ModTime().After(time.Now().Add(2 * time.Hour)) {
					t.Errorf("this start is not remembered: %s", info.ModTime())
				}
			})
		})
	}
}

// A daemon that cannot even remember is not started without a pause.
func TestPauseWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if err := pauseBetweenStarts(t.Context(), "/dev/null/run"); err == nil {
			t.Error("no error")
		}
		if took := time.Since(begin); took != startPause {
			t.Errorf("it waited for %s, want %s", took, startPause)
		}
	})
}
