package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// TestExamineDoor: the doctor tells an application that answers from one that
// does not, and what keeps visitors out.
func TestExamineDoor(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = open.Close() })
	shut, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := shut.Addr().String()
	if err := shut.Close(); err != nil {
		t.Fatal(err)
	}
	var config site.Config
	config.Proxy.Apps = map[string]site.App{"blog": {Address: []string{nobody, open.Addr().String()}}, "notes": {Service: "lms"}}
	config.Proxy.Proof = true
	now := time.Now()
	closed := &supervisor.MaintenanceStatus{Hosts: []string{"learn.test"}, Until: now.Add(time.Hour)}
	text := func(found []control.Finding) string {
		var lines []string
		for _, f := range found {
			lines = append(lines, f.Level+" "+f.Code+" "+f.Text)
		}
		return strings.Join(lines, "\n")
	}
	got := text(examineDoor(t.Context(), config, closed, now))
	for _, want := range []string{
		"warning APP-blog proxy.apps.blog: nobody answers at " + nobody + ": dial tcp",
		"ok APP-blog proxy.apps.blog: " + open.Addr().String() + " takes connections",
		"info SITE-CLOSED closed to visitors for maintenance: learn.test",
		"info SITE-PROOF",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the doctor does not say %q:\n%s", want, got)
		}
	}
	if got := text(examineDoor(t.Context(), site.Config{}, closed, now.Add(2*time.Hour))); !strings.HasPrefix(got, "warning SITE-CLOSED") || !strings.Contains(got, "although they were told until") {
		t.Errorf("closed for longer than was told: %s", got)
	}
	if got := examineDoor(t.Context(), site.Config{}, nil, now); len(got) != 0 {
		t.Errorf("a usual site: %v", got)
	}
}
