package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarima/store"
	"tarima/store/record"
	"tarima/supervisor"
)

// startingAppliance is a daemon as far as it decides what is wanted: its store
// and its folders are real, nothing is started.
func startingAppliance(t *testing.T) (*appliance, *bytes.Buffer) {
	t.Helper()
	var logged bytes.Buffer
	a := &appliance{paths: newPaths(t.TempDir()), log: slog.New(slog.NewTextHandler(&logged, nil))}
	if err := a.makeFolders(); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.store, err = store.Open(t.Context(), store.Config{Dir: filepath.Join(a.paths.State, "store"), Wait: time.Second, Logger: a.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.store.Close(); err != nil {
			t.Error(err)
		}
	})
	a.supervisor, err = supervisor.New(supervisor.Config{
		Site: defaultSite, Engine: struct{ supervisor.Engine }{}, Network: struct{ supervisor.Network }{},
		Store: a.store, Logger: a.log, Prefix4: netip.MustParsePrefix("10.213.0.0/24"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, &logged
}

// Site files that a daemon may find. The mail password of the third lies in a
// file that does not exist, which only shows when it is put into effect.
const (
	goodFile   = "[site]\nhost = \"learn.example.org\"\n"
	otherFile  = "[site]\nhost = \"other.example.org\"\n"
	brokenFile = goodFile + "[mail]\nsmarthost = \"mail.example.org\"\nuser = \"u\"\npassword_file = \"/nonexistent/password\"\n"
	rangeFile  = brokenFile + "[network]\nrange4 = \"10.99.0.0/24\"\n"
	wrongFile  = "[site]\nhots = \"learn.example.org\"\n"
	noFile     = ""
)

func TestApplyAtStart(t *testing.T) {
	for name, in := range map[string]struct {
		disk, last string
		applied    string // what goes on; "": nothing
		trouble    string // what the status says; "": nothing
		fails      string // the daemon does not start
	}{
		"the first file":                           {disk: goodFile, applied: goodFile},
		"the same file again":                      {disk: goodFile, last: goodFile, applied: goodFile},
		"another file":                             {disk: goodFile, last: otherFile, applied: goodFile},
		"no file yet":                              {},
		"a file that is gone":                      {last: goodFile, applied: goodFile, trouble: "no such file or directory; the last applied one goes on"},
		"a wrong file":                             {disk: wrongFile, last: goodFile, applied: goodFile, trouble: "hots"},
		"a wrong file and none before":             {disk: wrongFile, trouble: "hots"},
		"a wrong file and a wrong one before":      {disk: wrongFile, last: wrongFile, trouble: "last applied site file"},
		"one that has no effect":                   {disk: brokenFile, last: goodFile, applied: goodFile, trouble: "mail.password_file"},
		"one that has no effect and none before":   {disk: brokenFile, fails: "mail.password_file"},
		"one that has no effect any more":          {disk: brokenFile, last: brokenFile, applied: brokenFile, fails: "mail.password_file"},
		"one that has no effect for other engines": {disk: rangeFile, last: goodFile, applied: goodFile, fails: "mail.password_file"},
	} {
		t.Run(name, func(t *testing.T) {
			a, logged := startingAppliance(t)
			if in.disk != noFile {
				if err := os.WriteFile(a.paths.SiteFile, []byte(in.disk), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if in.last != noFile {
				if err := a.store.SetApplied(defaultSite, record.Applied{Generation: 7, SiteFile: []byte(in.last)}); err != nil {
					t.Fatal(err)
				}
			}
			err := a.applyAtStart(t.Context(), a.wantedAtStart())
			if (err != nil) != (in.fails != "") || err != nil && !strings.Contains(err.Error(), in.fails) {
				t.Errorf("error %v, want %q", err, in.fails)
			}
			now, _, err := a.store.Applied(defaultSite)
			if err != nil || string(now.SiteFile) != in.applied && !(in.applied == "" && in.last == wrongFile) {
				t.Errorf("applied is %q, want %q (%v)", now.SiteFile, in.applied, err)
			}
			if got := a.wishes.trouble; (got == "") != (in.trouble == "") || !strings.Contains(got, in.trouble) {
				t.Errorf("trouble %q, want %q", got, in.trouble)
			}
			events, err := a.store.Events(defaultSite, 0, 10)
			if err != nil {
				t.Fatal(err)
			}
			refused := 0
			for _, e := range events {
				if e.Kind == record.RefusedEvent {
					refused++
				}
			}
			if want := min(len(in.trouble), 1); refused != want {
				t.Errorf("%d refusals among %+v, want %d; log:\n%s", refused, events, want, logged)
			}
			if in.disk == noFile && in.last == noFile && !strings.Contains(logged.String(), "no site file yet") {
				t.Errorf("nobody is told what to do: %s", logged)
			}
		})
	}
}
