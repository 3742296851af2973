package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tarima/runtime/container"
)

// idBase is the range of ids of the containers in these tests.
const idBase = 1_000_000_000

func TestUserNamespaceAndIdmappedVolume(t *testing.T) {
	e := newEngine(t)
	if err := e.host.userns(); err != nil {
		t.Fatalf("this machine has no idmapped user namespaces: %v", err)
	}
	volume := filepath.Join(filepath.Dir(e.cfg.Root), "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	// On disk the image's own ids, whatever the container's range is.
	if err := os.Chown(volume, 1000, 1001); err != nil {
		t.Fatal(err)
	}
	spec := shell("mapped", "id -u; id -g; id -G; stat -c %u:%g /etc/passwd /vol; echo data > /vol/file && stat -c %u:%g /vol/file; cat /proc/self/uid_map; sleep 3600")
	spec.User = "app"
	spec.IDBase = idBase
	spec.Mounts = []container.Mount{{Source: volume, Target: "/vol", Idmap: true}}
	status := mustStart(t, e, spec)
	lines := logOf(t, e, spec.ID(), "65536")
	want := []string{"1000", "1001", "1001 1002", "0:0", "1000:1001", "1000:1001"}
	for i, line := range want {
		if i >= len(lines) || lines[i] != line {
			t.Fatalf("inside: %q, want %q", lines, want)
		}
	}
	if fields := strings.Fields(lines[len(want)]); len(fields) != 3 || fields[1] != strconv.Itoa(idBase) {
		t.Errorf("the map of ids is %q", lines[len(want)])
	}
	// Outside nobody owns anything: the process has an id of its own range ...
	if uid := statusField(t, status.PID, "Uid"); strings.Fields(uid)[0] != strconv.Itoa(idBase+1000) {
		t.Errorf("outside, the process has the uids %q", uid)
	}
	// ... and the file the image's.
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "file"), &stat); err != nil || stat.Uid != 1000 || stat.Gid != 1001 {
		t.Errorf("on disk the file belongs to %d:%d, %v", stat.Uid, stat.Gid, err)
	}
	for _, line := range status.Reduced {
		if strings.Contains(line, "user namespace") {
			t.Errorf("reported as reduced: %s", line)
		}
	}
}

func statusField(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in the status of %d", name, pid)
	return ""
}

func TestConfinement(t *testing.T) {
	for _, base := range []uint32{0, idBase} {
		t.Run(fmt.Sprintf("ids from %d", base), func(t *testing.T) {
			e := newEngine(t)
			spec := shell("confined", strings.Join([]string{
				"grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status",
				"touch /x 2>/dev/null && echo root is writable",
				"touch /scratch/x && echo scratch is writable",
				"mount -t tmpfs none /scratch 2>/dev/null && echo may mount",
				"cat /proc/kcore >/dev/null 2>&1 && wc -c < /proc/kcore",
				"echo 1 2>/dev/null > /proc/sys/kernel/panic && echo may write sysctls",
				"ip -o link | wc -l",
				"cat /sys/class/net/lo/operstate",
				"hostname; echo and $(cat /etc/hostname)",
				"cat /proc/self/oom_score_adj",
				"pwd; echo $FROM_IMAGE $BOTH $OF_SPEC",
				"stat -f -c %t:%s /dev/shm",
				"echo done; sleep 3600",
			}, "\n"))
			spec.IDBase = base
			spec.ReadOnlyRoot = true
			spec.Env = []string{"BOTH=spec", "OF_SPEC=yes"}
			spec.OOMScoreAdj = 321
			spec.Mounts = []container.Mount{{Tmpfs: true, Target: "/scratch", Size: 1 << 20, Mode: 0o700}}
			mustStart(t, e, spec)
			lines := logOf(t, e, spec.ID(), "done")
			text := strings.Join(lines, "\n")
			for _, want := range []string{
				"CapEff:\t00000000000004eb", "CapBnd:\t00000000000004eb", "NoNewPrivs:\t1", "Seccomp:\t2",
				"scratch is writable", "confined\nand confined", "\n321\n", "/srv\nyes spec yes",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in %q", want, text)
				}
			}
			for _, wrong := range []string{"root is writable", "may mount", "may write sysctls"} {
				if strings.Contains(text, wrong) {
					t.Errorf("it says %q", wrong)
				}
			}
		})
	}
}

func TestUsers(t *testing.T) {
	e := newEngine(t)
	for _, c := range []struct{ user, want string }{
		{"", "0 0 0"},
		{"app", "1000 1001 1001 1002"},
		{"1000", "1000 1001 1001 1002"},
		{"app:extra", "1000 1002 1002"},
		{"1000:0", "1000 0 0"},
		{"4321", "4321 0 0"},
		{"4321:8765", "4321 8765 8765"},
		{"root", "0 0 0"},
	} {
		t.Run("user "+c.user, func(t *testing.T) {
			spec := shell("user", "echo $(id -u) $(id -g) $(id -G); exit 0")
			spec.User, spec.IDBase = c.user, idBase
			mustStart(t, e, spec)
			waitState(t, e, spec.ID(), container.Exited)
			lines := e.LogTail(spec.ID(), 1)
			if len(lines) != 1 || lines[0] != c.want {
				t.Errorf("%q, want %q", lines, c.want)
			}
		})
	}
}

func TestLimitsAndWhatTheHostForbids(t *testing.T) {
	e := newEngine(t)
	spec := shell("limited", "ulimit -n; sleep 3600")
	spec.NoFile = 1 << 40
	spec.OOMScoreAdj = -999
	spec.Limits = container.Limits{MemoryMax: 64 << 20, MemoryHigh: 48 << 20, Swap: -1, CPUWeight: 200, Pids: 33}
	spec.Labels[container.LabelSpec] = `{"name":"limited","limits":{"pids":33}}`
	status := mustStart(t, e, spec)
	lines := logOf(t, e, spec.ID(), strconv.FormatUint(e.host.noFile, 10))
	if len(lines) != 1 {
		t.Errorf("limit of open files: %q, host's %d", lines, e.host.noFile)
	}
	reduced := strings.Join(status.Reduced, "\n")
	wanted := []string{"open files", "a volume at /var/data"}
	if !e.host.resource {
		wanted = append(wanted, "oom_score_adj")
	}
	if !e.host.unified {
		wanted = append(wanted, "memory.high")
	}
	for _, want := range wanted {
		if !strings.Contains(reduced, want) {
			t.Errorf("%q is not reported in %q", want, reduced)
		}
	}
	assertLimits(t, e, status.PID, spec.Limits)

	limits := container.Limits{MemoryMax: 96 << 20, Swap: -1, Pids: 44, CPUWeight: 50}
	if err := e.Update(t.Context(), spec.ID(), limits); err != nil {
		t.Fatal(err)
	}
	assertLimits(t, e, status.PID, limits)
	now := waitState(t, e, spec.ID(), container.Running)
	if now.PID != status.PID {
		t.Error("new limits restarted the container")
	}
	if !strings.Contains(now.Labels[container.LabelSpec], `"pids":44`) {
		t.Errorf("the label still says %s", now.Labels[container.LabelSpec])
	}
	if strings.Contains(strings.Join(now.Reduced, "\n"), "memory.high") {
		t.Errorf("still reported after the update: %q", now.Reduced)
	}
	if err := e.SetLabels(t.Context(), spec.ID(), map[string]string{container.LabelLimitsHash: "new"}); err != nil {
		t.Fatal(err)
	}
	usage, err := e.Usage(t.Context(), "test")
	if err != nil || len(usage) != 1 {
		t.Fatalf("usage %+v, %v", usage, err)
	}
	if u := usage[0]; u.ID != spec.ID() || u.Memory <= 0 || u.MemoryLimit != 96<<20 || u.Pids < 1 || u.CPU <= 0 {
		t.Errorf("usage %+v", u)
	}
	if now := waitState(t, e, spec.ID(), container.Running); now.Labels[container.LabelLimitsHash] != "new" || now.Labels[container.LabelHash] != "h1" {
		t.Errorf("labels %v", now.Labels)
	}
	// No limits at all.
	if err := e.Update(t.Context(), spec.ID(), container.Limits{}); err != nil {
		t.Fatal(err)
	}
	if usage, err := e.Usage(t.Context(), "test"); err != nil || usage[0].MemoryLimit != 0 {
		t.Errorf("without limits: %+v, %v", usage, err)
	}
}

// assertLimits reads the limits that the kernel has for a process. systemd
// sets those that it knows once more whenever its configuration is read again,
// as with every package that is installed.
func assertLimits(t *testing.T, e *Engine, pid int, limits container.Limits) {
	t.Helper()
	if e.host.systemd {
		if output, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
			t.Fatalf("systemctl daemon-reload: %v: %s", err, output)
		}
	}
	dir := filepath.Dir(memoryEventsOf(pid).file)
	want := map[string]int64{
		filepath.Join(dir, "memory.limit_in_bytes"):                              limits.MemoryMax,
		filepath.Join(strings.Replace(dir, "/memory/", "/pids/", 1), "pids.max"): limits.Pids,
	}
	if e.host.unified {
		want = map[string]int64{
			filepath.Join(dir, "memory.max"):  limits.MemoryMax,
			filepath.Join(dir, "memory.high"): limits.MemoryHigh,
			filepath.Join(dir, "cpu.weight"):  int64(limits.CPUWeight),
			filepath.Join(dir, "pids.max"):    limits.Pids,
		}
		if limits.Swap < 0 {
			if text, err := os.ReadFile(filepath.Join(dir, "memory.swap.max")); err != nil || strings.TrimSpace(string(text)) != "0" {
				t.Errorf("memory.swap.max is %q, want 0 (%v)", text, err)
			}
		}
	}
	for path, number := range want {
		value := strconv.FormatInt(number, 10)
		if number == 0 {
			value = "max"
		}
		text, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(text)) != value {
			t.Errorf("%s is %q, want %s (%v)", path, text, value, err)
		}
	}
}

func TestHostsFileIsRewrittenInPlace(t *testing.T) {
	e := newEngine(t)
	spec := shell("named", "sleep 3600")
	spec.Addresses.V4 = addr("10.1.2.3")
	spec.Hosts = []container.HostsEntry{{Addr: addr("10.1.2.4"), Names: []string{"mysql", "db"}}}
	mustStart(t, e, spec)
	hosts := func() string {
		_, output, err := e.Exec(t.Context(), spec.ID(), []string{"cat", "/etc/hosts"})
		if err != nil {
			t.Fatal(err)
		}
		return string(output)
	}
	if text := hosts(); !strings.Contains(text, "10.1.2.3 named\n") || !strings.Contains(text, "10.1.2.4 mysql db\n") || !strings.Contains(text, "127.0.0.1 localhost\n") {
		t.Errorf("hosts: %q", text)
	}
	if err := e.UpdateHosts(spec.ID(), []container.HostsEntry{{Addr: addr("fd00::1"), Names: []string{"six"}}}); err != nil {
		t.Fatal(err)
	}
	if text := hosts(); !strings.Contains(text, "fd00::1 six\n") || strings.Contains(text, "mysql") || !strings.HasSuffix(text, "\n") {
		t.Errorf("hosts after the update: %q", text)
	}
	code, _, err := e.Exec(t.Context(), spec.ID(), []string{"sh", "-c", "echo x >> /etc/hosts"})
	if err != nil || code == 0 {
		t.Errorf("the container could write its hosts file: %d, %v", code, err)
	}
}

func TestResolversAreThoseOfTheSpec(t *testing.T) {
	e := newEngine(t)
	for name, in := range map[string]struct {
		servers []string
		want    string
	}{
		"asks":    {[]string{"10.0.0.53", "fd00::53"}, "nameserver 10.0.0.53\nnameserver fd00::53\n"},
		"asksnot": {nil, ""},
	} {
		spec := shell(name, "sleep 3600")
		for _, server := range in.servers {
			spec.Resolvers = append(spec.Resolvers, addr(server))
		}
		mustStart(t, e, spec)
		_, output, err := e.Exec(t.Context(), spec.ID(), []string{"grep", "-v", "^#", "/etc/resolv.conf"})
		if err != nil || string(output) != in.want {
			t.Errorf("%s: resolv.conf without comments is %q, want %q (%v)", name, output, in.want, err)
		}
	}
}
