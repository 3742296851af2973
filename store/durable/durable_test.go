package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// lines of a folder: names, so that nothing is left beside the file.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWriteReplacesTheFileWithItsMode(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "file")
	for text, mode := range map[string]fs.FileMode{"open to all": 0o644, "for one": 0o600, "": 0o440} {
		if err := Write(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != mode || content(t, path) != text {
			t.Errorf("%q: mode %v, want %v; %v", content(t, path), info.Mode(), mode, err)
		}
	}
	if got := names(t, filepath.Dir(path)); got != "file" {
		t.Errorf("the folder holds %s", got)
	}
}

func TestReadersOfTheOldFileKeepIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := Write(path, []byte("old"), 0); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := Write(path, []byte("new"), 0); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(reader); string(data) != "old" || err != nil {
		t.Errorf("an open file reads %q, %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of a file that nobody gave one: %v, %v", info.Mode(), err)
	}
}

func TestOwner(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Mkdir("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (File{Mode: 0o400, Owner: &Owner{999, 101}}).WriteIn(root, "sub/file", []byte("x")); err != nil {
		t.Fatal(err)
	}
	info, err := root.Stat("sub/file")
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 999 || s.Gid != 101 || info.Mode() != 0o400 {
		t.Errorf("owner %d:%d, mode %v", s.Uid, s.Gid, info.Mode())
	}
}

func TestFailureLeavesTheOldFileAndNothingElse(t *testing.T) {
	broken := errors.New("broken")
	for name, write := range map[string]func(path string) error{
		"half written": func(path string) error {
			return File{}.Fill(path, func(w io.Writer) error { _, _ = io.WriteString(w, "ha"); return broken })
		},
		"found bad": func(path string) error {
			return File{Check: func(temp string) error {
				if data, err := os.ReadFile(temp); string(data) != "bad" || err != nil {
					t.Errorf("the check sees %q, %v", data, err)
				}
				return broken
			}}.Fill(path, whole([]byte("bad")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := Write(path, []byte("old"), 0); err != nil {
				t.Fatal(err)
			}
			err := write(path)
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
				t.Errorf("error: %v", err)
			}
			if got := content(t, path); got != "old" || names(t, filepath.Dir(path)) != "file" {
				t.Errorf("the file says %q; the folder holds %s", got, names(t, filepath.Dir(path)))
			}
		})
	}
	t.Run("a folder has the name", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.MkdirAll(filepath.Join(path, "in it"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Write(path, nil, 0); err == nil || names(t, filepath.Dir(path)) != "file" {
			t.Errorf("error %v; the folder holds %s", err, names(t, filepath.Dir(path)))
		}
	})
	t.Run("no folder", func(t *testing.T) {
		if err := Write(filepath.Join(t.TempDir(), "none", "file"), nil, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error: %v", err)
		}
		if err := Sync(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error of Sync: %v", err)
		}
	})
}

func TestNothingIsWrittenOutsideOfTheRoot(t *testing.T) {
	outside := t.TempDir()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Symlink(outside, "out"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out/file", "../file", "/file"} {
		if err := (File{}).WriteIn(root, name, []byte("x")); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if got := names(t, outside); got != "" {
		t.Errorf("outside there is %s", got)
	}
}
