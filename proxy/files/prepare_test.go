package files

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarima/proxy/coding"
)

// tree is what lies in the site's folder: content by name.
func (x *site) tree() map[string]string {
	x.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(x.path("."), func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		relative, _ := filepath.Rel(x.path("."), name)
		all[relative] = string(data)
		return err
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return all
}

func (x *site) prepare() Prepared {
	x.t.Helper()
	done, err := Prepare(context.Background(), x.path("."))
	if err != nil {
		x.t.Fatal(err)
	}
	x.age()
	return done
}

func TestPrepare(t *testing.T) {
	plain := script("app", 20_000)
	noise := make([]byte, 4000)
	for i := range noise {
		noise[i] = byte(rand.Uint32()) //nolint:gosec // any bytes will do
	}
	own := encode(t, coding.Gzip, plain)
	x := newSite(t, Config{}, map[string]string{
		"js/app.js": plain, "js/app.js.gz": own, "noise.txt": string(noise), "small.css": plain[:coding.Smallest-1], "pic.png": plain,
		"just.css": plain[:coding.Smallest], ".git/config.txt": plain, "data.json": plain, "data.json.gz": "somebody's own file",
		"gone/.old.js.made.br": "left behind", "gone/.cache.gz": "not ours",
	})
	if err := os.Chmod(x.path("js/app.js"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := x.tree()
	// Looked at before it is prepared: the new forms are seen all the same.
	if got := x.get("js/app.js", "Accept-Encoding", "br"); got.Header().Get("Content-Encoding") != "" {
		t.Fatalf("not prepared yet: %v", got.Header())
	}
	done := x.prepare()
	if want := (Prepared{Files: 4, Made: 8, Kept: 1, Removed: 1}); done != want {
		t.Errorf("prepared %+v, want %+v", done, want)
	}
	after := x.tree()
	for name, text := range before {
		if after[name] != text && name != "gone/.old.js.made.br" {
			t.Errorf("%s was touched", name)
		}
	}
	for _, c := range []struct {
		name string
		want bool
	}{
		{"js/.app.js.made.br", true},
		{"js/.app.js.made.zst", true},
		{"js/.app.js.made.gz", false}, // it brought its own
		{".data.json.made.gz", true},
		{".just.css.made.br", true},
		{".small.css.made.br", false},
		{".pic.png.made.br", false},
		{".noise.txt.made.br", false},
		{".noise.txt.made.gz", false},
		{".git/.config.txt.made.br", false},
		{"gone/.old.js.made.br", false},
		{"gone/.cache.gz", true},
	} {
		if _, ok := after[c.name]; ok != c.want {
			t.Errorf("%s: %v", c.name, ok)
		}
	}
	if info, err := os.Stat(x.path("js/.app.js.made.br")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode of a form: %v, %v", info.Mode(), err)
	}
	for c := range coding.Identity {
		x.s = New(Config{Recheck: time.Nanosecond})
		got := x.get("js/app.js", "Accept-Encoding", c.String())
		if got.Header().Get("Content-Encoding") != c.String() || !decodesTo(got.Body, c, int64(len(plain)), sha256.Sum256([]byte(plain))) {
			t.Errorf("%v: %v", c, got.Header())
		}
	}
	// Again: there is nothing to do.
	if done := x.prepare(); done != (Prepared{Files: 4, Kept: 9}) {
		t.Errorf("again: %+v", done)
	}
	// A new content: forms of the old one are neither served nor left.
	x.write("js/app.js", script("new", 20_000))
	x.age()
	if got := x.get("js/app.js", "Accept-Encoding", "br, gzip"); got.Header().Get("Content-Encoding") != "" || got.Body.String() != script("new", 20_000) {
		t.Errorf("an old form is served: %v", got.Header())
	}
	if done := x.prepare(); done != (Prepared{Files: 4, Made: 3, Kept: 6, Removed: 2}) {
		t.Errorf("after a change: %+v", done)
	}
	if got := x.get("js/app.js", "Accept-Encoding", "br"); got.Header().Get("Content-Encoding") != "br" {
		t.Errorf("the new form is not served: %v", got.Header())
	}
}

func TestPrepareEnds(t *testing.T) {
	x := newSite(t, Config{}, map[string]string{"a.js": script("a", 5000)})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if done, err := Prepare(ctx, x.path(".")); !errors.Is(err, context.Canceled) || done.Made != 0 {
		t.Errorf("ended: %+v, %v", done, err)
	}
	if _, err := Prepare(context.Background(), x.path("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	// What a killed run left over is no form, and no name of a file either.
	x.write(".a.js.made.br", "half")
	x.age()
	if got := x.get("a.js", "Accept-Encoding", "br"); got.Header().Get("Content-Encoding") != "" {
		t.Error("half a form is served")
	}
	if done := x.prepare(); done.Made != 3 || done.Removed != 1 {
		t.Errorf("went on: %+v", done)
	}
	// A link that leads out is not followed.
	if err := os.Symlink("/etc", x.path("etc")); err != nil {
		t.Fatal(err)
	}
	x.prepare()
	for name := range x.tree() {
		if strings.HasPrefix(name, "etc/") {
			t.Errorf("prepared %s", name)
		}
	}
	if _, err := os.Lstat("/etc/.services.made.br"); err == nil {
		t.Error("the host's files were prepared")
	}
}
