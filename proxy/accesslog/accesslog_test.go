package accesslog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func entry() *Entry {
	return &Entry{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC), Client: netip.MustParseAddr("203.0.113.77"),
		Method: "GET", Host: "learn.test", Path: "/courses/ñ", Proto: "HTTP/2.0", Status: 200, Bytes: 12, Took: 1500 * time.Microsecond,
		Upstream: "10.0.0.2:8000", UpstreamTook: time.Millisecond, Held: 2 * time.Second,
		Agent: `Mozilla "5"`, Referer: "https://me:pw@learn.test/password_reset_confirm/2-abc/?code=s3cret#x",
		Trace: "0af7651916cd43dd8448eb211c80319c", Request: "r-1", Note: "a\nb\x1b[2J",
	}
}

func line(t *testing.T, f format, e *Entry) string {
	t.Helper()
	b := f.append(nil, e)
	if !json.Valid(b) || bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' {
		t.Fatalf("not one line of JSON: %q", b)
	}
	return string(b)
}

func mustFormat(t *testing.T, fields []string, a Addresses) format {
	t.Helper()
	f, err := newFormat(fields, a)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLine(t *testing.T) {
	got := line(t, mustFormat(t, nil, ""), entry())
	want := `{"time":"2026-03-01T12:00:00.005Z","client":"203.0.113.77","method":"GET","host":"learn.test","path":"/courses/ñ",` +
		`"proto":"HTTP/2.0","status":200,"bytes":12,"took":0.001500,"upstream":"10.0.0.2:8000","upstream_took":0.001000,"held":2.000000,` +
		`"agent":"Mozilla \"5\"","referer":"https://learn.test/password_reset_confirm/[hidden]","trace":"0af7651916cd43dd8448eb211c80319c",` +
		`"request":"r-1","note":"a\u000ab\u001b[2J"}` + "\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if got := line(t, mustFormat(t, []string{"status", "time"}, None), entry()); got != `{"time":"2026-03-01T12:00:00.005Z","status":200}`+"\n" {
		t.Errorf("chosen fields: %s", got)
	}
	if got := line(t, mustFormat(t, []string{"client"}, None), entry()); got != "{}\n" {
		t.Errorf("nothing to write: %s", got)
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct{ addr, full, short string }{
		{"203.0.113.77", "203.0.113.77", "203.0.113.0/24"},
		{"::ffff:203.0.113.77", "203.0.113.77", "203.0.113.0/24"},
		{"2001:db8:1:2:3::4", "2001:db8:1:2:3::4", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::1", "fe80::/48"},
		{"", "local", "local"},
	} {
		var a netip.Addr
		if c.addr != "" {
			a = netip.MustParseAddr(c.addr)
		}
		for addresses, want := range map[Addresses]string{Full: c.full, Short: c.short} {
			got := line(t, mustFormat(t, []string{"client"}, addresses), &Entry{Client: a})
			if got != `{"client":"`+want+"\"}\n" {
				t.Errorf("%s of %s: %s", addresses, c.addr, got)
			}
		}
	}
}

func TestWrongConfiguration(t *testing.T) {
	for _, c := range []Config{
		{Writer: io.Discard, Fields: []string{"cookie"}},
		{Writer: io.Discard, Addresses: "half"},
		{File: File{Path: "relative.log"}},
		{},
		{File: File{Path: "/tmp/x", Size: -1}},
	} {
		if _, err := Open(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestRedactPath(t *testing.T) {
	for path, want := range map[string]string{
		"/":                                    "/",
		"":                                     "",
		"/activate/":                           "/activate/",
		"/activate/0123abcd":                   "/activate/[hidden]",
		"/password_reset_confirm/2-c5g-99/":    "/password_reset_confirm/[hidden]",
		"/password/reset/2-c5g-99/":            "/password/reset/[hidden]",
		"//password_reset_confirm/2-c5g-99/":   "/password_reset_confirm/[hidden]",
		"/authn/password_reset_confirm/2-c5g/": "/authn/password_reset_confirm/[hidden]",
		"/email_confirm/k":                     "/email_confirm/[hidden]",
		"/-/pass/once":                         "/-/pass/[hidden]",
		"/courses/course-v1:A+B+C/course/":     "/courses/course-v1:A+B+C/course/",
		"/login?token=s3cret":                  "/login",
		"/api/notifications/preferences/update/u/p/": "/api/notifications/preferences/update/[hidden]",
	} {
		if got := RedactPath(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestRedactURL(t *testing.T) {
	for u, want := range map[string]string{
		"https://a.test/x?token=1":        "https://a.test/x",
		"https://a.test?token=1":          "https://a.test",
		"https://u:p@a.test/activate/k":   "https://a.test/activate/[hidden]",
		"/activate/k":                     "/activate/[hidden]",
		"https://a.test/@who":             "https://a.test/@who",
		"android-app://com.example/x#t=1": "android-app://com.example/x",
		"https://a.test/-/pass/s3cret":    "https://a.test/-/pass/[hidden]",
		"https://u:s3cret@a.test":         "https://a.test",
		"nonsense s3cret@x?y":             "x",
	} {
		if got := redactURL(u); got != want {
			t.Errorf("%s: %s, want %s", u, got, want)
		}
	}
}

// TestAnyText: whatever visitors write, a line stays one line of JSON without
// control characters, and what is printable comes back as it was.
func TestAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "text")
		checkString(t, s)
	})
}

type failer interface{ Fatalf(string, ...any) }

func checkString(t failer, s string) {
	b := appendString(nil, s, 1000)
	for _, r := range string(b) {
		if r != ' ' && !unicode.IsPrint(r) {
			t.Fatalf("%q holds %q", b, r)
		}
	}
	var back string
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	if utf8.ValidString(s) && len(s) <= 1000 && back != s {
		t.Fatalf("%q came back as %q", s, back)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a", "\x00\x7f\"\\", "\xff", "\u202e\u2028", "ñ😀", "https://u:p@h/p?q#f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checkString(t, s)
		if strings.ContainsAny(redactURL(s), "?#") {
			t.Fatalf("%q keeps a query", s)
		}
		if got := RedactPath("/activate/" + s); s != "" && s[0] != '?' && got != "/activate/"+Hidden {
			t.Fatalf("%q: %s", s, got)
		}
	})
}

// stuck takes nothing until it is let go.
type stuck struct {
	release chan struct{}
	mu      sync.Mutex
	b       bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.release
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// TestSlowDisk: nobody waits, memory is bounded, and what is lost is counted
// and told in the log itself.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &stuck{release: make(chan struct{})}
		var journal bytes.Buffer
		l, err := Open(Config{Writer: disk, Fields: []string{"path", "status"}, Logger: slog.New(slog.NewTextHandler(&journal, nil))})
		if err != nil {
			t.Fatal(err)
		}
		e := entry()
		e.Path = "/" + strings.Repeat("x", 1000)
		l.Add(e)
		time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
		const rest = 3000
		for range rest {
			l.Add(e)
		}
		lost := l.Lost()
		if lost == 0 || lost == rest {
			t.Fatalf("%d of %d lines are lost", lost, rest)
		}
		close(disk.release)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(disk.b.String()), "\n")
		last := lines[len(lines)-1]
		if !strings.Contains(last, fmt.Sprintf(`"lost":%d}`, lost)) || len(lines) != 1+1+rest-int(lost) {
			t.Errorf("%d lines, the last one %s; %d lost", len(lines), last, lost)
		}
		if !strings.Contains(journal.String(), "lines of the access log are lost") {
			t.Errorf("journal: %s", &journal)
		}
	})
}

// TestHungDiskAtTheEnd: the process ends all the same.
func TestHungDiskAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &stuck{release: make(chan struct{})}
		l, err := Open(Config{Writer: disk, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		l.Add(entry())
		if err := l.Close(); err == nil {
			t.Error("nothing is said of lines that were not written")
		}
		close(disk.release)
	})
}

// TestLinesComeWithoutBeingAsked: a line is in the file soon, not only at the
// end.
func TestLinesComeWithoutBeingAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "access.log")
	l := open(t, File{Path: path}, nil)
	for i := range 3 {
		l.Add(entry())
		until(t, "a line", func() bool { return count(t, path) == i+1 })
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func open(t *testing.T, f File, journal io.Writer) *Log {
	t.Helper()
	if journal == nil {
		journal = io.Discard
	}
	l, err := Open(Config{File: f, Logger: slog.New(slog.NewTextHandler(journal, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// count lines of a file, each of which has to be JSON.
func count(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); n++ {
		if !json.Valid(lines.Bytes()) {
			t.Fatalf("%s, line %d: %q", path, n+1, lines.Text())
		}
	}
	return n
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// batch writes n lines as one piece.
func batch(t *testing.T, s *fileSink, n int) {
	t.Helper()
	var b []byte
	for range n {
		b = mustFormat(t, nil, "").append(b, entry())
	}
	if took, err := s.write(b); err != nil || took != len(b) {
		t.Fatalf("%d of %d bytes: %v", took, len(b), err)
	}
}

func sinkOf(t *testing.T, f File) *fileSink {
	t.Helper()
	s, err := newFileSink(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func names(t *testing.T, dir string) string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range all {
		s = append(s, e.Name())
	}
	return strings.Join(s, " ")
}

func TestRotation(t *testing.T) {
	size := int64(len(mustFormat(t, nil, "").append(nil, entry())))
	for _, c := range []struct {
		what    string
		f       File
		batches int
		want    string
	}{
		{"by size", File{Size: 10 * size, Keep: 3}, 10, "a[c]cess.log a[c]cess.log.1 a[c]cess.log.2 a[c]cess.log.3"},
		{"small enough", File{Size: 1000 * size, Keep: 3}, 10, "a[c]cess.log"},
		{"by age", File{Age: 1, Keep: 2}, 5, "a[c]cess.log a[c]cess.log.1 a[c]cess.log.2"},
		{"one alone", File{Size: 10 * size, Keep: 1}, 10, "a[c]cess.log a[c]cess.log.1"},
		{"together", File{Size: 10 * size, Keep: 9, Total: 30 * size}, 40, "a[c]cess.log a[c]cess.log.1 a[c]cess.log.2"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			c.f.Path = filepath.Join(dir, "a[c]cess.log")
			s := sinkOf(t, c.f)
			for range c.batches {
				batch(t, s, 5)
			}
			if got := names(t, dir); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestFewerAreKept: those that were kept for an older configuration go, and
// what is not ours stays.
func TestFewerAreKept(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"l.1", "l.2", "l.3", "l.7", "l.txt", "l.1.gz"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := sinkOf(t, File{Path: filepath.Join(dir, "l"), Keep: 2, Age: 1})
	batch(t, s, 1)
	batch(t, s, 1)
	if got := names(t, dir); got != "l l.1 l.1.gz l.2 l.txt" {
		t.Error(got)
	}
}

// TestTwoProcesses: one hands over to the other while both write. No line is
// lost and no file is rotated twice for one reason.
func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "l"), Size: 8 << 10, Keep: 1000}
	const each, lines = 60, 5
	var both sync.WaitGroup
	for range 2 {
		s := sinkOf(t, f)
		both.Go(func() {
			for range each {
				batch(t, s, lines)
			}
		})
	}
	both.Wait()
	all, err := filepath.Glob(f.Path + "*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range all {
		n += count(t, path)
	}
	if n != 2*each*lines || len(all) < 10 {
		t.Errorf("%d lines in %d files", n, len(all))
	}
}

func TestMovedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, File{Path: path}, nil)
	l.Add(entry())
	until(t, "the first line", func() bool { return count(t, path) == 1 })
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	l.Add(entry())
	until(t, "a line in a new file", func() bool { return count(t, path) == 1 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.Add(entry()) // nobody says so
	until(t, "a file after the deleted one", func() bool { return count(t, path) == 1 })
	if n := count(t, path+".old"); n != 1 {
		t.Errorf("%d lines in the old file", n)
	}
}

// TestFullDisk: told once, requests go on, and when there is room again lines
// are written again, each of them whole.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("accesslog-test", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("this test needs root, to mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var troubles []bool
	journal := &stuck{release: make(chan struct{})}
	close(journal.release)
	path := filepath.Join(dir, "access.log")
	l, err := Open(Config{
		File: File{Path: path}, Logger: slog.New(slog.NewTextHandler(journal, nil)),
		Trouble: func(err error) { mu.Lock(); troubles = append(troubles, err != nil); mu.Unlock() },
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "a full disk", func() bool { l.Add(entry()); return l.Lost() > 20 })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	until(t, "lines again", func() bool {
		l.Add(entry())
		data, err := os.ReadFile(path)
		return err == nil && bytes.Contains(data, []byte(`"lost":`))
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := 0
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if !json.Valid([]byte(line)) {
			torn++
		}
	}
	if torn > 1 {
		t.Errorf("%d lines are torn: only the last one before the disk was full may be", torn)
	}
	if n := strings.Count(journal.b.String(), "cannot be written"); n != 1 {
		t.Errorf("told %d times:\n%s", n, &journal.b)
	}
	if mu.Lock(); fmt.Sprint(troubles) != "[true false]" {
		t.Errorf("trouble: %v", troubles)
	}
	mu.Unlock()
}

func BenchmarkAdd(b *testing.B) {
	b.Run("own", func(b *testing.B) {
		l, err := Open(Config{Writer: io.Discard})
		if err != nil {
			b.Fatal(err)
		}
		e := entry()
		b.ReportAllocs()
		for b.Loop() {
			l.Add(e)
		}
		_ = l.Close()
	})
	b.Run("slog", func(b *testing.B) {
		l := slog.New(slog.NewJSONHandler(io.Discard, nil))
		e := entry()
		b.ReportAllocs()
		for b.Loop() {
			l.LogAttrs(b.Context(), slog.LevelInfo, "request",
				slog.String("client", e.Client.String()), slog.String("method", e.Method), slog.String("host", e.Host), slog.String("path", e.Path),
				slog.String("proto", e.Proto), slog.Int("status", e.Status), slog.Int64("bytes", e.Bytes), slog.Duration("took", e.Took),
				slog.String("upstream", e.Upstream), slog.Duration("upstream_took", e.UpstreamTook), slog.Duration("held", e.Held),
				slog.String("agent", e.Agent), slog.String("referer", e.Referer), slog.String("trace", e.Trace), slog.String("request", e.Request),
				slog.String("note", e.Note))
		}
	})
}
