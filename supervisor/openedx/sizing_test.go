package openedx

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarima/supervisor/site"
)

func allOn(string) bool { return true }

// TestSizes is the table of the documentation.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		gib, cores                      int
		tight                           bool
		lms, cms, lmsChild, cmsChildren int
	}{
		{2, 1, true, 1, 1, 1, 1},
		{4, 2, false, 1, 1, 1, 1},
		{8, 2, false, 3, 1, 2, 1},
		{16, 4, false, 8, 3, 4, 2},
		{32, 8, false, 16, 8, 8, 4},
		{64, 16, false, 32, 16, 16, 8},
	} {
		s, err := Size(int64(c.gib)<<30, c.cores, allOn, nil)
		if err != nil {
			t.Errorf("%d GiB: %v", c.gib, err)
			continue
		}
		t.Logf("%d GiB, %d cores: %d+%d web, %d+%d children, InnoDB %d, WiredTiger %d, Redis %d, caches %d MiB; %s",
			c.gib, c.cores, s.LMSProcesses, s.CMSProcesses, s.LMSConcurrency, s.CMSConcurrency,
			s.InnoDBPool/mib, s.WiredTigerCache/mib, s.RedisMemory/mib, s.CacheMemory/mib, s.Tight)
		if (s.Tight != "") != c.tight || s.LMSProcesses != c.lms || s.CMSProcesses != c.cms ||
			s.LMSConcurrency != c.lmsChild || s.CMSConcurrency != c.cmsChildren {
			t.Errorf("%d GiB: got %d+%d web, %d+%d children, tight %q", c.gib, s.LMSProcesses, s.CMSProcesses, s.LMSConcurrency, s.CMSConcurrency, s.Tight)
		}
	}
}

// TestSizesFit: for any host and any wish the limits fit, or the wish is
// refused; and what follows from a limit fits into it.
func TestSizesFit(t *testing.T) {
	names := site.ServiceNames()
	rapid.Check(t, func(t *rapid.T) {
		memory := rapid.Int64Range(1, 1<<38).Draw(t, "memory")
		cores := rapid.IntRange(1, 128).Draw(t, "cores")
		off := rapid.SliceOfDistinct(rapid.SampledFrom(site.OptionalServices()), rapid.ID).Draw(t, "off")
		fixed := rapid.MapOfN(rapid.SampledFrom(names), rapid.Int64Range(mib, 1<<36), 0, 4).Draw(t, "fixed")
		on := func(n string) bool { return !slices.Contains(off, n) }
		s, err := Size(memory, cores, on, fixed)
		if err != nil {
			if !errors.Is(err, ErrTooSmall) {
				t.Fatal(err)
			}
			if memory > 2<<30 && len(fixed) == 0 {
				t.Fatalf("refused %d bytes: %v", memory, err)
			}
			return
		}
		sum := s.Reserve
		for _, n := range names {
			limit, has := s.Limits[n]
			if has != on(n) || has && limit <= 0 {
				t.Fatalf("%s: limit %d", n, limit)
			}
			sum += limit
			if want := fixed[n]; on(n) && want > 0 && limit != want {
				t.Fatalf("%s: %d instead of the %d asked for", n, limit, want)
			}
		}
		if sum > memory {
			t.Fatalf("limits and reserve sum up to %d of %d", sum, memory)
		}
		if s.LMSProcesses < 1 || s.CMSProcesses < 1 || s.LMSConcurrency < 1 || s.CMSConcurrency < 1 ||
			s.LMSProcesses > 2*cores || s.LMSConcurrency > cores {
			t.Fatalf("%+v", s)
		}
		for inner, outer := range map[int64]int64{s.RedisMemory: s.Limits["redis"], s.CacheMemory: s.Limits["redis-cache"]} {
			if inner >= outer {
				t.Fatalf("%d within %d", inner, outer)
			}
		}
		if len(fixed) == 0 && (s.InnoDBPool >= s.Limits["mysql"] || s.WiredTigerCache >= s.Limits["mongodb"]) {
			t.Fatalf("caches larger than their servers: %+v", s)
		}
	})
}

// TestMoreMemoryNeverTakesAway: a larger host gives every service at least as
// much.
func TestMoreMemoryNeverTakesAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cores := rapid.IntRange(1, 32).Draw(t, "cores")
		small := rapid.Int64Range(2000*mib, 64<<30).Draw(t, "small")
		large := small + rapid.Int64Range(0, 64<<30).Draw(t, "more")
		a, err := Size(small, cores, allOn, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Size(large, cores, allOn, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, limit := range a.Limits {
			// Rounding in the division may move a MiB between services.
			if b.Limits[name] < limit-16*mib {
				t.Fatalf("%s: %d MiB with %d, %d MiB with %d", name, limit/mib, small/mib, b.Limits[name]/mib, large/mib)
			}
		}
	})
}
