package main

import (
	"os"
	"path/filepath"
	"testing"
)

// tree makes a source tree with one image folder and one program.
func tree(t *testing.T) keyer {
	t.Helper()
	module := t.TempDir()
	k := keyer{module: module, images: filepath.Join(module, "test/images")}
	write(t, filepath.Join(k.images, "shop/etc/shop.conf"), "open = true\n", 0o644)
	write(t, filepath.Join(k.images, "till/main.go"), "package main\n", 0o644)
	write(t, filepath.Join(k.images, "wants.txt"), "django==5.2.19\n", 0o644)
	return k
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func shop() *Image {
	base := &Stage{Name: "base", Packages: []string{"tini"}}
	return &Image{Name: "shop", Tag: "1", Top: &Stage{
		Name: "shop", Parent: base, Packages: []string{"caddy"}, Files: []string{"shop"}, Script: "true",
		Programs: []Program{{Target: "/bin/till", Package: "./test/images/till"}},
		Wheels:   &Wheels{Name: "wheels", Parent: base, Requirements: "wants.txt"},
	}}
}

func key(t *testing.T, k keyer, i *Image) string {
	t.Helper()
	h, err := k.image(i)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestKeyChangesWithEverythingThatCanChangeTheImage(t *testing.T) {
	k := tree(t)
	before := key(t, k, shop())
	if again := key(t, k, shop()); again != before {
		t.Fatalf("the same recipe has two keys: %s and %s", before, again)
	}
	recipes := map[string]func(*Image){
		"tag":                    func(i *Image) { i.Tag = "2" },
		"script":                 func(i *Image) { i.Top.Script = "false" },
		"before":                 func(i *Image) { i.Top.Before = "true" },
		"packages":               func(i *Image) { i.Top.Packages = []string{"caddy", "tar"} },
		"environment":            func(i *Image) { i.Top.Env = []string{"VERSION=2"} },
		"parent":                 func(i *Image) { i.Top.Parent.Packages = nil },
		"program's place":        func(i *Image) { i.Top.Programs[0].Target = "/bin/other" },
		"packages of the wheels": func(i *Image) { i.Top.Wheels.Packages = []string{"gcc"} },
		"user":                   func(i *Image) { i.Config.User = "1000" },
		"command":                func(i *Image) { i.Config.Cmd = []string{"caddy"} },
	}
	for what, change := range recipes {
		i := shop()
		change(i)
		if key(t, k, i) == before {
			t.Errorf("another %s: the key stays", what)
		}
	}
	files := map[string]func(k keyer){
		"content":     func(k keyer) { write(t, filepath.Join(k.images, "shop/etc/shop.conf"), "open = false\n", 0o644) },
		"name":        func(k keyer) { write(t, filepath.Join(k.images, "shop/etc/more.conf"), "", 0o644) },
		"permissions": func(k keyer) { write(t, filepath.Join(k.images, "shop/etc/shop.conf"), "open = true\n", 0o755) },
		"program":     func(k keyer) { write(t, filepath.Join(k.images, "till/main.go"), "package main // new\n", 0o644) },
		"wheels":      func(k keyer) { write(t, filepath.Join(k.images, "wants.txt"), "django==5.2.18\n", 0o644) },
	}
	for what, change := range files {
		k := tree(t)
		change(k)
		if key(t, k, shop()) == before {
			t.Errorf("another %s of a file: the key stays", what)
		}
	}
}

func TestKeyIgnoresWhatCannotChangeTheImage(t *testing.T) {
	k := tree(t)
	before := key(t, k, shop())
	write(t, filepath.Join(k.images, "till/main_test.go"), "package main\n", 0o644)
	write(t, filepath.Join(k.images, "shop/etc/__pycache__/x.pyc"), "compiled", 0o644)
	if after := key(t, k, shop()); after != before {
		t.Errorf("tests and compiled Python files changed the key")
	}
}

func TestKeyNamesAMissingFile(t *testing.T) {
	k := tree(t)
	if err := os.RemoveAll(filepath.Join(k.images, "shop")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.image(shop()); err == nil {
		t.Fatal("a recipe whose files are missing has a key")
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		wanted []string
		refs   []string
		fails  bool
	}{
		{wanted: []string{"redis"}, refs: []string{"redis:1"}},
		{wanted: []string{"campus"}, refs: []string{"campus:1", "campus:2"}},
		{wanted: []string{"campus:2", "mysql"}, refs: []string{"campus:2", "mysql:1"}},
		{wanted: []string{"rediss"}, fails: true},
		{wanted: []string{"campus:3"}, fails: true},
	} {
		chosen, err := choose(c.wanted)
		if (err != nil) != c.fails {
			t.Errorf("%v: error %v", c.wanted, err)
		}
		var refs []string
		for _, i := range chosen {
			refs = append(refs, i.Ref())
		}
		if len(refs) != len(c.refs) {
			t.Errorf("%v: chosen %v, want %v", c.wanted, refs, c.refs)
			continue
		}
		for n := range refs {
			if refs[n] != c.refs[n] {
				t.Errorf("%v: chosen %v, want %v", c.wanted, refs, c.refs)
			}
		}
	}
	all, err := choose(nil)
	if err != nil || len(all) != len(images()) {
		t.Errorf("no name: %d images, %v", len(all), err)
	}
}

// TestRecipesOfThisTree checks that every file that a recipe names is there.
func TestRecipesOfThisTree(t *testing.T) {
	module, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	k := keyer{module: module, images: filepath.Join(module, "test/images")}
	keys := map[string]string{}
	for _, i := range images() {
		h := key(t, k, i)
		if other, ok := keys[h]; ok {
			t.Errorf("%s and %s have the same key", i.Ref(), other)
		}
		keys[h] = i.Ref()
		if len(i.Config.Cmd) == 0 {
			t.Errorf("%s has no command", i.Ref())
		}
	}
}
