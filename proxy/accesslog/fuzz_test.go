package accesslog

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every line that is read is one of the file, none is there twice, and those
// of a tail are the last ones.
func FuzzReadLines(f *testing.F) {
	f.Add([]byte("{\"time\":\"2026-03-01T12:00:00Z\"}\n\nno JSON\n{\"cut\":"), 2)
	f.Add([]byte("{\"time\":\"0001-01-01T00:00:00Z\"}\r\n{\"time\":7}\n\x00\n"), 0)
	f.Add(append(bytes.Repeat([]byte("x"), maxLine+3), "\nafter\n"...), 1)
	path := filepath.Join(f.TempDir(), "log")
	f.Fuzz(func(t *testing.T, text []byte, tail int) {
		if tail < 0 || tail > 1000 {
			return
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var want [][]byte
		lines := bytes.Split(text, []byte("\n"))
		for _, line := range lines[:len(lines)-1] { // the last one has no end yet
			if len(line) > 0 {
				want = append(want, line)
			}
		}
		if tail > 0 && len(want) > tail {
			want = want[len(want)-tail:]
		}
		i := 0
		err := Read(t.Context(), path, Query{Tail: tail}, func(line []byte) error {
			if i >= len(want) || !bytes.HasPrefix(want[i], line) || len(line) < min(len(want[i]), maxLine) {
				t.Errorf("line %d is %.80q", i, line)
			}
			i++
			return nil
		})
		if err != nil || i != len(want) {
			t.Errorf("%d lines of %d, %v", i, len(want), err)
		}
		since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		if err := Read(t.Context(), path, Query{Since: since}, func(line []byte) error {
			if before(line, since) {
				t.Errorf("too old: %.80q", line)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// No query, no fragment, no password and no link of a mail is written.
func FuzzRedact(f *testing.F) {
	for _, s := range []string{
		"https://me:pw@learn.test/password_reset_confirm/2-abc/?code=s3cret#x", "/activate/0123", "//activate/0123", "/-/pass/x",
		"/a%3Fb?c", "https://a@b@c/d", "://", "?", "/unsubscribe/", "javascript://%0a/x#y",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, p := redactURL(s), RedactPath(s)
		if strings.ContainsAny(u, "?#") || strings.Contains(p, "?") {
			t.Errorf("%q became %q, %q", s, u, p)
		}
		if strings.HasPrefix(s, "/") {
			clean := "/" + strings.TrimLeft(strings.SplitN(s, "?", 2)[0], "/")
			for _, secret := range secretPaths {
				if rest, ok := strings.CutPrefix(clean, secret); ok && rest != "" && p != secret+Hidden {
					t.Errorf("%q became %q", s, p)
				}
			}
		}
		if _, rest, ok := strings.Cut(u, "://"); ok {
			if name, _, _ := strings.Cut(rest, "/"); strings.Contains(name, "@") {
				t.Errorf("%q became %q: a password may be in it", s, u)
			}
		}
	})
}
