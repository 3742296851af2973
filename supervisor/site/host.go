package site

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
)

// MemoryFromMachine is Host.MemoryFrom where no cgroup sets a limit.
const MemoryFromMachine = "the machine's"

// DetectHost measures this machine. A limit on the cgroup that the process
// runs in, or on one above it, counts as the machine's memory and cores: a
// container or a virtual private server of the cheap kind has no more.
func DetectHost() (Host, error) { return detectHost(os.DirFS("/")) }

// detectHost reads from a root folder, which tests make up.
func detectHost(root fs.FS) (Host, error) {
	var h Host
	info, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return h, fmt.Errorf("measure the machine's memory: %w", err)
	}
	if h.Memory, err = memTotal(info); err != nil {
		return h, err
	}
	h.MemoryFrom = MemoryFromMachine
	h.Swap, _ = memField(info, "SwapTotal:") // a kernel built without swap has none
	status, err := fs.ReadFile(root, "proc/self/status")
	if err != nil {
		return h, fmt.Errorf("count the machine's cores: %w", err)
	}
	// The affinity mask of the process, not the number of processors: taskset
	// and cpuset limits count, and the numbers match what containers get.
	if h.Cores, err = allowedCores(status); err != nil {
		return h, err
	}
	_, err = fs.Stat(root, "proc/net/if_inet6")
	h.IPv6 = err == nil
	h.Range6 = localRange6(root)

	table, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil // a kernel without cgroups limits nothing
	}
	if err != nil {
		return h, fmt.Errorf("find the cgroup of this process: %w", err)
	}
	for _, l := range limitFiles(table) {
		n, ok := readLimit(root, l)
		switch {
		case !ok:
		case l.cores:
			h.Cores = min(h.Cores, int(max(1, n)))
		case Bytes(n) < h.Memory:
			h.Memory, h.MemoryFrom = Bytes(n), "/"+l.file
		}
	}
	return h, nil
}

func memTotal(info []byte) (Bytes, error) {
	if n, ok := memField(info, "MemTotal:"); ok && n > 0 {
		return n, nil
	}
	return 0, errors.New("measure the machine's memory: /proc/meminfo has no MemTotal")
}

// memField reads a line of /proc/meminfo.
func memField(info []byte, name string) (Bytes, bool) {
	for line := range strings.Lines(string(info)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) == 2 && fields[1] == "kB" {
			if n, err := strconv.ParseInt(fields[0], 10, 53); err == nil && n >= 0 {
				return Bytes(n) * KiB, true // the kernel's kB are KiB
			}
		}
	}
	return 0, false
}

func allowedCores(status []byte) (int, error) {
	for line := range strings.Lines(string(status)) {
		list, ok := strings.CutPrefix(line, "Cpus_allowed_list:")
		if !ok {
			continue
		}
		count := 0
		for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			a, errA := strconv.ParseUint(first, 10, 16)
			b, errB := strconv.ParseUint(last, 10, 16)
			if errA != nil || errB != nil || b < a {
				return 0, fmt.Errorf("count the machine's cores: /proc/self/status says %q", strings.TrimSpace(list))
			}
			count += int(b-a) + 1 //nolint:gosec // 16 bits
		}
		if count > 0 {
			return count, nil
		}
	}
	return 0, errors.New("count the machine's cores: /proc/self/status has no Cpus_allowed_list")
}

// limit is a cgroup file with a limit of this process or of a group above.
type limit struct {
	file  string
	cores bool // a processor quota: cores, rounded down
}

// limitFiles lists the files of every group from this process's up to the
// root, for both cgroup versions, from /proc/self/cgroup (cgroups(7)).
func limitFiles(table []byte) []limit {
	var files []limit
	scan := bufio.NewScanner(bytes.NewReader(table))
	for scan.Scan() {
		parts := strings.SplitN(scan.Text(), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		for group := path.Clean(parts[2]); ; group = path.Dir(group) {
			for controller := range strings.SplitSeq(parts[1], ",") {
				switch controller {
				case "":
					// Unified, or the unified part of a hybrid layout.
					for _, mount := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"} {
						files = append(files,
							limit{file: path.Join(mount, group, "memory.max")},
							limit{file: path.Join(mount, group, "cpu.max"), cores: true})
					}
				case "memory":
					files = append(files, limit{file: path.Join("sys/fs/cgroup/memory", group, "memory.limit_in_bytes")})
				case "cpu":
					files = append(files, limit{file: path.Join("sys/fs/cgroup/cpu", group, "cpu.cfs_quota_us"), cores: true})
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return files
}

// readLimit reads a limit; no file, "max" and v1's "-1" and huge values mean
// that there is none.
func readLimit(root fs.FS, l limit) (int64, bool) {
	data, err := fs.ReadFile(root, l.file)
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(data))
	if len(fields) == 0 || len(fields) > 2 {
		return 0, false
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || n <= 0 {
		return 0, false
	}
	if !l.cores {
		return n, n < math.MaxInt64/2
	}
	period := int64(100_000)
	if len(fields) == 2 {
		period, err = strconv.ParseInt(fields[1], 10, 64)
	} else if data, readErr := fs.ReadFile(root, path.Join(path.Dir(l.file), "cpu.cfs_period_us")); readErr == nil {
		period, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	if err != nil || period <= 0 {
		return 0, false
	}
	return n / period, true
}

// localRange6 makes the unique local /64 of this machine: RFC 4193 wants 40
// random bits, here of the machine's id, so that they stay the same.
func localRange6(root fs.FS) netip.Prefix {
	// Without an id all machines share one range, which is private to each.
	id, _ := fs.ReadFile(root, "etc/machine-id")
	sum := sha256.Sum256(append([]byte("tarima site range\n"), bytes.TrimSpace(id)...))
	a := [16]byte{0xfd}
	copy(a[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}
