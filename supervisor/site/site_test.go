package site

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const full = `
[site]
host = "LEARN.Example.org"
studio = "estudio.bücher.example"
name = "Campus \"Ñandú\" #1"
language = "ES_419"
languages = ["en", "es-419"]
timezone = "America/Bogota"

[proxy]
hold = "0s"

[network]
range4 = "10.50.0.0/22"
ipv6 = false

[images]
insecure = "localhost:5000"
mirrors = { "docker.io" = ["https://one.example.org", "http://10.0.0.1:5000/v2"] }

[images.use]
openedx = "registry.example.org/our/openedx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

[size]
memory = "3.5GiB"

[mail]
smarthost = "Mail.Example.org"
user = "u"
password_file = "/etc/tarima/mail-password"

[services]
lms.memory = "900MB"
lms.env = { UWSGI_WORKERS = "3", EMPTY = "" }
lms.stop_timeout = "90s"

[services.scheduler]
enabled = false

[settings.lms]
ZEBRA = 1
FEATURES = { B = true, A = [1, 2.0, "x", { deep = { deeper = -1 } }] }
ALPHA = 1.5e300

[[settings.lms.LIST]]
name = "one"
[[settings.lms.LIST]]
name = "two"

[mfe]
"KEY WITH SPACE" = "tab\tand\nline"
`

// TestParse reads a file that uses every kind of value.
func TestParse(t *testing.T) {
	c, err := Parse("f", []byte("\xef\xbb\xbf"+strings.ReplaceAll(full, "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Site: Site{
			Host: "learn.example.org", Studio: "estudio.xn--bcher-kva.example", Name: `Campus "Ñandú" #1`,
			Language: "es-419", Languages: []string{"en", "es-419"}, Timezone: "America/Bogota",
		},
		Proxy:   Proxy{Hold: new(time.Duration(0))},
		Network: Network{Range4: netip.MustParsePrefix("10.50.0.0/22"), IPv6: new(false)},
		Images: Images{
			Mirrors:  map[string][]string{"docker.io": {"https://one.example.org", "http://10.0.0.1:5000/v2"}},
			Insecure: []string{"localhost:5000"},
			Use:      map[string]string{"openedx": "registry.example.org/our/openedx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
		},
		Size: Size{Memory: 3584 * MiB},
		Mail: Mail{Smarthost: "mail.example.org", User: "u", PasswordFile: "/etc/tarima/mail-password"},
		Services: map[string]Service{
			"lms":       {Memory: 900 * MB, Env: map[string]string{"UWSGI_WORKERS": "3", "EMPTY": ""}, StopTimeout: 90 * time.Second},
			"scheduler": {Enabled: new(false)},
		},
		Settings: Settings{LMS: Table{
			{"ZEBRA", int64(1)},
			{"FEATURES", Table{{"B", true}, {"A", []any{int64(1), 2.0, "x", Table{{"deep", Table{{"deeper", int64(-1)}}}}}}}},
			{"ALPHA", 1.5e300},
			{"LIST", []any{Table{{"name", "one"}}, Table{{"name", "two"}}}},
		}},
		MFE: Table{{"KEY WITH SPACE", "tab\tand\nline"}},
	}
	if diff := cmp.Diff(want, c, same); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	if hosts := c.Hosts(); !cmp.Equal(hosts, []string{"learn.example.org", "estudio.xn--bcher-kva.example"}) {
		t.Errorf("hosts: %q", hosts)
	}
	if c.Enabled("scheduler") || !c.Enabled("lms") || !c.Enabled("redis") {
		t.Error("the scheduler alone is switched off")
	}
	again, err := Parse("f", Format(c))
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, Format(c))
	}
	if diff := cmp.Diff(c, again, same); diff != "" {
		t.Errorf("written and read again (-before +after):\n%s\n%s", diff, Format(c))
	}
}

var host = Host{Memory: 4 * GB, Cores: 2, IPv6: true, Range6: netip.MustParsePrefix("fd12:3456:789a::/64")}

// TestDefaults wants the documented defaults, none of which replaces what the
// file says, and that they are valid and stable.
func TestDefaults(t *testing.T) {
	c, err := Parse("f", []byte(withHost))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Site: Site{
			Host: "learn.example.org", Studio: "studio.learn.example.org", Apps: "apps.learn.example.org",
			Search: "meilisearch.learn.example.org", Name: "Open edX", Contact: "contact@learn.example.org",
			Language: "en", Languages: []string{"en"}, Timezone: "UTC", Release: "ulmo",
		},
		Proxy: Proxy{
			HTTP: ":80", HTTPS: ":443", TLS: TLSACME, Email: "contact@learn.example.org", Hold: new(30 * time.Second),
			Compress: new(true), Block: Block{Usual: new(true)}, Log: AccessLog{Slow: new(3 * time.Second)},
		},
		Network: Network{Range4: DefaultRange4, Range6: host.Range6, IPv6: new(true)},
		Size:    Size{Memory: 4 * GB, Cores: 2},
		Mail:    Mail{From: "contact@learn.example.org"},
	}
	d := Defaults(c, host)
	if diff := cmp.Diff(want, d, same); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}

	set, err := Parse("f", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	withDefaults := Defaults(set, host)
	for _, change := range Diff(set, withDefaults) {
		if change.Kind != Added {
			t.Errorf("the defaults change what the file says: %s", change)
		}
	}
	if *withDefaults.Proxy.Hold != 0 || withDefaults.Network.Range6.IsValid() || withDefaults.Mail.Port != 587 {
		t.Errorf("a zero that the file says counts: %+v", withDefaults)
	}
	for name, c := range map[string]Config{"plain": d, "full": withDefaults} {
		if err := Validate(c); err != nil {
			t.Errorf("%s: the defaults are not valid: %v", name, err)
		}
		if diff := cmp.Diff(c, Defaults(c, Host{}), same); diff != "" {
			t.Errorf("%s: a second time they change something:\n%s", name, diff)
		}
		again, err := Parse("f", Format(c))
		if diff := cmp.Diff(c, again, same); err != nil || diff != "" {
			t.Errorf("%s: written and read again: %v\n%s", name, err, diff)
		}
	}
	for name, tls := range map[string]TLSMode{"a.localhost": TLSLocal, "a.b.test": TLSLocal, "a.home.arpa": TLSLocal, "latest.org": TLSACME} {
		if got := Defaults(Config{Site: Site{Host: name}}, host).Proxy.TLS; got != tls {
			t.Errorf("%s gets %q", name, got)
		}
	}
	if c := Defaults(Config{}, Host{}); *c.Network.IPv6 || c.Network.Range6.IsValid() {
		t.Error("IPv6 inside on a host without it")
	}
	if c := Defaults(Config{Site: Site{Language: "es", Languages: []string{"en"}}}, host); !cmp.Equal(c.Site.Languages, []string{"es", "en"}) {
		t.Errorf("the site's language is not offered: %q", c.Site.Languages)
	}
}

// TestDiff tells changes in words and hides what may be secret.
func TestDiff(t *testing.T) {
	parse := func(text string) Config {
		t.Helper()
		c, err := Parse("f", []byte(withHost+text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a := parse("name = \"A\"\nlanguages = [\"en\"]\n[services.lms]\nmemory = \"1GB\"\nenv = { A = \"secret1\", B = \"secret2\" }\n[settings.lms]\nX = \"secret3\"\n[settings.lms.F]\nK = 1\n[services.scheduler]\nenabled = false")
	b := parse("languages = [\"en\", \"es\"]\n[services.lms]\nmemory = \"1200MB\"\nenv = { B = \"secret4\", C = \"\" }\n[settings.lms]\nX = \"secret3\"\n[settings.lms.F]\nK = 2\n[proxy]\nhold = \"0s\"\n[mfe]\nY = 1")
	var got []string
	for _, c := range Diff(a, b) {
		got = append(got, c.String())
	}
	want := []string{
		`mfe.Y: set`,
		`proxy.hold: set to "0s"`,
		`services.lms.env.A: removed`,
		`services.lms.env.B: changed`,
		`services.lms.env.C: set`,
		`services.lms.memory: "1GB" becomes "1200MB"`,
		`services.scheduler.enabled: removed (was false)`,
		`settings.lms.F.K: changed`,
		`site.languages: ["en"] becomes ["en", "es"]`,
		`site.name: removed (was "A")`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if same := Diff(b, b); len(same) != 0 {
		t.Errorf("a file differs from itself: %v", same)
	}
}

// TestTable merges and writes tables in their order.
func TestTable(t *testing.T) {
	base := Table{{"b", int64(1)}, {"t", Table{{"x", "1"}, {"y", "2"}}}, {"l", []any{Table{{"k", true}}}}}
	got := base.Merge(Table{{"a", "new"}, {"t", Table{{"y", "3"}, {"z", "4"}}}, {"l", "other"}})
	text, err := json.Marshal(got)
	if want := `{"b":1,"t":{"x":"1","y":"3","z":"4"},"l":"other","a":"new"}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v, want %s", text, err, want)
	}
	if diff := cmp.Diff(map[string]any{"b": int64(1), "t": map[string]any{"x": "1", "y": "2"}, "l": []any{map[string]any{"k": true}}}, base.Map()); diff != "" {
		t.Errorf("merging changed the table below, or Map is wrong:\n%s", diff)
	}
	if v, ok := got.Get("a"); !ok || v != "new" {
		t.Errorf("Get: %v, %v", v, ok)
	}
	if _, ok := got.Get("A"); ok {
		t.Error("Get found what is not there")
	}
}

// TestDetectHost measures made-up machines.
func TestDetectHost(t *testing.T) {
	machine := func(more ...string) fstest.MapFS {
		files := fstest.MapFS{
			"proc/meminfo":     {Data: []byte("MemFree: 1 kB\nMemTotal:        4000000 kB\n")},
			"proc/self/status": {Data: []byte("Name:\ttarima\nCpus_allowed_list:\t0-2,5\n")},
			"proc/self/cgroup": {Data: []byte("12:memory:/outer/inner\n3:cpu,cpuacct:/outer\n0::/unit.slice/tarima.service\n")},
			"etc/machine-id":   {Data: []byte("0123\n")},
		}
		for i := 0; i < len(more); i += 2 {
			files[more[i]] = &fstest.MapFile{Data: []byte(more[i+1])}
		}
		return files
	}
	const all = 4_000_000 * KiB
	for _, tc := range []struct {
		name   string
		root   fstest.MapFS
		memory Bytes
		cores  int
		from   string
	}{
		{"no limit", machine(), all, 4, "the machine's"},
		{"no cgroup files", machine("proc/self/cgroup", ""), all, 4, "the machine's"},
		{"v2 limit of a parent", machine("sys/fs/cgroup/unit.slice/memory.max", "1000000000\n", "sys/fs/cgroup/unit.slice/tarima.service/memory.max", "max\n"), GB, 4, "/sys/fs/cgroup/unit.slice/memory.max"},
		{"v2 limit of the root in a container", machine("sys/fs/cgroup/memory.max", "1000000000"), GB, 4, "/sys/fs/cgroup/memory.max"},
		{"smallest counts", machine("sys/fs/cgroup/unit.slice/memory.max", "2000000000", "sys/fs/cgroup/unit.slice/tarima.service/memory.max", "1000000000"), GB, 4, "/sys/fs/cgroup/unit.slice/tarima.service/memory.max"},
		{"v1 limit", machine("sys/fs/cgroup/memory/outer/memory.limit_in_bytes", "1000000000"), GB, 4, "/sys/fs/cgroup/memory/outer/memory.limit_in_bytes"},
		{"v1 without a limit", machine("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"), all, 4, "the machine's"},
		{"limit above the machine's", machine("sys/fs/cgroup/memory.max", "99000000000"), all, 4, "the machine's"},
		{"rubbish", machine("sys/fs/cgroup/memory.max", "?", "sys/fs/cgroup/cpu.max", "1 2 3"), all, 4, "the machine's"},
		{"v2 quota", machine("sys/fs/cgroup/unit.slice/cpu.max", "250000 100000"), all, 2, "the machine's"},
		{"quota below one core", machine("sys/fs/cgroup/cpu.max", "50000 100000"), all, 1, "the machine's"},
		{"no quota", machine("sys/fs/cgroup/cpu.max", "max 100000"), all, 4, "the machine's"},
		{"v1 quota", machine("sys/fs/cgroup/cpu/outer/cpu.cfs_quota_us", "300000", "sys/fs/cgroup/cpu/outer/cpu.cfs_period_us", "100000"), all, 3, "the machine's"},
		{"v1 without a quota", machine("sys/fs/cgroup/cpu/outer/cpu.cfs_quota_us", "-1"), all, 4, "the machine's"},
	} {
		h, err := detectHost(tc.root)
		if err != nil || h.Memory != tc.memory || h.Cores != tc.cores || h.MemoryFrom != tc.from || h.IPv6 {
			t.Errorf("%s: got %+v, %v", tc.name, h, err)
		}
	}
	h, err := detectHost(machine("proc/net/if_inet6", ""))
	if err != nil || !h.IPv6 || h.Range6.Bits() != 64 || checkRange6(h.Range6) != nil {
		t.Errorf("IPv6: %+v, %v", h, err)
	}
	if other, _ := detectHost(machine("etc/machine-id", "4567")); other.Range6 == h.Range6 {
		t.Errorf("two machines share %s", h.Range6)
	}
	for name, root := range map[string]fstest.MapFS{
		"nothing":       {},
		"no MemTotal":   machine("proc/meminfo", "MemFree: 1 kB"),
		"no cores":      machine("proc/self/status", "Name: x"),
		"strange cores": machine("proc/self/status", "Cpus_allowed_list: 3-1"),
	} {
		if _, err := detectHost(root); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	real, err := DetectHost()
	if err != nil || real.Memory < 100*MB || real.Cores < 1 {
		t.Errorf("this machine: %+v, %v", real, err)
	}
}

// TestBytes reads and writes sizes.
func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"600MB": 600 * MB, "1.5 GiB": 1536 * MiB, "1 kb": 1000, "2TIB": 2 * TiB, "0.001kB": 1, "9007199254740993B": 9007199254740993,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "600", "MB", "-1MB", "1.2.3MB", "1M", "1 000MB", "0MB", "1e3MB", "99999999TB", "NaNMB", "٣MB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q passes as %d", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Int64Range(1, 1<<62).Draw(t, "bytes"))
		if got, err := ParseBytes(b.String()); err != nil || got != b {
			t.Fatalf("%d is written %s and read %d, %v", b, b, got, err)
		}
	})
}

// TestNearest finds slips of the finger and not mere likeness.
func TestNearest(t *testing.T) {
	services := ServiceNames()
	for word, want := range map[string]string{
		"lsm": "lms", "LMS": "lms", "mysqll": "mysql", "mongo": "mongodb", "lms_worker": "lms-worker",
		"shceduler": "scheduler", "reddis": "redis", "postgres": "", "x": "", "": "", "web": "",
	} {
		if got := Nearest(word, services); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

// TestManyMistakes bounds the report of a file that is none.
func TestManyMistakes(t *testing.T) {
	var b strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&b, "k%d = 1\n", i)
	}
	_, err := Parse("f", []byte(b.String()))
	var all Problems
	if !errors.As(err, &all) || len(all) != 101 || !strings.Contains(all[100].What, "and 2901 more") {
		t.Errorf("%d problems", len(all))
	}
}

// TestDeepNesting refuses what would use up the stack.
func TestDeepNesting(t *testing.T) {
	for name, text := range map[string]string{
		"lists":  "[settings.lms]\nX = " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
		"tables": "[settings.lms]\nX = " + strings.Repeat("{a = ", 1000) + "1" + strings.Repeat("}", 1000),
		"keys":   "[settings.lms]\nX." + strings.Repeat("a.", 1000) + "a = 1",
		"header": "[settings.lms." + strings.Repeat("a.", 1000) + "a]",
	} {
		if _, err := Parse("f", []byte(withHost+text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParse wants no panic, a place within the text for every problem, and
// that a file which passes is written and read back the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(fullDoor))
	f.Add(Example("en"))
	f.Add([]byte(withHost + "[[services]]\nx = [[1], {a.b.c = 1}]\n"))
	f.Add([]byte("a.b.c = 1\n[a.b.d]\n[[a.e]]\nx = {}\n[[a.e]]\n[a.e.f]\n"))
	f.Add([]byte("\"\" = '''\nx'''\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if err == nil {
			again, err := Parse("f", Format(c))
			if err != nil {
				t.Fatalf("what was written cannot be read: %v\n%s", err, Format(c))
			}
			if diff := cmp.Diff(c, again, same); diff != "" {
				t.Errorf("written and read again:\n%s", diff)
			}
			return
		}
		lines := strings.Split(string(data), "\n")
		for _, p := range err.(Problems) { //nolint:errorlint // the documented type
			if p.Line < 0 || p.Line > len(lines) || p.Line > 0 && (p.Column < 1 || p.Column > len(lines[p.Line-1])+1) {
				t.Errorf("%d lines, and a problem at %d:%d: %s", len(lines), p.Line, p.Column, p)
			}
		}
	})
}
