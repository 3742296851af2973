package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tarima/runtime/container"
	"tarima/store"
	"tarima/store/record"
	"tarima/store/storetest"
	"tarima/supervisor"
)

var _ supervisor.Store = (*store.Store)(nil)

var (
	range4 = netip.MustParsePrefix("10.213.0.0/24")
	range6 = netip.MustParsePrefix("fd12:3456:789a::/64")
	noon   = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
)

// reopen closes a store and opens it again.
func reopen(t *testing.T, s *store.Store, config store.Config) *store.Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	return storetest.OpenIn(t, config)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill puts one of everything into a site.
func fill(t testing.TB, s *store.Store, site string) {
	t.Helper()
	check(t, s.SetApplied(site, record.Applied{Generation: 7, SiteFile: []byte("[site]\nhost = \"learn.example.org\"\n"), Release: "ulmo", At: noon}))
	check(t, s.SetIntent(site, record.Intent{Service: "cms", Stopped: true, Restart: 2, At: noon}))
	check(t, s.SetImage(site, record.Image{Ref: "docker.io/library/redis:7.4.5", Digest: "sha256:abc", Size: 42, At: noon}))
	check(t, s.SetJob(site, record.JobRecord{Name: "lms-migrate", Reason: "r1", State: record.JobSucceeded, Attempts: 1, Started: noon, Ended: noon}))
	for _, service := range []string{"lms", "mysql"} {
		must[record.Address](t)(s.Address(site, service, range4, range6))
		code := 137
		must[record.Event](t)(s.AppendEvent(site, record.Event{At: noon, Kind: record.ExitedEvent, Service: service, ExitCode: &code, Reason: "killed", LogTail: []string{"last words"}}))
	}
	must[string](t)(s.Secret(site, "mysql-root", func() (string, error) { return "s3cret-" + site, nil }))
}

// content is everything that can be read of a site.
type content struct {
	Applied   record.Applied
	Known     bool
	Intents   map[string]record.Intent
	Images    map[string]record.Image
	Jobs      map[string]record.JobRecord
	LMS       record.Address
	Events    []record.Event
	OfMySQL   []record.Event
	MySQLRoot string
}

func read(t testing.TB, s *store.Store, site string) content {
	t.Helper()
	var c content
	var err error
	c.Applied, c.Known, err = s.Applied(site)
	check(t, err)
	c.Intents = must[map[string]record.Intent](t)(s.Intents(site))
	c.Images = must[map[string]record.Image](t)(s.Images(site))
	c.Jobs = must[map[string]record.JobRecord](t)(s.Jobs(site))
	c.LMS = must[record.Address](t)(s.Address(site, "lms", range4, range6))
	c.Events = must[[]record.Event](t)(s.Events(site, 0, 1000))
	c.OfMySQL = must[[]record.Event](t)(s.ServiceEvents(site, "mysql", 10))
	c.MySQLRoot = must[string](t)(s.Secret(site, "mysql-root", func() (string, error) { return "made anew", nil }))
	return c
}

var sameContent = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})}

// TestEverythingSurvivesReopening stores one of everything for two sites and
// reads it back from a new process's point of view.
func TestEverythingSurvivesReopening(t *testing.T) {
	config := store.Config{Dir: t.TempDir()}
	s := storetest.OpenIn(t, config)
	want := map[string]content{}
	for _, site := range []string{"default", "second"} {
		fill(t, s, site)
		want[site] = read(t, s, site)
		if got := want[site].MySQLRoot; got != "s3cret-"+site {
			t.Errorf("secret of %s: %q", site, got)
		}
		if n := len(want[site].OfMySQL); n != 1 {
			t.Errorf("%s has %d events of mysql, want 1", site, n)
		}
	}
	s = reopen(t, s, config)
	for site, w := range want {
		if diff := cmp.Diff(w, read(t, s, site), sameContent); diff != "" {
			t.Errorf("%s changed (-before +after):\n%s", site, diff)
		}
	}
	if sites := must[[]string](t)(s.Sites()); !cmp.Equal(sites, []string{"default", "second"}) {
		t.Errorf("sites: %v", sites)
	}
	if r, yes := s.Recovered(); yes {
		t.Errorf("an unharmed store was recovered: %+v", r)
	}
}

// TestFilesArePrivate looks at the modes of all that may hold secrets.
func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := storetest.OpenIn(t, store.Config{Dir: dir})
	fill(t, s, "default")
	check(t, s.Copy(context.Background()))
	files := 0
	check(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		check(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		files++
		return nil
	}))
	if files < 8 {
		t.Errorf("only %d files and folders found", files)
	}
}

// TestUnchangedIsNotWritten compares the file's bytes: a committed
// transaction always changes them.
func TestUnchangedIsNotWritten(t *testing.T) {
	config := store.Config{Dir: t.TempDir(), CopyDelay: -1}
	s := storetest.OpenIn(t, config)
	fill(t, s, "default")
	before := must[[]byte](t)(os.ReadFile(filepath.Join(config.Dir, "store.db")))
	check(t, s.SetApplied("default", record.Applied{Generation: 7, SiteFile: []byte("[site]\nhost = \"learn.example.org\"\n"), Release: "ulmo", At: noon}))
	check(t, s.SetIntent("default", record.Intent{Service: "cms", Stopped: true, Restart: 2, At: noon}))
	check(t, s.SetImage("default", record.Image{Ref: "docker.io/library/redis:7.4.5", Digest: "sha256:abc", Size: 42, At: noon}))
	check(t, s.SetJob("default", record.JobRecord{Name: "lms-migrate", Reason: "r1", State: record.JobSucceeded, Attempts: 1, Started: noon, Ended: noon}))
	must[record.Address](t)(s.Address("default", "lms", range4, range6))
	must[string](t)(s.Secret("default", "mysql-root", func() (string, error) { return "other", nil }))
	if after := must[[]byte](t)(os.ReadFile(filepath.Join(config.Dir, "store.db"))); string(after) != string(before) {
		t.Error("the file changed although no value did")
	}
	check(t, s.SetIntent("default", record.Intent{Service: "cms", Stopped: false, Restart: 2, At: noon}))
	if after := must[[]byte](t)(os.ReadFile(filepath.Join(config.Dir, "store.db"))); string(after) == string(before) {
		t.Error("the file is the same although a value changed")
	}
}

// TestWrongInputIsRefused tries what cannot be a key or a record.
func TestWrongInputIsRefused(t *testing.T) {
	s := storetest.Open(t)
	address := func(site, service, v4, v6 string) error {
		var p6 netip.Prefix
		if v6 != "" {
			p6 = netip.MustParsePrefix(v6)
		}
		_, err := s.Address(site, service, netip.MustParsePrefix(v4), p6)
		return err
	}
	secret := func(site, name, value string, err error) error {
		_, err = s.Secret(site, name, func() (string, error) { return value, err })
		return err
	}
	event := func(site string, e record.Event) error {
		_, err := s.AppendEvent(site, e)
		return err
	}
	boom := errors.New("boom")
	for name, tc := range map[string]struct {
		got  error
		want error // nil: any error
	}{
		"site with a slash":      {s.SetIntent("a/b", record.Intent{Service: "lms"}), store.ErrInvalidName},
		"site that climbs":       {secret("..", "x", "v", nil), store.ErrInvalidName},
		"empty site":             {s.SetApplied("", record.Applied{}), store.ErrInvalidName},
		"empty service":          {s.SetIntent("default", record.Intent{}), store.ErrInvalidName},
		"service with a zero":    {event("default", record.Event{Service: "l\x00ms"}), store.ErrInvalidName},
		"empty job":              {s.SetJob("default", record.JobRecord{}), store.ErrInvalidName},
		"empty image":            {s.SetImage("default", record.Image{}), store.ErrInvalidName},
		"image with a line":      {s.SetImage("default", record.Image{Ref: "a\nb"}), store.ErrInvalidName},
		"huge site file":         {s.SetApplied("default", record.Applied{SiteFile: make([]byte, 2<<20)}), store.ErrTooLarge},
		"IPv6 for IPv4":          {address("default", "lms", "fd00::/64", ""), nil},
		"IPv4 for IPv6":          {address("default", "lms", "10.0.0.0/24", "10.0.0.0/24"), nil},
		"prefix too long":        {address("default", "lms", "10.0.0.0/31", ""), nil},
		"secret that fails":      {secret("default", "x", "", boom), boom},
		"empty secret":           {secret("default", "x", "", nil), nil},
		"secret that is no text": {secret("default", "x", "\xff", nil), nil},
		"secret that is huge":    {secret("default", "x", strings.Repeat("x", 1<<17), nil), nil},
	} {
		if tc.got == nil || tc.want != nil && !errors.Is(tc.got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, tc.got, tc.want)
		}
	}
	check(t, s.SetApplied("default", record.Applied{Generation: 5}))
	if err := s.SetApplied("default", record.Applied{Generation: 4}); !errors.Is(err, store.ErrOlderGeneration) {
		t.Errorf("an older generation: %v", err)
	}
	if got, _, err := s.Applied("default"); err != nil || got.Generation != 5 {
		t.Errorf("applied after refusals: %+v, %v", got, err)
	}
}

// TestClosedStore answers everything with ErrClosed.
func TestClosedStore(t *testing.T) {
	s := storetest.Open(t)
	check(t, s.Close())
	check(t, s.Close())
	_, _, err := s.Applied("default")
	for name, err := range map[string]error{
		"Applied":    err,
		"SetApplied": s.SetApplied("default", record.Applied{}),
		"SetIntent":  s.SetIntent("default", record.Intent{Service: "lms"}),
		"Copy":       s.Copy(context.Background()),
		"Check":      s.Check(),
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

// TestHistoryIsBounded appends far more than the bound and wants the newest,
// with numbers that never repeat.
func TestHistoryIsBounded(t *testing.T) {
	config := store.Config{Dir: t.TempDir(), EventsPerSite: 100, CopyDelay: -1}
	s := storetest.OpenIn(t, config)
	for i := range 350 {
		service := []string{"lms", "mysql", ""}[i%3]
		e := must[record.Event](t)(s.AppendEvent("default", record.Event{Kind: record.Started, Service: service, At: noon}))
		if e.Seq != uint64(i+1) {
			t.Fatalf("event %d got number %d", i, e.Seq)
		}
	}
	events := must[[]record.Event](t)(s.Events("default", 0, 1000))
	if len(events) < 100 || len(events) > 105 || events[len(events)-1].Seq != 350 {
		t.Errorf("%d events are kept, the last one %d", len(events), events[len(events)-1].Seq)
	}
	for i := 1; i < len(events); i++ {
		if events[i].Seq != events[i-1].Seq+1 {
			t.Errorf("event %d follows %d", events[i].Seq, events[i-1].Seq)
		}
	}
	after := must[[]record.Event](t)(s.Events("default", 340, 4))
	if len(after) != 4 || after[0].Seq != 341 || after[3].Seq != 344 {
		t.Errorf("four events after 340: %+v", after)
	}
	if newest := must[[]record.Event](t)(s.ServiceEvents("default", "mysql", 3)); len(newest) != 3 || newest[0].Seq != 350 || newest[2].Seq != 344 {
		t.Errorf("newest of mysql: %+v", newest)
	}
	if all := must[[]record.Event](t)(s.ServiceEvents("default", "lms", 1000)); len(all) < 33 || len(all) > 35 {
		t.Errorf("lms has %d events", len(all))
	}
	if none := must[[]record.Event](t)(s.ServiceEvents("default", "m", 10)); len(none) != 0 {
		t.Errorf("a service that is a prefix of another: %+v", none)
	}
	s = reopen(t, s, config)
	if e := must[record.Event](t)(s.AppendEvent("default", record.Event{Kind: record.Started})); e.Seq != 351 || e.At.IsZero() {
		t.Errorf("the next event: %+v", e)
	}
}

// TestLongTextsAreShortened keeps the ends that matter.
func TestLongTextsAreShortened(t *testing.T) {
	s := storetest.Open(t)
	lines := make([]string, 5000)
	for i := range lines {
		lines[i] = fmt.Sprintf("line %04d %s", i, strings.Repeat("x", 100))
	}
	e := must[record.Event](t)(s.AppendEvent("default", record.Event{Reason: strings.Repeat("é", 10_000), LogTail: lines}))
	if len(e.Reason) > 8200 || !strings.HasPrefix(e.Reason, "éé") || !strings.HasSuffix(e.Reason, "é…") {
		t.Errorf("a reason of %d bytes, ends %q", len(e.Reason), e.Reason[len(e.Reason)-6:])
	}
	if n := len(e.LogTail); n < 500 || n > 600 || e.LogTail[n-1] != lines[4999] {
		t.Errorf("%d lines are kept", n)
	}
	e = must[record.Event](t)(s.AppendEvent("default", record.Event{LogTail: []string{"first", strings.Repeat("y", 1<<20) + "end\xff"}}))
	if len(e.LogTail) != 1 || !strings.HasSuffix(e.LogTail[0], "yend") || len(e.LogTail[0]) > 9000 {
		t.Errorf("one huge line: %d lines", len(e.LogTail))
	}
}

// TestAddressesAreFixed assigns, changes prefixes, releases and exhausts.
func TestAddressesAreFixed(t *testing.T) {
	dir := t.TempDir()
	subuid, subgid := filepath.Join(dir, "subuid"), filepath.Join(dir, "subgid")
	check(t, os.WriteFile(subuid, []byte("# made by hand\nana:1114112:65536\nbroken\n"), 0o600))
	check(t, os.WriteFile(subgid, []byte("ana:1245000:10\n"), 0o600))
	config := store.Config{Dir: filepath.Join(dir, "store"), SubIDFiles: []string{subuid, subgid, filepath.Join(dir, "missing")}}
	s := storetest.OpenIn(t, config)
	get := func(site, service, v4 string) record.Address {
		t.Helper()
		return must[record.Address](t)(s.Address(site, service, netip.MustParsePrefix(v4), range6))
	}
	want := []record.Address{
		{Service: "lms", V4: netip.MustParseAddr("10.213.0.2"), V6: netip.MustParseAddr("fd12:3456:789a::2"), IDBase: 1 << 20},
		// The next two ranges are ana's, or hold some of hers.
		{Service: "mysql", V4: netip.MustParseAddr("10.213.0.3"), V6: netip.MustParseAddr("fd12:3456:789a::3"), IDBase: 1<<20 + 3*65536},
		{Service: "redis", V4: netip.MustParseAddr("10.213.0.4"), V6: netip.MustParseAddr("fd12:3456:789a::4"), IDBase: 1<<20 + 4*65536},
	}
	for _, w := range want {
		if got := get("default", w.Service, "10.213.0.0/24"); got != w {
			t.Errorf("got %+v, want %+v", got, w)
		}
	}
	if got := get("second", "lms", "10.213.0.0/24"); got.V4 != want[0].V4 || got.IDBase != 1<<20+5*65536 {
		t.Errorf("another site's: %+v: addresses are its own, ids are not", got)
	}
	s = reopen(t, s, config)
	if got := get("default", "mysql", "10.213.0.0/24"); got != want[1] {
		t.Errorf("after reopening: %+v", got)
	}
	if got := must[record.Address](t)(s.Address("default", "mysql", range4, netip.Prefix{})); got.V6.IsValid() || got.V4 != want[1].V4 {
		t.Errorf("without IPv6: %+v", got)
	}
	moved := get("default", "mysql", "10.99.0.0/26")
	if moved.V4 != netip.MustParseAddr("10.99.0.2") || moved.IDBase != want[1].IDBase {
		t.Errorf("in another range: %+v", moved)
	}

	// A /29 has five places; the sixth service gets the place that was released
	// first, and only because no other is left.
	for i := range 5 {
		get("small", fmt.Sprint("s", i), "192.168.9.0/29")
	}
	if _, err := s.Address("small", "s5", netip.MustParsePrefix("192.168.9.0/29"), range6); !errors.Is(err, store.ErrExhausted) {
		t.Fatalf("a full range: %v", err)
	}
	check(t, s.ReleaseAddress("small", "s3"))
	check(t, s.ReleaseAddress("small", "s1"))
	check(t, s.ReleaseAddress("small", "nobody"))
	if got := get("small", "s5", "192.168.9.0/29"); got.V4 != netip.MustParseAddr("192.168.9.5") {
		t.Errorf("the place released first is .5: %+v", got)
	}
	if got := get("small", "s1", "192.168.9.0/29"); got.V4 != netip.MustParseAddr("192.168.9.3") {
		t.Errorf("a service that came back: %+v", got)
	}
}

// TestIDsRunOut refuses to assign ids that programs would misread.
func TestIDsRunOut(t *testing.T) {
	s := storetest.OpenIn(t, store.Config{Dir: t.TempDir(), FirstID: 1<<31 - 2*65536, SubIDFiles: []string{}})
	must[record.Address](t)(s.Address("default", "a", range4, range6))
	must[record.Address](t)(s.Address("default", "b", range4, range6))
	if _, err := s.Address("default", "c", range4, range6); !errors.Is(err, store.ErrExhausted) {
		t.Errorf("no ids left: %v", err)
	}
}

// TestRebuildFromLabels gives an empty store back what labels hold.
func TestRebuildFromLabels(t *testing.T) {
	s := storetest.Open(t)
	labels := func(spec, generation, reason string) map[string]string {
		return map[string]string{
			container.LabelSite: "default", container.LabelSpec: spec,
			container.LabelGeneration: generation, container.LabelReason: reason,
		}
	}
	const lms = `{"site":"default","name":"lms","kind":"service","image":"docker.io/overhangio/openedx:21","idBase":1114112,"addresses":{"v4":"10.213.0.9","v6":"fd12:3456:789a::9"}}`
	const stale = `{"site":"default","name":"old","kind":"service","image":"docker.io/overhangio/openedx:20","idBase":1179648,"addresses":{"v4":"10.213.0.9","v6":""}}`
	const job = `{"site":"default","name":"migrate","kind":"job","image":"x@sha256:1","addresses":{"v4":"","v6":""}}`
	const failed = `{"site":"default","name":"import","kind":"job","image":"x@sha256:1","addresses":{"v4":"","v6":""}}`
	containers := []container.Status{
		{ID: "default.a-old", State: container.Exited, Labels: labels(stale, "3", "")},
		{ID: "default.lms", State: container.Running, Image: "docker.io/overhangio/openedx:21@sha256:feed", Labels: labels(lms, "12", "")},
		{ID: "default.migrate", State: container.Exited, Labels: labels(job, "11", "r9"), Exit: &container.Exit{At: noon}},
		{ID: "default.import", State: container.Exited, Labels: labels(failed, "11", "r9"), Exit: &container.Exit{Code: 1, At: noon}},
		{ID: "default.bad", Labels: labels("{", "999x", "")},
		{ID: "other.lms", Labels: map[string]string{container.LabelSite: "other"}},
	}
	got := must[store.Rebuilt](t)(s.Rebuild("default", containers))
	want := store.Rebuilt{
		Generation: 12, Addresses: []string{"lms"}, Images: []string{"docker.io/overhangio/openedx:21"}, Jobs: []string{"migrate"},
		Skipped: []string{"default.a-old: its place already belongs to lms", "default.bad: label tarima/spec is not a specification"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rebuilt (-want +got):\n%s", diff)
	}
	if a := must[record.Address](t)(s.Address("default", "lms", range4, range6)); a.V4 != netip.MustParseAddr("10.213.0.9") || a.IDBase != 1114112 {
		t.Errorf("address: %+v", a)
	}
	if i := must[map[string]record.Image](t)(s.Images("default"))["docker.io/overhangio/openedx:21"]; i.Digest != "sha256:feed" {
		t.Errorf("image: %+v", i)
	}
	jobs := must[map[string]record.JobRecord](t)(s.Jobs("default"))
	if j := jobs["migrate"]; len(jobs) != 1 || j.State != record.JobSucceeded || j.Reason != "r9" {
		t.Errorf("jobs: %+v", jobs)
	}
	a, known, err := s.Applied("default")
	if err != nil || known || a.Generation != 12 {
		t.Errorf("applied: %+v, %v, %v", a, known, err)
	}
	if err := s.SetApplied("default", record.Applied{Generation: 11}); !errors.Is(err, store.ErrOlderGeneration) {
		t.Errorf("a generation below the rebuilt one: %v", err)
	}
	// A second time nothing is new.
	if again := must[store.Rebuilt](t)(s.Rebuild("default", containers)); len(again.Addresses)+len(again.Images)+len(again.Jobs) != 0 {
		t.Errorf("again: %+v", again)
	}
}

// TestConcurrentUse runs everything at once; the race detector and the
// check at the end judge.
func TestConcurrentUse(t *testing.T) {
	s := storetest.OpenIn(t, store.Config{Dir: t.TempDir(), EventsPerSite: 50, CopyDelay: time.Millisecond})
	var all sync.WaitGroup
	secrets := make([]string, 8)
	for n := range 8 {
		all.Go(func() {
			service := fmt.Sprint("s", n)
			for i := range 15 {
				_, err := s.AppendEvent("default", record.Event{Service: service, Kind: record.Started})
				fail(t, err)
				fail(t, s.SetIntent("default", record.Intent{Service: service, Restart: uint64(i)}))
				_, err = s.Address("default", service, range4, range6)
				fail(t, err)
				_, err = s.Events("default", 0, 100)
				fail(t, err)
			}
			var err error
			secrets[n], err = s.Secret("default", "shared", func() (string, error) { return service, nil })
			fail(t, err)
			fail(t, s.Copy(context.Background()))
		})
	}
	all.Wait()
	for _, v := range secrets {
		if v == "" || v != secrets[0] {
			t.Errorf("one secret has several values: %q", secrets)
		}
	}
	intents := must[map[string]record.Intent](t)(s.Intents("default"))
	for n := range 8 {
		if got := intents[fmt.Sprint("s", n)].Restart; got != 14 {
			t.Errorf("s%d ended at %d", n, got)
		}
	}
}

func fail(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
