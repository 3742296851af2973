package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarima/store/record"
)

// putAside makes a damaged root of that age with a file of 64 KiB.
func putAside(t *testing.T, root string, at time.Time) string {
	t.Helper()
	path := asideName(root, at)
	if err := os.MkdirAll(filepath.Join(path, "in", "it"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "in", "it", "layer"), make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOldDamagedRootsAreDeleted(t *testing.T) {
	now := time.Date(2026, 5, 20, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for name, in := range map[string]struct {
		ages []time.Duration
		kept []time.Duration
	}{
		"none":                       {},
		"a fresh one":                {[]time.Duration{0}, []time.Duration{0}},
		"six days":                   {[]time.Duration{6 * day}, []time.Duration{6 * day}},
		"eight days":                 {[]time.Duration{8 * day}, nil},
		"three, the newest is fresh": {[]time.Duration{2 * day, day, 3 * day}, []time.Duration{day}},
		"two old ones":               {[]time.Duration{9 * day, 20 * day}, nil},
		"from a clock that was fast": {[]time.Duration{-day, day}, []time.Duration{-day}},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := startingAppliance(t)
			root := a.paths.engineRoot()
			for _, age := range in.ages {
				putAside(t, root, now.Add(-age))
			}
			// What is not a damaged root of ours stays whatever its age.
			others := []string{root, root + asideMark + "by-hand", root + asideMark + "2026"}
			for _, path := range others {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			a.dropDamagedNow(now)
			var want []string
			for _, age := range in.kept {
				want = append(want, asideName(root, now.Add(-age)))
			}
			got, err := filepath.Glob(root + "*")
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, others...)
			slices.Sort(want)
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("there is %q, want %q", got, want)
			}
			events, err := a.store.Events(defaultSite, 0, 10)
			if err != nil || len(events) != len(in.ages)-len(in.kept) {
				t.Errorf("events: %+v, %v", events, err)
			}
			for _, e := range events {
				if e.Kind != record.Cleaned || !strings.Contains(e.Reason, root+asideMark) || !strings.Contains(e.Reason, " KB)") {
					t.Errorf("event: %+v", e)
				}
			}
		})
	}
}

func TestDamagedRootWithAMountStays(t *testing.T) {
	a, logged := startingAppliance(t)
	path := putAside(t, a.paths.engineRoot(), time.Now().Add(-8*24*time.Hour))
	mounted := filepath.Join(path, "in")
	if err := unix.Mount("none", mounted, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	unmount := func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) }
	t.Cleanup(unmount)
	a.dropDamagedNow(time.Now())
	if _, err := os.Stat(path); err != nil || !strings.Contains(logged.String(), "mounted at "+mounted) {
		t.Errorf("%v; log: %s", err, logged)
	}
	unmount()
	a.dropDamagedNow(time.Now())
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestDoctorNamesDamagedRoots(t *testing.T) {
	p := newPaths(t.TempDir())
	path := putAside(t, p.engineRoot(), time.Date(2026, 5, 20, 12, 0, 0, 0, time.UTC))
	if err := os.Link(filepath.Join(path, "in/it/layer"), filepath.Join(path, "again")); err != nil {
		t.Fatal(err)
	}
	size, err := sizeOf(path)
	if err != nil || size < 64<<10 || size >= 128<<10 {
		t.Errorf("a file with two names takes %d bytes, %v", size, err)
	}
	findings := examineDamaged(p.engineRoot())
	if len(findings) != 1 || findings[0].Code != "ENGINE-DAMAGED" || findings[0].Level != levelInfo ||
		!strings.Contains(findings[0].Text, path+" (") || !strings.Contains(findings[0].Text, "after 2026-05-27") {
		t.Errorf("findings: %+v", findings)
	}
}
