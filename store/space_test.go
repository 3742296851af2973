package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tarima/store"
	"tarima/store/record"
	"tarima/store/storetest"
)

// inMemory mounts a file system of that size, on which a sync costs nothing.
func inMemory(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tarima-store-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small tmpfs (the test needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// stuff fills what is free and returns the file to remove.
func stuff(t *testing.T, dir string) string {
	t.Helper()
	f := must[*os.File](t)(os.Create(filepath.Join(dir, "ballast")))
	defer f.Close()
	for size := 1 << 16; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	return f.Name()
}

// TestFullDisk writes until the disk is full: every refused write says so,
// nothing that was stored is lost, and all works when there is space again.
func TestFullDisk(t *testing.T) {
	mount := inMemory(t, "1m")
	config := store.Config{Dir: filepath.Join(mount, "store"), CopyDelay: -1}
	s := storetest.OpenIn(t, config)
	fill(t, s, "default")
	check(t, s.Copy(context.Background()))
	want := read(t, s, "default")
	stored := len(want.Events)
	ballast := stuff(t, mount)

	refused := 0
	for i := range 400 {
		e, err := s.AppendEvent("default", record.Event{At: noon, Kind: record.Started, Service: "redis", Reason: strings.Repeat(fmt.Sprint(i), 2000)})
		switch {
		case err == nil:
			want.Events = append(want.Events, e)
			stored++
		case errors.Is(err, store.ErrNoSpace):
			refused++
		default:
			t.Fatalf("event %d: %v", i, err)
		}
		if refused > 20 {
			break
		}
	}
	if refused == 0 {
		t.Fatal("no write was refused: the disk was not full")
	}
	for name, err := range map[string]error{
		"applied": s.SetApplied("default", record.Applied{Generation: 8, SiteFile: make([]byte, 100_000)}),
		"copy":    s.Copy(context.Background()),
		"secret": func() error {
			_, err := s.Secret("default", "another", func() (string, error) { return strings.Repeat("x", 60_000), nil })
			return err
		}(),
	} {
		if !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("%s on a full disk: %v", name, err)
		}
	}
	if diff := cmp.Diff(want, read(t, s, "default"), sameContent); diff != "" {
		t.Errorf("content changed on the full disk:\n%s", diff)
	}
	// A start on a full disk reads what there is.
	s = reopen(t, s, config)
	if diff := cmp.Diff(want, read(t, s, "default"), sameContent); diff != "" {
		t.Errorf("content changed after a start on the full disk:\n%s", diff)
	}

	check(t, os.Remove(ballast))
	check(t, s.SetApplied("default", record.Applied{Generation: 8, SiteFile: make([]byte, 20_000)}))
	e := must[record.Event](t)(s.AppendEvent("default", record.Event{Kind: record.Started, Service: "lms"}))
	if last := want.Events[stored-1].Seq; e.Seq != last+1 {
		t.Errorf("event %d follows %d", e.Seq, last)
	}
	if got := must[string](t)(s.Secret("default", "another", func() (string, error) { return "y", nil })); got != "y" {
		t.Errorf("a secret that could not be stored is used: %q", got)
	}
	check(t, s.Copy(context.Background()))
}

// TestRecoveryOnAFullDisk damages the store when there is no room for the
// copy: Open fails and says why, and succeeds when there is space.
func TestRecoveryOnAFullDisk(t *testing.T) {
	mount := inMemory(t, "1m")
	config := store.Config{Dir: filepath.Join(mount, "store"), CopyDelay: -1}
	s := storetest.OpenIn(t, config)
	fill(t, s, "default")
	check(t, s.Copy(context.Background()))
	want := read(t, s, "default")
	check(t, s.Close())
	check(t, os.WriteFile(filepath.Join(config.Dir, "store.db"), []byte("rubbish"), 0o600))
	ballast := stuff(t, mount)
	for range 2 {
		if _, err := store.Open(context.Background(), config); !errors.Is(err, store.ErrNoSpace) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	check(t, os.Remove(ballast))
	s = storetest.OpenIn(t, config)
	if diff := cmp.Diff(want, read(t, s, "default"), sameContent); diff != "" {
		t.Errorf("content changed:\n%s", diff)
	}
}
