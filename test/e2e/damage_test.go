//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/store/record"
	"tarima/supervisor"
)

// damage is one way in which a file or folder is lost.
type damage struct {
	name string
	do   func(path string) error
}

var fileDamages = []damage{
	{"truncated", func(path string) error {
		// Within the pages that every database has: behind the last one in
		// use nothing would be lost.
		const everyDatabase = 4 * 4096
		return os.Truncate(path, dice.Int64N(everyDatabase))
	}},
	{"zeroed in places", func(path string) error {
		return scribble(path, func(block []byte) { clear(block) })
	}},
	{"rubbish", func(path string) error {
		return scribble(path, func(block []byte) {
			for i := range block {
				block[i] = byte(dice.Uint32())
			}
		})
	}},
	{"emptied", func(path string) error { return os.Truncate(path, 0) }},
	{"removed", os.Remove},
}

// scribble changes blocks of a file: always the first pages, which a database
// cannot do without, and some others.
func scribble(path string, change func(block []byte)) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const page = 4096
	for at := 0; at+page <= len(data); at += page {
		if at < 2*page || dice.IntN(4) == 0 {
			change(data[at : at+page])
		}
	}
	// In place: whoever has the file open must see it.
	return os.WriteFile(path, data, 0o600)
}

// Scenario 10, the store: whatever becomes of its file, containers go on, what
// was wanted is still wanted, and it is told.
func TestDamagedStore(t *testing.T) {
	site.mustBeReady(t)
	if code, _, stderr := site.run(t, "stop", "scheduler"); code != 0 {
		t.Fatal(stderr)
	}
	t.Cleanup(func() {
		if code, _, stderr := site.run(t, "start", "scheduler"); code != 0 {
			t.Error(stderr)
		}
		site.mustBeReady(t)
	})
	site.makeUser(t, "before-the-damage")
	dir := filepath.Join(site.root, "state", "store")
	for _, how := range fileDamages {
		t.Run(how.name, func(t *testing.T) {
			site.mustSee(t, time.Minute, "scheduler", "stopped", func(s supervisor.ServiceStatus) bool {
				return s.State == supervisor.StateStopped
			})
			before := site.mustBeReady(t)
			site.mustHaveCopy(t)
			site.daemon.kill(syscall.SIGKILL)
			if err := how.do(filepath.Join(dir, "store.db")); err != nil {
				t.Fatal(err)
			}
			site.mustStartDaemon(t)
			after := site.mustBeReady(t)
			samePids(t, before, after)
			if after.Generation < before.Generation {
				t.Errorf("generation %d became %d", before.Generation, after.Generation)
			}
			if s := service(after, "scheduler"); s.State != supervisor.StateStopped {
				t.Errorf("that an administrator stopped the scheduler is forgotten: %+v", s)
			}
			events := site.events(t, 0)
			if !slices.ContainsFunc(events[max(0, len(events)-30):], func(e record.Event) bool {
				return e.Kind == record.Trouble && strings.Contains(e.Reason, "store")
			}) {
				t.Errorf("nobody is told:\n%s", summary(events[max(0, len(events)-30):]))
			}
			// The secrets are the old ones: the LMS still speaks to its stores.
			site.mustApply(t, "")
			samePids(t, before, site.mustBeReady(t))
		})
	}
	site.mustHaveUser(t, "before-the-damage")
}

// mustHaveCopy waits until what is wanted now is in a rolling copy of the store.
func (w *world) mustHaveCopy(t *testing.T) {
	t.Helper()
	store := filepath.Join(w.root, "state", "store")
	began := time.Now()
	eventually(t, time.Minute, "the store has a new copy", func() error {
		all, err := filepath.Glob(filepath.Join(store, "copies", "*.db"))
		if err != nil || len(all) == 0 {
			return fmt.Errorf("%v %w", all, err)
		}
		info, err := os.Stat(slices.Max(all))
		// No change of what is wanted is on its way, so one that is older than
		// this question has everything once the copier has had its time.
		if err == nil && info.ModTime().Before(began) && time.Since(began) < 8*time.Second {
			err = fmt.Errorf("the newest is of %s", info.ModTime())
		}
		return err
	})
}

// Scenario 10, the engine: its root is a cache. Deleted or broken, with the
// containers alive or dead, it is built anew and nothing of the site is lost.
func TestDamagedEngine(t *testing.T) {
	metadata := filepath.Join("io.containerd.metadata.v1.bolt", "meta.db")
	var ways []damage
	ways = append(ways, damage{"deleted", func(root string) error { return os.RemoveAll(root) }})
	for _, d := range fileDamages {
		ways = append(ways, damage{"metadata " + d.name, func(root string) error { return d.do(filepath.Join(root, metadata)) }})
	}
	ways = append(ways, damage{"image contents truncated", func(root string) error {
		return filepath.WalkDir(filepath.Join(root, "io.containerd.content.v1.content", "blobs"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				err = os.Truncate(path, 10)
			}
			return err
		})
	}})
	if !full {
		// Each costs a start of everything.
		dice.Shuffle(len(ways)-1, func(i, j int) { ways[1+i], ways[1+j] = ways[1+j], ways[1+i] })
		ways = ways[:2]
	}
	for number, how := range ways {
		dead := number%2 == 1
		t.Run(fmt.Sprintf("%s, containers dead %v", how.name, dead), func(t *testing.T) {
			before := site.mustBeReady(t)
			clean := site.inventory(t)
			site.makeUser(t, "before-the-loss")
			seq := site.lastSeq(t)
			site.daemon.kill(syscall.SIGKILL)
			if dead {
				for _, s := range before.Services {
					_ = syscall.Kill(s.PID, syscall.SIGKILL) // it may have gone with another
				}
			}
			if err := how.do(filepath.Join(site.root, "state", "engine")); err != nil {
				t.Fatal(err)
			}
			site.mustStartDaemon(t)
			after := site.mustBeReady(t)
			site.mustHaveUser(t, "before-the-loss")
			if after.Generation != before.Generation {
				t.Errorf("generation %d became %d", before.Generation, after.Generation)
			}
			for _, e := range site.events(t, seq) {
				if e.Kind == record.JobStarted {
					t.Errorf("what was done is done again: %+v", e)
				}
			}
			if code, _, err := site.get(t.Context(), host, "/heartbeat"); err != nil || code != 200 {
				t.Errorf("afterwards: %d %v", code, err)
			}
			// New downloads are not always what the old ones were byte by byte
			// (a blob that no image needs any more may have gone), but nothing
			// else may be left.
			for _, name := range []string{"blob", "snapshot"} {
				delete(clean, name)
			}
			eventually(t, 20*time.Second, "nothing is left behind", func() error {
				now := site.inventory(t)
				delete(now, "blob")
				delete(now, "snapshot")
				if lines := now.against(clean); len(lines) > 0 {
					return fmt.Errorf("%s", strings.Join(lines, "\n"))
				}
				return nil
			})
		})
	}
}
