package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarima/store"
	"tarima/store/record"
	"tarima/store/storetest"
)

var (
	seed   = flag.Uint64("store.seed", 0, "seed of the random damage; 0 chooses one and prints it")
	rounds = flag.Int("store.rounds", 150, "how many stores are damaged at random")
)

func random(t *testing.T) *rand.Rand {
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("to repeat: -store.seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// filled makes a store with some history, with or without a copy, closes it
// and returns what it held.
func filled(t *testing.T, dir string, copied bool) content {
	t.Helper()
	s := must[*store.Store](t)(store.Open(context.Background(), store.Config{Dir: dir, CopyDelay: -1, Logger: textLogger(t.Output())}))
	fill(t, s, "default")
	for i := range 60 {
		must[record.Event](t)(s.AppendEvent("default", record.Event{At: noon, Kind: record.ProbeFailed, Service: "lms", Reason: strings.Repeat("slow ", i)}))
	}
	if copied {
		check(t, s.Copy(context.Background()))
	}
	c := read(t, s, "default")
	check(t, s.Close())
	return c
}

// spoil damages a file at a random place.
func spoil(t *testing.T, r *rand.Rand, path string) string {
	t.Helper()
	data := must[[]byte](t)(os.ReadFile(path))
	at, n := r.IntN(len(data)), 1+r.IntN(1<<r.IntN(16))
	end := min(at+n, len(data))
	var what string
	switch r.IntN(6) {
	case 0:
		what = fmt.Sprintf("cut at %d", at)
		data = data[:at]
	case 1:
		what = fmt.Sprintf("%d zeros at %d", end-at, at)
		clear(data[at:end])
	case 2:
		what = fmt.Sprintf("rubbish from %d to %d", at, end)
		for i := at; i < end; i++ {
			data[i] = byte(r.Uint32())
		}
	case 3:
		what = fmt.Sprintf("one bit at %d", at)
		data[at] ^= 1 << r.IntN(8)
	case 4:
		from := r.IntN(len(data)) &^ 4095
		to := at &^ 4095
		what = fmt.Sprintf("page at %d over page at %d", from, to)
		copy(data[to:min(to+4096, len(data))], data[from:min(from+4096, len(data))])
	case 5:
		what = "all rubbish"
		for i := range data {
			data[i] = byte(r.Uint32())
		}
	}
	check(t, os.WriteFile(path, data, 0o600))
	return what
}

// TestRandomDamageIsSurvived spoils the closed file many times in many ways.
// Whatever happens to it, the store opens, and what is wanted is as it was: from
// the file if that part is whole, or else from the copy.
func TestRandomDamageIsSurvived(t *testing.T) {
	r := random(t)
	template := t.TempDir()
	want := filled(t, template, true)
	parent := inMemory(t, "64m")
	recoveries := 0
	for round := range *rounds {
		dir := filepath.Join(parent, fmt.Sprint("store-", round))
		check(t, os.CopyFS(dir, os.DirFS(template)))
		what := spoil(t, r, filepath.Join(dir, "store.db"))
		if r.IntN(4) == 0 {
			what += ", " + spoil(t, r, filepath.Join(dir, "store.db"))
		}
		s, err := store.Open(context.Background(), store.Config{Dir: dir, CopyDelay: -1, Logger: textLogger(io.Discard)})
		if err != nil {
			t.Fatalf("round %d, %s: %v", round, what, err)
		}
		rec, recovered := s.Recovered()
		if recovered {
			recoveries++
		}
		if rec.Empty || rec.MovedTo != "" && rec.From == "" {
			t.Errorf("round %d, %s: a good copy was not used: %+v", round, what, rec)
		}
		got := read(t, s, "default")
		// Single events may go into quarantine; everything else has a copy.
		got.Events, got.OfMySQL = want.Events, want.OfMySQL
		if diff := cmp.Diff(want, got, sameContent); diff != "" {
			t.Errorf("round %d, %s, recovery %+v: content changed:\n%s", round, what, rec, diff)
		}
		last := want.Events[len(want.Events)-1].Seq
		e, err := s.AppendEvent("default", record.Event{Kind: record.Started, Service: "lms"})
		if err != nil || e.Seq <= last {
			t.Errorf("round %d, %s: event %d after %d: %v", round, what, e.Seq, last, err)
		}
		storetest.CheckAndClose(t, s)
		if t.Failed() {
			t.Fatalf("stopped; spoiled by: %s", what)
		}
		check(t, os.RemoveAll(dir))
	}
	if recoveries < *rounds/3 {
		t.Errorf("only %d of %d stores needed recovery: the damage is too mild", recoveries, *rounds)
	}
}

// TestDamageWithoutCopy wants an empty store that says so, with the secrets
// of the root-only file.
func TestDamageWithoutCopy(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut to nothing": func(p string) error { return os.Truncate(p, 0) },
		"cut short":      func(p string) error { return os.Truncate(p, 5000) },
		"rubbish":        func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("rubbish "), 4096), 0o600) },
		"zeros":          func(p string) error { return os.WriteFile(p, make([]byte, 65536), 0o600) },
		"removed":        os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			filled(t, dir, false)
			path := filepath.Join(dir, "store.db")
			check(t, spoil(path))
			damaged, _ := os.ReadFile(path)
			s := storetest.OpenIn(t, store.Config{Dir: dir})
			rec, yes := s.Recovered()
			if !yes || !rec.Empty || rec.Reason == "" {
				t.Fatalf("recovery: %+v, %v", rec, yes)
			}
			if kept, _ := os.ReadFile(rec.MovedTo); !bytes.Equal(kept, damaged) {
				t.Errorf("the damaged file is not at %q", rec.MovedTo)
			}
			if _, known, err := s.Applied("default"); known || err != nil {
				t.Errorf("an empty store knows what is applied: %v, %v", known, err)
			}
			if got := must[string](t)(s.Secret("default", "mysql-root", func() (string, error) { return "made anew", nil })); got != "s3cret-default" {
				t.Errorf("the secret is %q", got)
			}
			// 60 events had been numbered; no number may come again.
			if e := must[record.Event](t)(s.AppendEvent("default", record.Event{Kind: record.Started})); e.Seq < 1000 {
				t.Errorf("event numbers begin again at %d", e.Seq)
			}
		})
	}
}

// TestDamagedCopiesAreSkipped wants the newest copy that is whole.
func TestDamagedCopiesAreSkipped(t *testing.T) {
	dir := t.TempDir()
	s := must[*store.Store](t)(store.Open(context.Background(), store.Config{Dir: dir, CopyDelay: -1}))
	for g := range uint64(3) {
		check(t, s.SetApplied("default", record.Applied{Generation: g + 1}))
		check(t, s.Copy(context.Background()))
	}
	check(t, s.Close())
	copies, _ := filepath.Glob(filepath.Join(dir, "copies", "store-*.db"))
	if len(copies) != 3 {
		t.Fatalf("copies: %q", copies)
	}
	check(t, os.Truncate(copies[2], 9000))
	check(t, os.Truncate(filepath.Join(dir, "store.db"), 100))
	s = storetest.OpenIn(t, store.Config{Dir: dir})
	rec, _ := s.Recovered()
	if rec.From != copies[1] || rec.CopiedAt.IsZero() {
		t.Errorf("recovery: %+v, want from %s", rec, copies[1])
	}
	if a, _, err := s.Applied("default"); err != nil || a.Generation != 2 {
		t.Errorf("applied: %+v, %v", a, err)
	}
}

// TestOneBadRecord flips a byte inside records and wants them in
// quarantine, the rest untouched, and what a copy has put back.
func TestOneBadRecord(t *testing.T) {
	for name, copied := range map[string]bool{"with a copy": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			want := filled(t, dir, copied)
			path := filepath.Join(dir, "store.db")
			data := must[[]byte](t)(os.ReadFile(path))
			for _, text := range []string{`"digest":"sha256:abc"`, `"reason":"killed"`} {
				if !bytes.Contains(data, []byte(text)) {
					t.Fatalf("%s is not in the file", text)
				}
				// Old pages may hold the text as well: all of them.
				data = bytes.ReplaceAll(data, []byte(text), []byte(strings.Replace(text, `":"`, `":<`, 1)))
			}
			check(t, os.WriteFile(path, data, 0o600))

			s := storetest.OpenIn(t, store.Config{Dir: dir, CopyDelay: -1})
			rec, yes := s.Recovered()
			if !yes || rec.Reason != "" || len(rec.Records) != 3 {
				t.Fatalf("recovery: %+v", rec)
			}
			for _, l := range rec.Records {
				isEvent := strings.Contains(l.Record, "/events/")
				if !strings.HasPrefix(l.Record, "default/") || l.Why == "" || (l.From != "") != (copied && !isEvent) {
					t.Errorf("lost: %+v", l)
				}
			}
			got := read(t, s, "default")
			if n := len(got.OfMySQL); n != 0 {
				t.Errorf("mysql has %d events, its only one was spoiled", n)
			}
			if copied && !cmp.Equal(got.Images, want.Images) || !copied && len(got.Images) != 0 {
				t.Errorf("images: %+v", got.Images)
			}
			want.Images, want.Events, want.OfMySQL = got.Images, got.Events, got.OfMySQL
			if diff := cmp.Diff(want, got, sameContent); diff != "" {
				t.Errorf("other records changed:\n%s", diff)
			}
			if n := len(got.Events); n != 60 {
				t.Errorf("%d events are left, want 60", n)
			}
			// What was found is kept as it was.
			check(t, s.Close())
			if now := must[[]byte](t)(os.ReadFile(path)); !bytes.Contains(now, []byte(`"why":"does not match its checksum"`)) {
				t.Error("nothing in the file tells of the quarantine")
			}
		})
	}
}

// TestDamageWhileOpen truncates, overwrites and removes the file under an open
// store. The store goes on, with what the last copy had.
func TestDamageWhileOpen(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut to nothing": func(p string) error { return os.Truncate(p, 0) },
		"cut short":      func(p string) error { return os.Truncate(p, 8192) },
		"zeros in place": func(p string) error {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, info.Size()), 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := storetest.OpenIn(t, store.Config{Dir: dir, CopyDelay: -1})
			fill(t, s, "default")
			check(t, s.Copy(context.Background()))
			want := read(t, s, "default")
			check(t, spoil(filepath.Join(dir, "store.db")))
			if diff := cmp.Diff(want, read(t, s, "default"), sameContent); diff != "" {
				t.Errorf("content changed:\n%s", diff)
			}
			rec, yes := s.Recovered()
			if !yes || rec.From == "" {
				t.Errorf("recovery: %+v, %v", rec, yes)
			}
			check(t, s.SetIntent("default", record.Intent{Service: "lms", Restart: 9}))
			s = reopen(t, s, store.Config{Dir: dir})
			if got := must[map[string]record.Intent](t)(s.Intents("default"))["lms"].Restart; got != 9 {
				t.Errorf("what was written after the repair is lost: %d", got)
			}
		})
	}
	t.Run("removed", func(t *testing.T) {
		dir := t.TempDir()
		s := storetest.OpenIn(t, store.Config{Dir: dir, CopyDelay: -1})
		fill(t, s, "default")
		want := read(t, s, "default")
		check(t, os.Remove(filepath.Join(dir, "store.db")))
		check(t, s.Copy(context.Background())) // as it happens hourly
		if diff := cmp.Diff(want, read(t, s, "default"), sameContent); diff != "" {
			t.Errorf("content changed:\n%s", diff)
		}
		s = reopen(t, s, store.Config{Dir: dir})
		if diff := cmp.Diff(want, read(t, s, "default"), sameContent); diff != "" {
			t.Errorf("content changed after reopening:\n%s", diff)
		}
	})
}

// TestSecretsOfEitherPlace loses one of the two places of secrets, then both.
func TestSecretsOfEitherPlace(t *testing.T) {
	secret := func(t *testing.T, s *store.Store, name string) (string, error) {
		t.Helper()
		return s.Secret("default", name, func() (string, error) { return "made anew", nil })
	}
	for name, spoil := range map[string]func(file string) error{
		"file removed": os.Remove,
		"file cut":     func(f string) error { return os.Truncate(f, 20) },
		"file edited": func(f string) error {
			data, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			return os.WriteFile(f, bytes.Replace(data, []byte("s3cret"), []byte("S3CRET"), 1), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			filled(t, dir, false)
			file := filepath.Join(dir, "secrets", "default.json")
			before := must[[]byte](t)(os.ReadFile(file))
			check(t, spoil(file))
			s := storetest.OpenIn(t, store.Config{Dir: dir})
			if after := must[[]byte](t)(os.ReadFile(file)); !bytes.Equal(before, after) {
				t.Errorf("the file is not as it was:\n%s", after)
			}
			if got := must[string](t)(secret(t, s, "mysql-root")); got != "s3cret-default" {
				t.Errorf("got %q", got)
			}
			if got := must[string](t)(secret(t, s, "new")); got != "made anew" {
				t.Errorf("a new secret: %q", got)
			}
		})
	}
	t.Run("both damaged", func(t *testing.T) {
		dir := t.TempDir()
		filled(t, dir, false)
		check(t, os.Truncate(filepath.Join(dir, "secrets", "default.json"), 20))
		check(t, os.Truncate(filepath.Join(dir, "store.db"), 20))
		s := storetest.OpenIn(t, store.Config{Dir: dir})
		// Also after another start, which finds a database that is whole.
		for range 2 {
			_, err := secret(t, s, "mysql-root")
			mark := filepath.Join(dir, "secrets", "default.json.damaged")
			if err == nil || !strings.Contains(err.Error(), mark) {
				t.Fatalf("a lost secret: %v", err)
			}
			s = reopen(t, s, store.Config{Dir: dir})
		}
		check(t, os.Remove(filepath.Join(dir, "secrets", "default.json.damaged")))
		if got := must[string](t)(secret(t, s, "mysql-root")); got != "made anew" {
			t.Errorf("after the administrator's decision: %q", got)
		}
	})
}

// TestSecretsStaySecret wants no secret in any report or error.
func TestSecretsStaySecret(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	logger := textLogger(&out)
	s := must[*store.Store](t)(store.Open(context.Background(), store.Config{Dir: dir, Logger: logger}))
	fill(t, s, "default")
	check(t, s.Close())
	// Spoiled within the value, in both places.
	for _, f := range []string{"store.db", "secrets/default.json"} {
		path := filepath.Join(dir, f)
		data := must[[]byte](t)(os.ReadFile(path))
		check(t, os.WriteFile(path, bytes.ReplaceAll(data, []byte("s3cret-default"), []byte("s3cret-d\x00fault")), 0o600))
	}
	copies, _ := filepath.Glob(filepath.Join(dir, "copies", "*"))
	for _, c := range copies {
		check(t, os.Remove(c))
	}
	s = must[*store.Store](t)(store.Open(context.Background(), store.Config{Dir: dir, Logger: logger}))
	_, err := s.Secret("default", "mysql-root", func() (string, error) { return "s3cret", nil })
	check(t, s.Close())
	if !strings.Contains(out.String(), "quarantine") {
		t.Errorf("the damage was not reported:\n%s", out.String())
	}
	for what, text := range map[string]string{"log": out.String(), "error": fmt.Sprint(err)} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("the %s tells a secret: %s", what, text)
		}
	}
}

// TestNewerSchemaIsRefused leaves the file alone and says what to do.
func TestNewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, true)
	path := filepath.Join(dir, "store.db")
	setVersion(t, path, "2")
	before := must[[]byte](t)(os.ReadFile(path))
	_, err := store.Open(context.Background(), store.Config{Dir: dir})
	if !isNewer(err) || !strings.Contains(err.Error(), "before-schema-2-") {
		t.Errorf("got %v", err)
	}
	if after := must[[]byte](t)(os.ReadFile(path)); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

// TestCopiesByThemselves wants a copy soon after a change of what is wanted.
func TestCopiesByThemselves(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenIn(t, store.Config{Dir: dir, CopyDelay: time.Millisecond, Copies: 3})
	deadline := time.Now().Add(20 * time.Second)
	for g := uint64(1); g <= 8; g++ {
		before := newestCopy(dir)
		check(t, s.SetApplied("default", record.Applied{Generation: g}))
		poll(t, deadline, "a copy", func() bool { return newestCopy(dir) != before })
	}
	poll(t, deadline, "old copies to go", func() bool {
		copies, _ := filepath.Glob(filepath.Join(dir, "copies", "store-*.db"))
		return len(copies) <= 4 // the newest three and one of the day before them
	})
}

func newestCopy(dir string) string {
	copies, _ := filepath.Glob(filepath.Join(dir, "copies", "store-*.db"))
	if len(copies) == 0 {
		return ""
	}
	return copies[len(copies)-1]
}

func poll(t *testing.T, deadline time.Time, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

// TestMetaPageAlone spoils the newer of the two meta pages, so that the last
// transaction is lost: a copy that is newer takes the file's place, and
// without one the store says what happened.
func TestMetaPageAlone(t *testing.T) {
	for name, copied := range map[string]bool{"with a copy": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			want := filled(t, dir, copied)
			path := filepath.Join(dir, "store.db")
			data := must[[]byte](t)(os.ReadFile(path))
			page := 0
			if binary.NativeEndian.Uint64(data[4096+16+48:]) > binary.NativeEndian.Uint64(data[16+48:]) {
				page = 4096
			}
			clear(data[page : page+4096])
			check(t, os.WriteFile(path, data, 0o600))
			s := storetest.OpenIn(t, store.Config{Dir: dir, CopyDelay: -1})
			rec, yes := s.Recovered()
			if !yes || rec.Reason == "" || rec.Empty || (rec.From != "") != copied {
				t.Errorf("recovery: %+v", rec)
			}
			if !copied {
				want.Events = want.Events[:len(want.Events)-1]
			}
			if diff := cmp.Diff(want, read(t, s, "default"), sameContent); diff != "" {
				t.Errorf("content changed:\n%s", diff)
			}
			if e := must[record.Event](t)(s.AppendEvent("default", record.Event{Kind: record.Started})); e.Seq <= 62 {
				t.Errorf("number %d was given before", e.Seq)
			}
			storetest.CheckAndClose(t, s)
			s = storetest.OpenIn(t, store.Config{Dir: dir, CopyDelay: -1})
			if rec, yes := s.Recovered(); yes {
				t.Errorf("recovered again: %+v", rec)
			}
		})
	}
}
