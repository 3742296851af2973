package certs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestRepairSetsAsideWhatCannotBeRead(t *testing.T) {
	a := open(t, t.TempDir())
	a.SetNames([]string{"good.test"})
	// Any pair that fits will do: the root's own.
	source := t.TempDir()
	open(t, source)
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	crt, key := read(RootFile), read(rootKey)
	cases := map[string]struct {
		files map[string]string
		sound bool
	}{
		"good":          {map[string]string{"x.crt": crt, "x.key": key, "x.json": "{}"}, true},
		"no json":       {map[string]string{"x.crt": crt, "x.key": key}, true},
		"key alone":     {map[string]string{"x.key": key}, true},
		"empty":         {nil, true},
		"empty crt":     {map[string]string{"x.crt": "", "x.key": key}, false},
		"zeros in key":  {map[string]string{"x.crt": crt, "x.key": strings.Repeat("\x00", 200)}, false},
		"empty json":    {map[string]string{"x.crt": crt, "x.key": key, "x.json": ""}, false},
		"truncated crt": {map[string]string{"x.crt": crt[:len(crt)/2], "x.key": key}, false},
		"key empty":     {map[string]string{"x.crt": crt, "x.key": "", "x.json": "{}"}, false},
		"rubbish json":  {map[string]string{"x.crt": crt, "x.key": key, "x.json": "\x00\x00{"}, false},
	}
	for name, c := range cases {
		for _, place := range []string{"certificates/ca/" + name, "acme/ca/users/" + name} {
			t.Run(place, func(t *testing.T) {
				s := newStorage(t.TempDir())
				folder := filepath.Join(s.Path, place)
				if err := os.MkdirAll(folder, 0o700); err != nil {
					t.Fatal(err)
				}
				for file, text := range c.files {
					if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				aside := s.repair("")
				if (len(aside) == 0) != c.sound {
					t.Errorf("set aside: %q", aside)
				}
				if _, err := os.Stat(folder); (err == nil) != c.sound {
					t.Errorf("folder: %v", err)
				}
				if again := s.repair(""); len(again) > 0 {
					t.Errorf("set aside again: %q", again)
				}
			})
		}
	}
}

func TestLocksAreInMemory(t *testing.T) {
	s := newStorage(t.TempDir())
	if err := s.Lock(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if ok, _ := s.TryLock(t.Context(), "a"); ok {
		t.Error("locked twice")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Lock(ended, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if ok, _ := s.TryLock(t.Context(), "b"); !ok {
		t.Error("another lock is held")
	}
	if err := s.Unlock(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Unlock(t.Context(), "a"); err == nil {
		t.Error("unlocked twice")
	}
	if ok, _ := s.TryLock(t.Context(), "a"); !ok {
		t.Error("still locked")
	}
	if left, _ := os.ReadDir(s.Path); len(left) != 0 {
		t.Errorf("files: %v", left)
	}
}

func TestLogBridge(t *testing.T) {
	var out bytes.Buffer
	logger := zapTo(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	logger.Named("obtain").With(zap.String("name", "lms.test")).Warn("will retry", zap.Int("attempt", 3))
	logger.Debug("quiet")
	for _, want := range []string{"level=WARN", `msg="will retry"`, "name=lms.test", "attempt=3", "obtain"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q without %q", out.String(), want)
		}
	}
	if strings.Contains(out.String(), "quiet") {
		t.Error("the level is not kept")
	}
}
