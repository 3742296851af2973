package accesslog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l[1]")
	at := func(minute int) string {
		return fmt.Sprintf(`{"time":"2026-03-01T12:%02d:00.000Z","n":%d}`, minute, minute)
	}
	for i, name := range []string{path + ".10", path + ".2", path + ".1", path} {
		write(t, name, at(2*i)+"\n"+at(2*i+1)+"\n")
	}
	write(t, path, "no JSON\n{\"cut\":")
	write(t, path+".gz", "not ours\n")
	for _, c := range []struct {
		what string
		q    Query
		want string
	}{
		{"all", Query{}, "0 1 2 3 4 5 6 7 no JSON"},
		{"the last", Query{Tail: 4}, "5 6 7 no JSON"},
		{"more than there are", Query{Tail: 100}, "0 1 2 3 4 5 6 7 no JSON"},
		{"since", Query{Since: time.Date(2026, 3, 1, 12, 3, 0, 0, time.UTC)}, "3 4 5 6 7 no JSON"},
		{"the last since", Query{Since: time.Date(2026, 3, 1, 12, 3, 0, 0, time.UTC), Tail: 2}, "7 no JSON"},
	} {
		var got []string
		err := Read(t.Context(), path, c.q, func(line []byte) error {
			_, n, _ := strings.Cut(string(line), `"n":`)
			if n == "" {
				n = string(line)
			}
			got = append(got, strings.TrimSuffix(n, "}"))
			return nil
		})
		if s := strings.Join(got, " "); err != nil || s != c.want {
			t.Errorf("%s: %s, %v; want %s", c.what, s, err, c.want)
		}
	}
	stop := errors.New("enough")
	if err := Read(t.Context(), path, Query{}, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("who reads has enough: %v", err)
	}
}

// TestReadNoFile: root reads what somebody else may have put there.
func TestReadNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "missing", "."} {
		err := Read(t.Context(), filepath.Join(dir, name), Query{}, func([]byte) error { return nil })
		if err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// TestFollow: through a line that comes in parts, a rotation, a file that is
// emptied, and one that is not there yet.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var got []string
	ended := make(chan error, 1)
	go func() {
		ended <- Read(ctx, path, Query{Follow: true}, func(line []byte) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(line))
			return nil
		})
	}()
	sees := func(want string) {
		t.Helper()
		until(t, want, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(got, " ") == want
		})
	}
	write(t, path, "1\n2")
	sees("1")
	write(t, path, "2\n3\n")
	sees("1 22 3")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, path+".1", "4\n")
	write(t, path, "5\n")
	sees("1 22 3 4 5")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * followEvery) // it is seen empty
	write(t, path, "6\n")
	sees("1 22 3 4 5 6")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
