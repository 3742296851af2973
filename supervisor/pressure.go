package supervisor

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Pressure says whether the host is too short of something for a restart to
// help. Its zero value means that it is not.
type Pressure struct {
	Reason string // one sentence; "" means none
}

// Thresholds of pressure, in percent of the last ten seconds in which every
// process ("full") waited. On a healthy host both stay near zero; from these
// values on, a probe's time-out says more of the host than of the service.
const (
	memoryPressureFull = 10.0
	ioPressureFull     = 40.0
	// Without pressure figures the share of memory that is still available
	// decides.
	memoryAvailableLeast = 0.04
)

// HostPressure reads the host's pressure figures below proc (usually "/proc").
// A kernel without them is asked for its available memory instead.
func HostPressure(proc string) Pressure {
	memory, okMemory := pressureFull(filepath.Join(proc, "pressure", "memory"))
	if okMemory && memory >= memoryPressureFull {
		return Pressure{Reason: fmt.Sprintf("the host is short of memory (every process waited %.0f %% of the last 10 s)", memory)}
	}
	if io, ok := pressureFull(filepath.Join(proc, "pressure", "io")); ok && io >= ioPressureFull {
		return Pressure{Reason: fmt.Sprintf("the host's disks cannot keep up (every process waited %.0f %% of the last 10 s)", io)}
	}
	if okMemory {
		return Pressure{}
	}
	total, available, ok := memInfo(filepath.Join(proc, "meminfo"))
	if ok && float64(available) < float64(total)*memoryAvailableLeast {
		return Pressure{Reason: fmt.Sprintf("the host is short of memory (%s of %s available)", bytesText(available), bytesText(total))}
	}
	return Pressure{}
}

// pressureFull reads avg10 of the line "full" (kernel documentation, PSI).
func pressureFull(path string) (float64, bool) {
	data, err := os.ReadFile(path) //nolint:gosec // the path is the kernel's own
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "full" {
			continue
		}
		text, ok := strings.CutPrefix(fields[1], "avg10=")
		if !ok {
			return 0, false
		}
		v, err := strconv.ParseFloat(text, 64)
		return v, err == nil
	}
	return 0, false
}

// memInfo reads MemTotal and MemAvailable in bytes.
func memInfo(path string) (total, available int64, ok bool) {
	f, err := os.Open(path) //nolint:gosec // the path is the kernel's own
	if err != nil {
		return 0, 0, false
	}
	defer func() { _ = f.Close() }() // nothing was written
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			available = n << 10
		}
	}
	return total, available, total > 0 && available > 0
}
