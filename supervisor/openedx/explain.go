package openedx

import (
	"slices"

	"tarima/supervisor/site"
)

// Origin says where a number of a size comes from. Origins are codes, for
// programs and for the message files.
type Origin string

// Origins of numbers.
const (
	FromHost     Origin = "host"      // measured, or as the site file or the command line say
	FromSiteFile Origin = "site-file" // services.NAME.memory
	FromTight    Origin = "tight"     // between what a service works with and what is enough: the memory holds no more
	FromShare    Origin = "share"     // what is enough, and a share of what is left by weight
	FromMost     Origin = "most"      // more would help nobody
	FromCores    Origin = "cores"     // as many as the cores keep busy
	FromLimit    Origin = "limit"     // as much as the service's own limit holds
	FromLeast    Origin = "least"     // the server takes no less
	FromRule     Origin = "rule"      // a tenth of the memory, from 200 MiB to 2 GiB
	FromMissing  Origin = "missing"   // what the memory lacks, in whole GiB
	FromGuide    Origin = "guide"     // 25 GB as published by Tutor's requirements, and the swap
)

// Number is one number of a size, explained.
type Number struct {
	Service string `json:"service,omitempty"` // "": of the whole site
	// Name is what it is: memory, cores, reserve, swap, disk, limit,
	// processes, recycle, children, child, pool, cache, data, indexing.
	Name  string `json:"name"`
	Value int64  `json:"value"`
	Unit  string `json:"unit"` // "bytes" or "count"
	From  Origin `json:"from"`
	// Next is the value that the next size up would give.
	Next int64 `json:"next"`
}

// Explanation of a size: every number, and what the next size up would buy.
type Explanation struct {
	Sizes    Sizes    `json:"-"`
	Tight    string   `json:"tight,omitempty"` // as in Sizes
	OnDemand []string `json:"onDemand"`        // services that are started when they are needed
	// NextMemory (bytes) and NextCores are the next size up.
	NextMemory int64    `json:"nextMemory"`
	NextCores  int      `json:"nextCores"`
	Numbers    []Number `json:"numbers"`
}

// Usual is a size of servers as they are usually sold.
type Usual struct {
	Memory int64 // bytes
	Cores  int
}

// UsualSizes are the sizes of the documentation's table, smallest first.
func UsualSizes() []Usual {
	return []Usual{{2 << 30, 1}, {4 << 30, 2}, {8 << 30, 2}, {16 << 30, 4}, {32 << 30, 8}, {64 << 30, 16}}
}

// nextUsual is the first usual size with clearly more memory: a server sold
// as 4 GB reports a little less than that, and the next size of it is 8.
func nextUsual(memory int64, cores int) Usual {
	for _, u := range UsualSizes() {
		if u.Memory > memory+memory/8 {
			return Usual{u.Memory, max(u.Cores, cores)}
		}
	}
	return Usual{2 * memory, cores}
}

// Needs of a host beside its memory and cores.
type Needs struct {
	Swap int64 // bytes; 0: works without
	Disk int64 // bytes for system, images, data and a swap file
}

// Disk that Tutor's documentation recommends for the same images and data
// (8 GB at the least, 25 GB recommended), in the unit of file systems.
const guideDisk = 25 << 30

// HostNeeds are the swap and the disk that a size wants. The swap is what the
// memory lacks to be enough, in whole GiB.
func HostNeeds(s Sizes) Needs {
	swap := (s.Missing + 1<<30 - 1) >> 30 << 30
	return Needs{Swap: swap, Disk: guideDisk + swap}
}

// Explain is Size with its reasons. The error wraps ErrTooSmall.
func Explain(memory int64, cores int, enabled func(service string) bool, fixed map[string]int64) (Explanation, error) {
	s, err := Size(memory, cores, enabled, fixed)
	if err != nil {
		return Explanation{}, err
	}
	next := nextUsual(memory, cores)
	larger, err := Size(next.Memory, next.Cores, enabled, fixed)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{
		Sizes: s, Tight: s.Tight, NextMemory: next.Memory, NextCores: next.Cores,
		OnDemand: []string{}, Numbers: numbers(s, enabled, fixed),
	}
	for _, name := range OnDemandServices() {
		if OnDemandAt(memory) && enabled(name) {
			e.OnDemand = append(e.OnDemand, name)
		}
	}
	for i, n := range numbers(larger, enabled, fixed) {
		e.Numbers[i].Next = n.Value // the same services, so the same numbers
	}
	return e, nil
}

// numbers of a size in the order in which people read them.
func numbers(s Sizes, enabled func(string) bool, fixed map[string]int64) []Number {
	needs := HostNeeds(s)
	out := []Number{
		{Name: "memory", Value: s.Memory, Unit: "bytes", From: FromHost},
		{Name: "cores", Value: int64(s.Cores), Unit: "count", From: FromHost},
		{Name: "reserve", Value: s.Reserve, Unit: "bytes", From: FromRule},
		{Name: "swap", Value: needs.Swap, Unit: "bytes", From: FromMissing},
		{Name: "disk", Value: needs.Disk, Unit: "bytes", From: FromGuide},
	}
	all := shares(s.Cores)
	for _, name := range site.ServiceNames() {
		if !enabled(name) {
			continue
		}
		sh := all[slices.IndexFunc(all, func(sh share) bool { return sh.service == name })]
		out = append(out, Number{name, "limit", s.Limits[name], "bytes", limitFrom(s, sh, fixed), 0})
		out = append(out, within(s, name)...)
	}
	return out
}

func limitFrom(s Sizes, sh share, fixed map[string]int64) Origin {
	switch {
	case fixed[sh.service] > 0:
		return FromSiteFile
	case s.Missing > 0:
		return FromTight
	case s.Limits[sh.service] >= sh.most*mib:
		return FromMost
	}
	return FromShare
}

// within are the numbers that follow from a service's limit.
func within(s Sizes, name string) []Number {
	count := func(what string, n, most int) Number {
		from := FromLimit
		switch n {
		case most:
			from = FromCores
		case 1:
			from = FromLeast
		}
		return Number{name, what, int64(n), "count", from, 0}
	}
	size := func(what string, n, least int64) Number {
		from := FromLimit
		if n <= least {
			from = FromLeast
		}
		return Number{name, what, n, "bytes", from, 0}
	}
	switch name {
	case lms:
		return []Number{count("processes", s.LMSProcesses, webMost(lms, s.Cores)), size("recycle", s.LMSRecycle, leastProcess)}
	case cms:
		return []Number{count("processes", s.CMSProcesses, webMost(cms, s.Cores)), size("recycle", s.CMSRecycle, leastProcess)}
	case lmsWorker:
		return []Number{count("children", s.LMSConcurrency, childrenMost(lms, s.Cores)), size("child", s.LMSChild, leastProcess)}
	case cmsWorker:
		return []Number{count("children", s.CMSConcurrency, childrenMost(cms, s.Cores)), size("child", s.CMSChild, leastProcess)}
	case mysql:
		return []Number{size("pool", s.InnoDBPool, leastInnoDB)}
	case mongodb:
		return []Number{size("cache", s.WiredTigerCache, leastWiredTiger)}
	case redis:
		return []Number{size("data", s.RedisMemory, 0)}
	case redisCache:
		return []Number{size("data", s.CacheMemory, 0)}
	case search:
		return []Number{size("indexing", s.SearchIndexing, leastIndexing)}
	}
	return nil
}

// webMost is how many web processes the cores keep busy: a request waits for
// databases about as long as it computes.
func webMost(variant string, cores int) int {
	if variant == lms {
		return 2 * cores
	}
	return max(1, cores)
}

// childrenMost is how many tasks at once leave the processor to the visitors.
func childrenMost(variant string, cores int) int {
	if variant == lms {
		return cores
	}
	return max(1, cores/2)
}
