//go:build e2e

package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/supervisor"
)

// onlyRedis keeps a site to its two smallest servers: no other image exists.
const onlyRedis = `[images.use]
openedx = "registry.test/missing:1"
mysql = "registry.test/missing:1"
mongodb = "registry.test/missing:1"
meilisearch = "registry.test/missing:1"
smtp = "registry.test/missing:1"
mfe = "registry.test/missing:1"
`

// smallDisk mounts a file system of that size, which a reboot of the world takes
// away again.
func smallDisk(t *testing.T, path, size string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tarima-e2e", path, "tmpfs", 0, "mode=0711,size="+size); err != nil {
		t.Fatal(err)
	}
}

// fillDisk writes until the file system of a folder is full, and returns what
// makes space again.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, size := range []int64{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = io.CopyN(file, rand.Reader, size)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// Scenario 10, a full disk, in a small site of its own: during a pull, under the
// logs, under the store.
func TestFullDisk(t *testing.T) {
	w := newSmallWorld(t, "disk")
	engine, store, logs := filepath.Join(w.root, "state", "engine"), filepath.Join(w.root, "state", "store"), filepath.Join(w.root, "log", "default")
	smallDisk(t, engine, "70m") // the shim is a third of it
	smallDisk(t, store, "8m")
	smallDisk(t, logs, "1m")
	if err := w.writeSiteFile(onlyRedis); err != nil {
		t.Fatal(err)
	}
	w.mustStartDaemon(t)

	t.Run("pull", func(t *testing.T) {
		one := w.mustSee(t, time.Minute, "redis-cache", "says how much space it lacks", func(s supervisor.ServiceStatus) bool {
			return s.State == supervisor.StatePulling && strings.Contains(s.Why, "space") && strings.Contains(s.Why, "are needed on "+engine)
		})
		t.Logf("it says: %s", one.Why)
		if err := syscall.Mount("tarima-e2e", engine, "tmpfs", syscall.MS_REMOUNT, "mode=0711,size=700m"); err != nil {
			t.Fatal(err)
		}
		w.mustRun(t, 2*time.Minute, "redis", "redis-cache")
	})

	t.Run("log", func(t *testing.T) {
		before := w.mustRun(t, time.Minute, "redis", "redis-cache")
		free := fillDisk(t, logs)
		// The last page of the file has room for some lines: until a whole run of
		// the server has found none.
		written := func() int64 {
			info, err := os.Stat(filepath.Join(logs, "redis-cache.log"))
			if err != nil {
				t.Fatal(err)
			}
			return info.Size()
		}
		now := service(before, "redis-cache")
		for size, tries := int64(-1), 0; size != written(); tries++ {
			if tries == 20 {
				t.Fatalf("the log has grown to %d bytes on a full disk", written())
			}
			size = written()
			if code, _, stderr := w.run(t, "restart", "redis-cache"); code != 0 {
				t.Fatal(stderr)
			}
			old := now.PID
			now = w.mustSee(t, time.Minute, "redis-cache", "ready although nothing can be logged", func(s supervisor.ServiceStatus) bool {
				return s.State == supervisor.StateReady && s.PID != 0 && s.PID != old
			})
		}
		free()
		since := time.Now()
		if err := syscall.Kill(now.PID, syscall.SIGTERM); err != nil { // it says goodbye in its log
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "the log goes on", func() error {
			code, out, stderr := w.run(t, "logs", "redis-cache", "--since", since.Format(time.RFC3339Nano))
			if code != 0 || !strings.Contains(out, "were not written: ") || !strings.Contains(out, "bye bye") {
				return fmt.Errorf("exit %d, want what is missing and a goodbye: %s%s", code, out, stderr)
			}
			return nil
		})
		samePids(t, before, w.mustRun(t, time.Minute, "redis", "redis-cache"), "redis-cache")
	})

	t.Run("store", func(t *testing.T) {
		before := w.mustRun(t, time.Minute, "redis", "redis-cache")
		free := fillDisk(t, store)
		// Small records find free pages in the file. A site file of a quarter of a megabyte
		// does not.
		large := w.siteFile(onlyRedis) + strings.Repeat("# a remark that only makes it long\n", 7_000)
		if err := w.write(large); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := w.run(t, "apply")
		if code != 1 || !strings.Contains(stderr, "space") {
			t.Errorf("a full store says with exit code %d, want 1: %.300s", code, stderr)
		}
		t.Logf("it says: %.300s", stderr)
		if now := w.status(t); now.Generation != before.Generation {
			t.Errorf("generation %d became %d", before.Generation, now.Generation)
		}
		// What was said to be done must be so, and what could not be, not.
		stopped := false
		if code, _, stderr := w.run(t, "stop", "redis-cache"); code == 0 {
			stopped = true
		} else if !strings.Contains(stderr, "space") {
			t.Errorf("stop says with exit code %d: %s", code, stderr)
		}
		w.restartDaemon(t)
		check := func(when string) {
			w.mustSee(t, time.Minute, "redis-cache", when+": as it was asked last", func(s supervisor.ServiceStatus) bool {
				return stopped == (s.State == supervisor.StateStopped) && stopped == (s.PID == 0)
			})
		}
		check("while the store is full")
		free()
		for _, verb := range []string{"stop", "start"} {
			eventually(t, 30*time.Second, verb+" works again", func() error {
				if code, _, stderr := w.run(t, verb, "redis-cache"); code != 0 {
					return errors.New(stderr)
				}
				return nil
			})
			stopped = verb == "stop"
			check("after " + verb)
		}
		// The site file that found no space is wanted, and has it now.
		if code, _, stderr := w.run(t, "apply"); code != 0 {
			t.Errorf("apply with space: exit %d: %.300s", code, stderr)
		}
		after := w.mustRun(t, time.Minute, "redis", "redis-cache")
		samePids(t, before, after, "redis-cache")
		if after.Generation != before.Generation+1 {
			t.Errorf("generation %d became %d", before.Generation, after.Generation)
		}
	})
}
