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
		large := small + rapid.OneOf(rapid.Int64Range(0, 256*mib), rapid.Int64Range(0, 64<<30)).Draw(t, "more")
		off := rapid.SliceOfDistinct(rapid.SampledFrom(site.OptionalServices()), rapid.ID).Draw(t, "off")
		fixed := rapid.MapOfN(rapid.SampledFrom(site.ServiceNames()), rapid.Int64Range(mib, 1<<30), 0, 2).Draw(t, "fixed")
		on := func(n string) bool { return !slices.Contains(off, n) }
		a, err := Size(small, cores, on, fixed)
		if errors.Is(err, ErrTooSmall) && len(fixed) > 0 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := Size(large, cores, on, fixed)
		if err != nil {
			t.Fatal(err)
		}
		if a.Missing < b.Missing || HostNeeds(a).Swap < HostNeeds(b).Swap {
			t.Fatalf("more memory, and more is missing: %d and %d", a.Missing, b.Missing)
		}
		if b.LMSProcesses < a.LMSProcesses || b.CMSProcesses < a.CMSProcesses || b.LMSConcurrency < a.LMSConcurrency ||
			b.CMSConcurrency < a.CMSConcurrency || b.InnoDBPool < a.InnoDBPool || b.WiredTigerCache < a.WiredTigerCache ||
			b.RedisMemory < a.RedisMemory || b.CacheMemory < a.CacheMemory || b.SearchIndexing < a.SearchIndexing {
			t.Fatalf("less with more memory: %+v and %+v", a, b)
		}
		for name, limit := range a.Limits {
			if b.Limits[name] < limit {
				t.Fatalf("%s: %d MiB with %d, %d MiB with %d", name, limit/mib, small/mib, b.Limits[name]/mib, large/mib)
			}
		}
	})
}

// TestMemoryIsUsed: no more than a few MiB stay behind while a service could
// still use them.
func TestMemoryIsUsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		memory := rapid.Int64Range(2000*mib, 128<<30).Draw(t, "memory")
		cores := rapid.IntRange(1, 64).Draw(t, "cores")
		s, err := Size(memory, cores, allOn, nil)
		if err != nil {
			t.Fatal(err)
		}
		left := s.Memory - s.Reserve
		full := true
		for _, sh := range shares(cores) {
			left -= s.Limits[sh.service]
			full = full && (sh.weight == 0 || s.Limits[sh.service] >= sh.most*mib)
		}
		if !full && left > int64(len(shares(cores)))*mib {
			t.Fatalf("%d MiB stay unused", left/mib)
		}
	})
}

// TestExplain: every number of a size is told with a reason, for any host.
func TestExplain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		memory := rapid.Int64Range(2000*mib, 128<<30).Draw(t, "memory")
		cores := rapid.IntRange(1, 64).Draw(t, "cores")
		off := rapid.SliceOfDistinct(rapid.SampledFrom(site.OptionalServices()), rapid.ID).Draw(t, "off")
		on := func(n string) bool { return !slices.Contains(off, n) }
		e, err := Explain(memory, cores, on, nil)
		if err != nil {
			t.Fatal(err)
		}
		if e.NextMemory <= memory || e.NextCores < cores {
			t.Fatalf("the next size up of %d bytes and %d cores is %d and %d", memory, cores, e.NextMemory, e.NextCores)
		}
		sum, limits := int64(0), 0
		for _, n := range e.Numbers {
			if n.From == "" || n.Value < 0 || n.Unit != "bytes" && n.Unit != "count" {
				t.Fatalf("%+v", n)
			}
			if n.Service != "" && !on(n.Service) {
				t.Fatalf("a number of a service that is off: %+v", n)
			}
			if n.Name == "limit" || n.Name == "reserve" {
				sum += n.Value
				limits++
			}
		}
		if limits != len(e.Sizes.Limits)+1 || sum > memory {
			t.Fatalf("%d limits, in all %d of %d bytes", limits, sum, memory)
		}
	})
}

func TestHostNeeds(t *testing.T) {
	for _, c := range []struct {
		missing, swap int64
	}{{0, 0}, {1, 1 << 30}, {1 << 30, 1 << 30}, {1<<30 + 1, 2 << 30}} {
		got := HostNeeds(Sizes{Missing: c.missing})
		if got.Swap != c.swap || got.Disk != guideDisk+c.swap {
			t.Errorf("%d missing: %+v", c.missing, got)
		}
	}
}
