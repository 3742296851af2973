package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"tarima/runtime/container"
)

// Whatever happens to the databases of the root, the engine opens: with all it
// had, or with a new root, of which it tells.
func TestBrokenRoot(t *testing.T) {
	meta := databases[0]
	layers := databases[1]
	truncate := func(name string, keep float64) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			path := filepath.Join(root, name)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, int64(float64(info.Size())*keep)); err != nil {
				t.Fatal(err)
			}
		}
	}
	overwrite := func(name string, from int64, length int, value byte) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			file, err := os.OpenFile(filepath.Join(root, name), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			rubbish := make([]byte, length)
			for i := range rubbish {
				rubbish[i] = value
			}
			if _, err := file.WriteAt(rubbish, from); err != nil {
				t.Fatal(err)
			}
		}
	}
	page := int64(os.Getpagesize())
	for name, c := range map[string]struct {
		damage  func(t *testing.T, root string)
		rebuilt bool
	}{
		"none":                  {func(*testing.T, string) {}, false},
		"metadata cut off":      {truncate(meta, 0.3), true},
		"metadata emptied":      {truncate(meta, 0), true},
		"layers cut off":        {truncate(layers, 0.3), true},
		"both headers gone":     {overwrite(meta, 0, int(2*page), 0), true},
		"one header gone":       {overwrite(meta, 0, 100, 0xff), false},
		"all pages zero":        {overwrite(meta, 2*page, int(30*page), 0), true},
		"rubbish in the middle": {overwrite(layers, 2*page, int(30*page), 0xa5), true},
		"metadata removed":      {func(t *testing.T, root string) { _ = os.Remove(filepath.Join(root, meta)) }, true},
		"everything removed":    {func(t *testing.T, root string) { _ = os.RemoveAll(root) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			d := startDaemon(t, cfg)
			d.load()
			d.ask(daemonRequest{Do: "start", Spec: shell("there", "sleep 3600")})
			d.kill()
			c.damage(t, cfg.Root)
			e, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			defer emptyEngine(t, e)
			if c.rebuilt != (e.Rebuilt() != "") {
				t.Fatalf("begun anew because of %q", e.Rebuilt())
			}
			if c.rebuilt {
				if left, _ := filepath.Glob(filepath.Join(cfg.Root, asidePrefix+"*")); len(left) > 0 {
					t.Errorf("what was put aside is still there: %v", left)
				}
			}
			list, err := e.List(t.Context(), "test")
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 1 && list[0].State == container.Running {
				return // nothing was lost
			}
			loadTestImage(t, e)
			if now := mustStart(t, e, shell("there", "sleep 3600")); now.State != container.Running {
				t.Errorf("%+v", now)
			}
		})
	}
}

// The check of a database never fails on its own on any file.
func FuzzCheckDatabase(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 3*os.Getpagesize()))
	// A real database, to begin from something that is right.
	if real, err := os.ReadFile("testdata/snapshots.db"); err == nil {
		f.Add(real)
	} else {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkDatabase(path); err != nil && !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
	})
}
