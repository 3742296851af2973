package openedx

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"tarima/supervisor/site"
)

// planIn builds the test site into folders of its own.
func planIn(t *testing.T, dirs Dirs, change func(*site.Config)) Plan {
	t.Helper()
	in := testInput(t, change)
	in.Dirs = dirs
	return mustBuild(t, in)
}

func tempDirs(t *testing.T) Dirs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files to the images' users and has to run as root")
	}
	dir := t.TempDir()
	return Dirs{Config: filepath.Join(dir, "config"), Data: filepath.Join(dir, "data")}
}

// state of all files below a folder: inode, owner, mode.
func state(t *testing.T, dir string) map[string]syscall.Stat_t {
	t.Helper()
	out := map[string]syscall.Stat_t{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s syscall.Stat_t
		if err := syscall.Lstat(path, &s); err != nil {
			return err
		}
		s.Atim = syscall.Timespec{}
		out[path] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func checkOnDisk(t *testing.T, p Plan) {
	t.Helper()
	want := map[string]bool{p.Dirs.Config: true}
	for _, f := range p.Files {
		path := filepath.Join(p.Dirs.Config, f.Path)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, f.Content) || info.Mode().Perm() != fs.FileMode(f.Mode) || !owned(info, f.UID, f.GID) {
			t.Errorf("%s: mode %s", f.Path, info.Mode())
		}
		for ; path != p.Dirs.Config; path = filepath.Dir(path) {
			want[path] = true
		}
	}
	for path := range state(t, p.Dirs.Config) {
		if !want[path] {
			t.Errorf("%s is left over", path)
		}
	}
	for _, d := range p.DataDirs {
		info, err := os.Stat(filepath.Join(p.Dirs.Data, d.Path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != fs.FileMode(d.Mode) || !owned(info, d.UID, d.GID) {
			t.Errorf("%s: mode %s", d.Path, info.Mode())
		}
	}
}

func TestMaterialise(t *testing.T) {
	dirs := tempDirs(t)
	plan := planIn(t, dirs, nil)
	if err := Materialise(plan); err != nil {
		t.Fatal(err)
	}
	checkOnDisk(t, plan)
	if info, err := os.Stat(dirs.Config); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder of settings: %v %v", info.Mode(), err)
	}

	// Once more changes nothing: same inodes, same times.
	before := state(t, dirs.Config)
	if err := Materialise(plan); err != nil {
		t.Fatal(err)
	}
	for path, s := range state(t, dirs.Config) {
		if s != before[path] {
			t.Errorf("%s was touched though nothing changed", path)
		}
	}

	// A change writes the files that differ, and no others.
	changed := planIn(t, dirs, func(c *site.Config) { c.Settings.CMS = site.Table{{Key: "X", Value: "y"}} })
	if err := Materialise(changed); err != nil {
		t.Fatal(err)
	}
	checkOnDisk(t, changed)
	for path, s := range state(t, dirs.Config) {
		if s.Mode&syscall.S_IFMT == syscall.S_IFREG && s.Ino != before[path].Ino {
			rel, err := filepath.Rel(dirs.Config, path)
			if err != nil {
				t.Fatal(err)
			}
			if rel != "cms/config/cms.env.yml" && rel != "cms/settings/site.json" {
				t.Errorf("%s was written anew", rel)
			}
		}
	}

	// What is no longer asked for goes, with its secrets.
	off := false
	less := planIn(t, dirs, func(c *site.Config) { c.Services = map[string]site.Service{"meilisearch": {Enabled: &off}} })
	if err := Materialise(less); err != nil {
		t.Fatal(err)
	}
	checkOnDisk(t, less)
	if _, err := os.Stat(filepath.Join(dirs.Data, "meilisearch")); err != nil {
		t.Errorf("data of a service that is off must stay: %v", err)
	}
}

func TestMaterialiseRepairs(t *testing.T) {
	dirs := tempDirs(t)
	plan := planIn(t, dirs, nil)
	if err := Materialise(plan); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dirs.Config, "lms/config/lms.env.yml")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// What a crash in the middle of a write leaves.
	must(os.WriteFile(filepath.Join(filepath.Dir(file), ".lms.env.yml-HALF"), []byte("half"), 0o600))
	// What somebody else did.
	must(os.Chmod(filepath.Join(dirs.Config, "mysql/root-password"), 0o444))
	must(os.Chown(filepath.Join(dirs.Config, "redis/redis.conf"), 0, 0))
	must(os.WriteFile(filepath.Join(dirs.Config, "mfe/extra"), nil, 0o600))
	must(os.Truncate(filepath.Join(dirs.Config, "cms/settings/site.json"), 3))
	must(os.Chown(filepath.Join(dirs.Data, "lms"), 0, 0))
	// Files of users keep their owner, whoever that is.
	upload := filepath.Join(dirs.Data, "openedx-media", "upload")
	must(os.WriteFile(upload, nil, 0o600))
	must(os.Chown(upload, 4242, 4242))
	must(Materialise(plan))
	checkOnDisk(t, plan)
	if info, err := os.Stat(upload); err != nil || !owned(info, 4242, 4242) {
		t.Errorf("the upload changed hands: %v", err)
	}
}

// TestMaterialiseStaysInside: a service that owns a data folder's parent could
// put a link there; nothing outside is touched.
func TestMaterialiseStaysInside(t *testing.T) {
	dirs := tempDirs(t)
	plan := planIn(t, dirs, nil)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dirs.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dirs.Data, "lms")); err != nil {
		t.Fatal(err)
	}
	if err := Materialise(plan); err == nil {
		t.Error("a link in place of a folder was taken")
	}
	info, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	if !owned(info, 0, 0) || info.Mode().Perm() != 0o755 {
		t.Error("the folder outside was changed")
	}
}

func TestMaterialiseFullDisk(t *testing.T) {
	dirs := tempDirs(t)
	plan := planIn(t, dirs, nil)
	if err := os.MkdirAll(dirs.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tarima-openedx-test", dirs.Config, "tmpfs", 0, "size=400k"); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dirs.Config, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := Materialise(plan); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dirs.Config, "mfe", "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	changed := planIn(t, dirs, func(c *site.Config) { c.Site.Name = "Otra" })
	if err := Materialise(changed); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want no space", err)
	}
	// Whatever was not replaced is whole.
	for _, f := range plan.Files {
		data, err := os.ReadFile(filepath.Join(dirs.Config, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, f.Content) && !bytes.Equal(data, fileOf(t, changed, f.Path)) {
			t.Errorf("%s is neither old nor new", f.Path)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := Materialise(changed); err != nil {
		t.Fatal(err)
	}
	checkOnDisk(t, changed)
}
