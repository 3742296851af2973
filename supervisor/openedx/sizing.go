package openedx

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sort"
	"strings"
)

const mib = 1 << 20

// Sizes are all numbers that follow from the memory and the cores that the
// site may use.
type Sizes struct {
	Memory  int64 // bytes that the site may use, the reserve included
	Reserve int64 // bytes left to the system and to Tarima itself
	Cores   int
	// Limits in bytes by service. Their sum and the reserve fit the memory.
	Limits map[string]int64
	// Tight says, when the memory holds the services only in part and the
	// rest has to be swapped, how much is missing. "" otherwise.
	Tight string
	// Missing bytes to what would be enough for every service; 0: none.
	Missing int64

	LMSProcesses, CMSProcesses     int   // uWSGI workers
	LMSRecycle, CMSRecycle         int64 // bytes of a web process at which it is replaced
	LMSConcurrency, CMSConcurrency int   // Celery children
	LMSChild, CMSChild             int64 // bytes of a Celery child at which it is replaced

	InnoDBPool      int64 // bytes
	WiredTigerCache int64 // bytes; MongoDB takes no less than 256 MiB
	RedisMemory     int64 // bytes, task queues and sessions
	CacheMemory     int64 // bytes
	SearchIndexing  int64 // bytes that Meilisearch may use to index
}

// share is what a service needs of memory, in MiB.
type share struct {
	service string
	least   int64 // works, slowly
	enough  int64 // works well on a small site
	weight  int64 // of what is left then
	most    int64 // more helps nobody
}

// What a web process and a Celery child of the platform take, in MiB: about
// 500 a web process and 300 a worker, of which a part is shared with the
// process that forked it.
const (
	webShared   = 200
	webProcess  = 450
	workerMain  = 200
	workerChild = 250
)

// What a server or a process is granted at the least, in bytes.
const (
	leastProcess    = 128 * mib // a web process or a Celery child before it is replaced
	leastInnoDB     = 32 * mib
	leastWiredTiger = 256 * mib // MongoDB refuses less than 0.25 GiB; it fills it only with data in use
	leastIndexing   = 16 * mib
)

func shares(cores int) []share {
	c := int64(cores)
	return []share{
		{"lms", 330, 700, 30, webShared + webProcess*2*c + 200},
		{"cms", 260, 650, 10, webShared + webProcess*max(1, c) + 200},
		{"lms-worker", 190, 450, 10, workerMain + workerChild*c + 200},
		{"cms-worker", 170, 450, 6, workerMain + workerChild*max(1, c/2) + 200},
		{"mysql", 180, 384, 20, 16384},
		{"mongodb", 300, 400, 10, 8192},
		{"redis", 32, 96, 4, 1024},
		{"redis-cache", 24, 64, 4, 1024},
		{"meilisearch", 56, 128, 6, 2048},
		{"smtp", 20, 32, 0, 32},
		{"scheduler", 40, 64, 0, 64},
		{"mfe", 28, 48, 0, 48},
	}
}

// Size shares memory bytes out among the enabled services. fixed limits, in
// bytes by service, are taken as they are. The error wraps ErrTooSmall.
func Size(memory int64, cores int, enabled func(service string) bool, fixed map[string]int64) (Sizes, error) {
	if memory <= 0 || cores <= 0 {
		return Sizes{}, fmt.Errorf("%w: %d MiB and %d cores", ErrTooSmall, memory/mib, cores)
	}
	// The kernel's own need changes with each of its versions by a little.
	memory = memory / (32 * mib) * (32 * mib)
	s := Sizes{
		Memory: memory, Cores: cores,
		Reserve: min(max(memory/10, 200*mib), 2048*mib),
		Limits:  map[string]int64{},
	}
	left := (memory - s.Reserve) / mib
	var open []share
	var least, enough int64
	for _, sh := range shares(cores) {
		switch {
		case !enabled(sh.service):
		case fixed[sh.service] > 0:
			s.Limits[sh.service] = fixed[sh.service]
			left -= (fixed[sh.service] + mib - 1) / mib
		default:
			open = append(open, sh)
			least += sh.least
			enough += sh.enough
		}
	}
	if left < least {
		var named string
		if len(fixed) > 0 {
			names := make([]string, 0, len(fixed))
			for name := range fixed {
				names = append(names, name)
			}
			slices.Sort(names)
			named = "; the site file grants its own limits to " + strings.Join(names, ", ")
		}
		return Sizes{}, fmt.Errorf("%w: the services need %d MiB more than the %d MiB of size.memory%s",
			ErrTooSmall, least-left, memory/mib, named)
	}

	limits := fill(open, left, least, enough)
	for name, m := range limits {
		s.Limits[name] = m * mib
	}
	if left < enough {
		s.Missing = (enough - left) * mib
		s.Tight = fmt.Sprintf("%d MiB are granted to the services, %d MiB would be enough: expect slowness, and have swap",
			left, enough)
	}

	// From here on numbers are rounded to steps: they are what a service is
	// started with, and a change of a few MiB elsewhere must not restart it.
	s.LMSProcesses, s.LMSRecycle = webNumbers(s.Limits["lms"], webMost(lms, cores))
	s.CMSProcesses, s.CMSRecycle = webNumbers(s.Limits["cms"], webMost(cms, cores))
	s.LMSConcurrency, s.LMSChild = workerNumbers(s.Limits["lms-worker"], childrenMost(lms, cores))
	s.CMSConcurrency, s.CMSChild = workerNumbers(s.Limits["cms-worker"], childrenMost(cms, cores))
	s.InnoDBPool = innoDBPool(s.Limits["mysql"])
	s.WiredTigerCache = max(leastWiredTiger, step((s.Limits["mongodb"]-200*mib)*6/10))
	// Redis needs room beside its data: buffers, and copies of written pages
	// while it rewrites its file.
	s.RedisMemory = step(s.Limits["redis"] * 6 / 10)
	s.CacheMemory = step(s.Limits["redis-cache"] * 7 / 10)
	s.SearchIndexing = max(leastIndexing, step(s.Limits["meilisearch"]/2))
	return s, nil
}

// fill shares left MiB out: between least and enough evenly, above enough by
// weight up to most.
func fill(open []share, left, least, enough int64) map[string]int64 {
	out := make(map[string]int64, len(open))
	if left < enough {
		for _, sh := range open {
			out[sh.service] = sh.least + (sh.enough-sh.least)*(left-least)/(enough-least)
		}
		return out
	}
	// The highest level at which everything fits: each service has what is
	// enough and its weight times the level, up to its most. Because every
	// service grows with the level and the level grows with the memory, more
	// memory never takes from a service.
	at := func(sh share, level int64) int64 {
		return min(sh.enough+sh.weight*level/levelSteps, max(sh.enough, sh.most))
	}
	level := int64(sort.Search(int(left)*levelSteps, func(n int) bool {
		sum := int64(0)
		for _, sh := range open {
			sum += at(sh, int64(n)+1)
		}
		return sum > left
	}))
	for _, sh := range open {
		out[sh.service] = at(sh, level)
	}
	return out
}

// levelSteps is how many levels share out one MiB for each unit of weight: a
// level more moves less than one MiB of any service.
const levelSteps = 32

// webNumbers: how many uWSGI processes fit, and how large one may grow.
func webNumbers(limit int64, most int) (processes int, recycle int64) {
	n := (limit/mib - webShared) / webProcess
	n = min(max(n, 1), int64(most))
	// The shared part counts in each process's size but only once in the
	// limit; a tenth is left for requests in between two checks.
	const shared = 300 * mib
	return int(n), max(leastProcess, step(shared+(limit*9/10-shared)/n))
}

// workerNumbers: how many Celery children fit, and how large one may grow.
func workerNumbers(limit int64, most int) (children int, size int64) {
	n := (limit/mib - workerMain) / workerChild
	n = min(max(n, 1), int64(most))
	const shared = 150 * mib
	return int(n), max(leastProcess, step(shared+(limit*9/10-workerMain*mib)/n))
}

// step rounds down to an eighth of the power of two below, and to whole MiB.
func step(n int64) int64 {
	if n < 16*mib {
		return max(0, n/mib*mib)
	}
	unit := int64(1) << (bits.Len64(uint64(n)) - 4) //nolint:gosec // positive
	return n / unit * unit
}

// innoDBPool leaves MySQL its own 200 MiB or so. From 128 MiB on the server
// rounds up to whole chunks of that size, so the number is rounded down to
// them here.
func innoDBPool(limit int64) int64 {
	const chunk = 128 * mib
	pool := max(leastInnoDB, (limit-220*mib)*3/4)
	if pool >= chunk {
		return pool / chunk * chunk
	}
	return pool / (16 * mib) * (16 * mib)
}

// wiredTigerGB is bytes as mongod's option wants them.
func wiredTigerGB(bytes int64) string {
	return fmt.Sprintf("%.2f", math.Floor(float64(bytes)/(1<<30)*100)/100)
}
