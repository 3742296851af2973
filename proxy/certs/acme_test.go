package certs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Names are asked for again when nothing works on them, and only then.
func TestForgottenNames(t *testing.T) {
	// Nobody listens there: orders fail at once and are tried again by
	// certmagic itself.
	a := newACME(Config{Dir: t.TempDir(), Logger: quiet(), Changed: func(State) {}, HTTPPort: 1},
		Source{ACME: true, Directory: "https://127.0.0.1:1/dir"})
	defer a.close()
	// A file where a folder should be stops certmagic before its first event.
	blocked := filepath.Join(a.storage.Path, "certificates", "127.0.0.1-1-dir", "blocked.test")
	if err := os.MkdirAll(filepath.Dir(blocked), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.setNames([]string{"lms.test", "blocked.test"})
	deadline := time.Now().Add(20 * time.Second)
	for {
		names := a.forgotten()
		if slices.Equal(names, []string{"blocked.test"}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("forgotten: %q, states: %+v", names, a.states())
		}
		<-time.After(5 * time.Millisecond)
	}
	a.mu.Lock()
	a.heard["lms.test"] = time.Now().Add(-silence - time.Second)
	a.mu.Unlock()
	if names := a.forgotten(); len(names) != 2 {
		t.Errorf("after a long silence: %q", names)
	}
	a.setNames(nil)
	if names := a.forgotten(); len(names) != 0 || len(a.heard) != 0 {
		t.Errorf("of nothing: %q", names)
	}
}
