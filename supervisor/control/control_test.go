package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/store/record"
	"tarima/supervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend answers what a test sets, and remembers what it was asked.
type backend struct {
	Backend
	acted []string

	maintenance Maintenance
	siteFile    []byte
	err         error
	exec        func(ctx context.Context, service string, e Exec, s Streams) (int, error)
	logs        func(ctx context.Context, q LogQuery, emit func(LogLine) error) error
}

func (b *backend) About() About { return About{API: Version, Version: "1", PID: os.Getpid()} }

func (b *backend) Status(context.Context) (supervisor.SiteStatus, error) {
	return supervisor.SiteStatus{Site: "default", Overall: supervisor.OverallReady}, b.err
}

func (b *backend) Plan(_ context.Context, file []byte) (Planned, error) {
	b.siteFile = file
	return Planned{Steps: []supervisor.StepStatus{{Action: "start", Service: "lms", Reason: "it is wanted"}}}, b.err
}

func (b *backend) Apply(_ context.Context, file []byte) (Applied, error) {
	b.siteFile = file
	return Applied{Generation: 7, Changes: []string{"site.name"}}, b.err
}

func (b *backend) Act(_ context.Context, service string, action Action) error {
	b.acted = append(b.acted, string(action)+" "+service)
	return b.err
}

func (b *backend) Requests(context.Context) (routes.Requests, error) {
	return routes.Requests{InFlight: 2, Held: 1, Requests: []routes.Request{{Path: "/a", State: routes.RequestHeld}}}, b.err
}

func (b *backend) Maintain(_ context.Context, m Maintenance) (Maintained, error) {
	b.maintenance = m
	return Maintained{Hosts: m.Hosts, Until: m.Until, Passes: []string{"link"}}, b.err
}

func (b *backend) Maintenance(context.Context) (Maintained, error) {
	return Maintained{Passes: []string{"link"}}, b.err
}

func (b *backend) Events(_ context.Context, after uint64, limit int, wait time.Duration) ([]record.Event, error) {
	return []record.Event{{Seq: after + 1, Reason: wait.String(), Service: strings.Repeat("x", limit)}}, b.err
}

func (b *backend) Logs(ctx context.Context, q LogQuery, emit func(LogLine) error) error {
	return b.logs(ctx, q, emit)
}

func (b *backend) Exec(ctx context.Context, service string, e Exec, s Streams) (int, error) {
	return b.exec(ctx, service, e, s)
}

func (b *backend) PullImage(_ context.Context, ref string, progress func(container.Progress)) (container.Image, error) {
	progress(container.Progress{Ref: ref, Phase: "downloading", Done: 1, Total: 2})
	return container.Image{Ref: ref, Digest: "sha256:1"}, b.err
}

func (b *backend) LoadImages(_ context.Context, archive io.Reader) ([]container.Image, error) {
	data, err := io.ReadAll(archive)
	if err != nil {
		return nil, err
	}
	return []container.Image{{Ref: string(data)}}, b.err
}

func serve(t *testing.T, b Backend) *Client {
	t.Helper()
	dir := t.TempDir()
	s, err := Listen(dir, "no-such-group", b, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
			t.Errorf("sockets are left: %v", left)
		}
	})
	return NewClient(dir)
}

func TestCalls(t *testing.T) {
	b := &backend{}
	c := serve(t, b)
	ctx := t.Context()
	if about, err := c.About(ctx); err != nil || about.PID != os.Getpid() {
		t.Errorf("about: %+v %v", about, err)
	}
	if status, err := c.Status(ctx); err != nil || status.Overall != supervisor.OverallReady {
		t.Errorf("status: %+v %v", status, err)
	}
	if plan, err := c.Plan(ctx, nil); err != nil || len(plan.Steps) != 1 || b.siteFile != nil {
		t.Errorf("plan: %+v %v, file %q", plan, err, b.siteFile)
	}
	if _, err := c.Plan(ctx, []byte("[site]")); err != nil || string(b.siteFile) != "[site]" {
		t.Errorf("plan of a file: %v, file %q", err, b.siteFile)
	}
	if applied, err := c.Apply(ctx, nil); err != nil || applied.Generation != 7 || b.siteFile != nil {
		t.Errorf("apply: %+v %v", applied, err)
	}
	if requests, err := c.Requests(ctx); err != nil || requests.InFlight != 2 || requests.Requests[0].State != routes.RequestHeld {
		t.Errorf("requests: %+v %v", requests, err)
	}
	for _, action := range []Action{Start, Stop, Restart} {
		if err := c.Act(ctx, "lms-worker", action); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"start lms-worker", "stop lms-worker", "restart lms-worker"}; !reflect.DeepEqual(b.acted, want) {
		t.Errorf("acted %v, want %v", b.acted, want)
	}
	back := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	done, err := c.Maintain(ctx, Maintenance{Close: true, Hosts: []string{"studio"}, Until: back})
	if err != nil || !b.maintenance.Close || len(done.Hosts) != 1 || !done.Until.Equal(back) || !b.maintenance.Until.Equal(back) {
		t.Errorf("maintenance: %+v %v, asked %+v", done, err, b.maintenance)
	}
	if m, err := c.Maintenance(ctx); err != nil || len(m.Passes) != 1 {
		t.Errorf("maintenance: %+v %v", m, err)
	}
	events, err := c.Events(ctx, 41, 3, 2*time.Second)
	if err != nil || len(events) != 1 || events[0].Seq != 42 || events[0].Reason != "2s" || events[0].Service != "xxx" {
		t.Errorf("events: %+v %v", events, err)
	}
	var seen []container.Progress
	image, err := c.PullImage(ctx, "redis:7", func(p container.Progress) { seen = append(seen, p) })
	if err != nil || image.Digest != "sha256:1" || len(seen) != 1 {
		t.Errorf("pull: %+v %v, progress %v", image, err, seen)
	}
	if images, err := c.LoadImages(ctx, strings.NewReader("archive")); err != nil || images[0].Ref != "archive" {
		t.Errorf("load: %v %v", images, err)
	}
}

func TestProblemsCross(t *testing.T) {
	b := &backend{}
	c := serve(t, b)
	b.err = Invalid([]string{"tarima.toml:3:1: nmae"}, "the file is wrong")
	_, err := c.Apply(t.Context(), nil)
	var p *Problem
	if !errors.As(err, &p) || p.Code != CodeInvalid || len(p.Details) != 1 || p.Message != "the file is wrong" {
		t.Errorf("apply: %#v", err)
	}
	b.err = NotFound("there is no service %q", "lsm")
	if err := c.Act(t.Context(), "lsm", Start); !errors.Is(err, &Problem{Code: CodeNotFound}) {
		t.Errorf("act: %v", err)
	}
	b.err = errors.New("disk on fire")
	if _, err := c.PullImage(t.Context(), "x", func(container.Progress) {}); err == nil || err.Error() != "disk on fire" {
		t.Errorf("pull: %v", err)
	}
	if _, err := c.Apply(t.Context(), bytes.Repeat([]byte("#"), maxSiteFile+1)); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a file that is too large: %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	// A socket whose process is gone: killed, so that nobody removed it.
	l, err := listen(filepath.Join(dir, ControlSocket), 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dead socket: %v", err)
	}
}

func TestReadingSocket(t *testing.T) {
	b := &backend{}
	c := serve(t, b)
	full := filepath.Join(c.dir, ControlSocket)
	for path, mode := range map[string]os.FileMode{full: 0o600, filepath.Join(c.dir, ReadSocket): 0o660} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), mode)
		}
	}
	// A reader's client sees the reading socket alone.
	reader := t.TempDir()
	if err := os.Symlink(filepath.Join(c.dir, ReadSocket), filepath.Join(reader, ControlSocket)); err != nil {
		t.Fatal(err)
	}
	r := NewClient(reader)
	if _, err := r.Status(t.Context()); err != nil {
		t.Errorf("status: %v", err)
	}
	if _, err := r.Requests(t.Context()); err != nil {
		t.Errorf("requests under way: %v", err)
	}
	if m, err := r.Maintenance(t.Context()); !errors.Is(err, ErrNoPermission) {
		t.Errorf("a reader is told the pass: %+v, %v", m, err)
	}
	if err := r.Act(t.Context(), "lms", Stop); !errors.Is(err, ErrNoPermission) {
		t.Errorf("stop: %v", err)
	}
	if _, err := r.Apply(t.Context(), nil); !errors.Is(err, ErrNoPermission) {
		t.Errorf("apply: %v", err)
	}
	if _, err := r.Exec(t.Context(), "lms", Exec{Argv: []string{"sh"}}, Streams{}); !errors.Is(err, ErrNoPermission) {
		t.Errorf("exec: %v", err)
	}
	if len(b.acted) > 0 {
		t.Errorf("the reading socket acted: %v", b.acted)
	}
}

func TestLogs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	b := &backend{}
	b.logs = func(_ context.Context, q LogQuery, emit func(LogLine) error) error {
		if !reflect.DeepEqual(q.Services, []string{"lms", "cms"}) || !q.Since.Equal(at) || q.Tail != 5 || !q.Follow {
			t.Errorf("query %+v", q)
		}
		return errors.Join(emit(LogLine{Service: "lms", At: at, Text: "one"}), emit(LogLine{Service: "cms", At: at, Text: "two"}))
	}
	c := serve(t, b)
	var texts []string
	err := c.Logs(t.Context(), LogQuery{Services: []string{"lms", "cms"}, Since: at, Tail: 5, Follow: true}, func(l LogLine) error {
		texts = append(texts, l.Text)
		return nil
	})
	if err != nil || !reflect.DeepEqual(texts, []string{"one", "two"}) {
		t.Errorf("%v %v", texts, err)
	}
	b.logs = func(_ context.Context, _ LogQuery, emit func(LogLine) error) error {
		return errors.Join(emit(LogLine{Text: "one"}), errors.New("the disk went away"))
	}
	if err := c.Logs(t.Context(), LogQuery{}, func(LogLine) error { return nil }); err == nil {
		t.Error("a stream that broke looks whole")
	}
	b.logs = func(context.Context, LogQuery, func(LogLine) error) error { return NotFound("no such service") }
	if err := c.Logs(t.Context(), LogQuery{}, nil); !errors.Is(err, &Problem{Code: CodeNotFound}) {
		t.Errorf("unknown service: %v", err)
	}
}

func TestExec(t *testing.T) {
	b := &backend{}
	b.exec = func(_ context.Context, service string, e Exec, s Streams) (int, error) {
		// The size may come after the input, which waits to be read.
		input, err := io.ReadAll(s.Stdin)
		if err != nil {
			return 0, err
		}
		size := <-s.Resizes
		if _, err := s.Stdout.Write([]byte(service + " " + strings.Join(e.Argv, " ") + " " + string(input))); err != nil {
			return 0, err
		}
		_, err = s.Stderr.Write([]byte("quiet"))
		return int(size.Rows), err
	}
	c := serve(t, b)
	var out, errs bytes.Buffer
	resizes := make(chan Size, 1)
	resizes <- Size{Columns: 80, Rows: 42}
	code, err := c.Exec(t.Context(), "lms", Exec{Argv: []string{"cat", "-"}},
		Streams{Stdin: strings.NewReader(strings.Repeat("y", 100_000)), Stdout: &out, Stderr: &errs, Resizes: resizes})
	if err != nil || code != 42 {
		t.Fatalf("%d %v", code, err)
	}
	if want := "lms cat - " + strings.Repeat("y", 100_000); out.String() != want {
		t.Errorf("output of %d bytes, want %d", out.Len(), len(want))
	}
	if errs.String() != "quiet" {
		t.Errorf("error output %q", errs.String())
	}
}

func TestExecHangUp(t *testing.T) {
	ended := make(chan error, 1)
	started := make(chan struct{})
	b := &backend{}
	b.exec = func(ctx context.Context, _ string, _ Exec, _ Streams) (int, error) {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return 0, ctx.Err()
	}
	c := serve(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	silent, quiet := io.Pipe()
	defer quiet.Close()
	if _, err := c.Exec(ctx, "lms", Exec{Argv: []string{"sleep"}}, Streams{Stdin: silent, Stdout: io.Discard, Stderr: io.Discard}); !errors.Is(err, context.Canceled) {
		t.Errorf("client: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the command goes on after its client hung up")
	}
}

func TestSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ControlSocket), []byte("left over"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(dir, "", &backend{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if _, err := NewClient(dir).About(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := Listen(filepath.Join(dir, "missing"), "", &backend{}, slog.New(slog.DiscardHandler)); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a folder that is missing: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{2, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, payload, err := readFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, kind, payload); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), data[:again.Len()]) {
			t.Errorf("%x became %x", data, again.Bytes())
		}
	})
}
