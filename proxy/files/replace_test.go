package files

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarima/proxy/coding"
)

// release is a folder whose files all name it.
func release(t *testing.T, dir, id string) {
	t.Helper()
	for name, text := range map[string]string{
		"index.html": "<p>" + id, "app.js": script(id, 40_000), "large.js": script(id, 300_000),
		"app.js.gz": encode(t, coding.Gzip, script(id, 40_000)), "app.js.br": encode(t, coding.Brotli, script(id, 40_000)),
	} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Images have the same times in every release.
	for _, name := range []string{"index.html", "app.js", "large.js", "app.js.gz", "app.js.br"} {
		if err := os.Chtimes(filepath.Join(dir, name), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

// While a folder is replaced again and again, by renaming it and by turning a
// link, every answer is of one release: its bytes, its tag and its length.
func TestReplacedWhileServed(t *testing.T) {
	base := t.TempDir()
	for _, id := range []string{"one", "two"} {
		release(t, filepath.Join(base, id), id)
	}
	if err := os.Symlink("one", filepath.Join(base, "linked")); err != nil {
		t.Fatal(err)
	}
	release(t, filepath.Join(base, "moved"), "one")
	release(t, filepath.Join(base, "spare"), "two")

	s := New(Config{Recheck: time.Nanosecond, MemoryEach: 100_000, Memory: 200_000})
	type seen struct{ name, accept, etag string }
	var mu sync.Mutex
	tags := map[seen]string{} // the release
	var wrong atomic.Int64
	var answers [2]atomic.Int64
	ask := func(root, name, accept string) error {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", accept)
		w := httptest.NewRecorder()
		if _, err := s.Serve(w, r, Ask{Base: base, Root: root, Name: name}); err != nil {
			return err
		}
		id := ""
		for i, release := range []string{"one", "two"} {
			want := script(release, map[string]int{"app.js": 40_000, "large.js": 300_000, "index.html": 0}[name])
			if name == "index.html" {
				want = "<p>" + release
			}
			body := w.Body.String()
			coded := w.Header().Get("Content-Encoding")
			for c := range coding.Identity {
				if c.String() == coded && decodesTo(strings.NewReader(body), c, int64(len(want)), sha256.Sum256([]byte(want))) {
					id = release
				}
			}
			if coded == "" && body == want {
				id = release
			}
			if id == release {
				answers[i].Add(1)
			}
		}
		if id == "" || w.Header().Get("Content-Length") != itoa(w.Body.Len()) {
			return fmt.Errorf("%s/%s %s: a mixed answer of %d bytes: %v", root, name, accept, w.Body.Len(), w.Header())
		}
		mu.Lock()
		defer mu.Unlock()
		key := seen{name, accept, w.Header().Get("ETag")}
		if before := tags[key]; before != "" && before != id {
			return fmt.Errorf("%s of %v is of %s and of %s", w.Header().Get("ETag"), key, before, id)
		}
		tags[key] = id
		return nil
	}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for _, root := range []string{"linked", "moved"} {
		asking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name, accept := []string{"index.html", "app.js", "large.js", "app.js", "app.js"}[i%5], []string{"br", "gzip", "", "br", "identity"}[i%5]
				// For an instant a moved folder is not there, and one that is
				// replaced all the time may be so three times in a request.
				if err := ask(root, name, accept); err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrChanging) {
					if wrong.Add(1) < 5 {
						t.Error(err)
					}
				}
			}
		})
	}
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; (answers[0].Load() < 150 || answers[1].Load() < 150) && time.Now().Before(deadline); i++ {
		link := filepath.Join(base, "next")
		must(t, os.Symlink([]string{"one", "two"}[i%2], link))
		must(t, os.Rename(link, filepath.Join(base, "linked")))
		must(t, os.Rename(filepath.Join(base, "moved"), filepath.Join(base, "aside")))
		must(t, os.Rename(filepath.Join(base, "spare"), filepath.Join(base, "moved")))
		must(t, os.Rename(filepath.Join(base, "aside"), filepath.Join(base, "spare")))
		<-time.After(3 * time.Millisecond)
	}
	close(stop)
	asking.Wait()
	if answers[0].Load() < 150 || answers[1].Load() < 150 {
		t.Errorf("answers of the releases: %d and %d", answers[0].Load(), answers[1].Load())
	}
	if stats := s.Stats(); stats.Bytes > 200_000 || stats.Bytes < 0 {
		t.Errorf("%+v", stats)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A file that is written over in its place is noticed, with the same size and the
// same modification time too.
func TestOverwritten(t *testing.T) {
	x := newSite(t, Config{Recheck: time.Nanosecond}, map[string]string{"a.txt": "old"})
	first := x.get("a.txt")
	x.write("a.txt", "new")
	must(t, os.Chtimes(x.path("a.txt"), time.Unix(1, 0), time.Unix(1, 0)))
	second := x.get("a.txt")
	x.write("a.txt", "but")
	must(t, os.Chtimes(x.path("a.txt"), time.Unix(1, 0), time.Unix(1, 0)))
	third := x.get("a.txt") // at once: the stamps may be the same
	if first.Body.String() != "old" || second.Body.String() != "new" || third.Body.String() != "but" {
		t.Errorf("%q, %q, %q", first.Body, second.Body, third.Body)
	}
	if first.Header().Get("ETag") == second.Header().Get("ETag") {
		t.Error("the same tag for another content")
	}
}

// A file is looked at once for as long as it is believed, and within the budget.
func TestMemory(t *testing.T) {
	files := map[string]string{}
	for i := range 20 {
		files[fmt.Sprintf("%d.txt", i)] = strings.Repeat("x", 10_000)
	}
	x := newSite(t, Config{Memory: 60_000, Recheck: time.Hour}, files)
	for i := range 100 {
		x.get("1.txt") // used all the time: stays
		x.get(fmt.Sprintf("%d.txt", i%20))
		if stats := x.s.Stats(); stats.Bytes > 60_000 || stats.Files > 6 {
			t.Fatalf("%+v", stats)
		}
	}
	before := x.s.Stats()
	if err := os.Remove(x.path("1.txt")); err != nil {
		t.Fatal(err)
	}
	if got := x.get("1.txt"); got.err != nil || got.Body.Len() != 10_000 {
		t.Errorf("within the hour: %v", got.err)
	}
	if after := x.s.Stats(); after.Misses != before.Misses || after.Hits != before.Hits+1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
