package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarima/store/record"
	"tarima/supervisor/control"
)

func TestChangeMaintenance(t *testing.T) {
	served := []string{"learn.example.org", "studio.learn.example.org", "blog.example.org"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later := at.Add(time.Hour)
	const studio, blog = "studio.learn.example.org", "blog.example.org"
	for _, c := range []struct {
		name string
		now  record.Maintenance
		want control.Maintenance
		next record.Maintenance
	}{
		{"close all", record.Maintenance{}, control.Maintenance{Close: true, Until: later}, record.Maintenance{All: true, Since: at, Until: later}},
		{"close one", record.Maintenance{}, control.Maintenance{Close: true, Hosts: []string{blog}}, record.Maintenance{Hosts: []string{blog}, Since: at}},
		{
			"close another",
			record.Maintenance{Hosts: []string{blog}, Since: at, Pass: "p"},
			control.Maintenance{Close: true, Hosts: []string{studio, blog}, Until: later},
			record.Maintenance{Hosts: []string{blog, studio}, Since: at, Until: later, Pass: "p"},
		},
		{"close all after one", record.Maintenance{Hosts: []string{blog}, Since: at, Pass: "p"}, control.Maintenance{Close: true}, record.Maintenance{All: true, Since: at, Pass: "p"}},
		{"close one of all", record.Maintenance{All: true, Since: at, Pass: "p"}, control.Maintenance{Close: true, Hosts: []string{blog}, Until: later}, record.Maintenance{All: true, Since: at, Until: later, Pass: "p"}},
		{"open all", record.Maintenance{All: true, Since: at, Pass: "p"}, control.Maintenance{}, record.Maintenance{}},
		{"open one of all", record.Maintenance{All: true, Since: at, Pass: "p"}, control.Maintenance{Hosts: []string{blog}}, record.Maintenance{Hosts: served[:2], Since: at, Pass: "p"}},
		{"open the last", record.Maintenance{Hosts: []string{blog}, Since: at, Pass: "p"}, control.Maintenance{Hosts: []string{blog}}, record.Maintenance{}},
		{"open an open one", record.Maintenance{Hosts: []string{blog}, Since: at, Pass: "p"}, control.Maintenance{Hosts: []string{studio}}, record.Maintenance{Hosts: []string{blog}, Since: at, Pass: "p"}},
		{"a host that is gone", record.Maintenance{Hosts: []string{"old.example.org"}, Since: at, Pass: "p"}, control.Maintenance{Hosts: []string{studio}}, record.Maintenance{}},
	} {
		before := slices.Clone(c.now.Hosts)
		got := changeMaintenance(c.now, c.want, served, at)
		if !c.now.On() {
			if len(got.Pass) < 20 {
				t.Errorf("%s: pass %q", c.name, got.Pass)
			}
			got.Pass = ""
		}
		if diff := cmp.Diff(c.next, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if !slices.Equal(before, c.now.Hosts) {
			t.Errorf("%s: what was is changed", c.name)
		}
	}
}

func TestPassLinks(t *testing.T) {
	hosts := []string{"learn.example.org", "studio.learn.example.org", "blog.example.org"}
	for https, want := range map[string]string{
		":443":  "https://learn.example.org/-/pass/p https://blog.example.org/-/pass/p",
		":8443": "https://learn.example.org:8443/-/pass/p https://blog.example.org:8443/-/pass/p",
		"off":   "https://learn.example.org/-/pass/p https://blog.example.org/-/pass/p",
	} {
		if got := strings.Join(passLinks(hosts, https, "p"), " "); got != want {
			t.Errorf("%s: %s", https, got)
		}
	}
}

func TestParseUntil(t *testing.T) {
	now := time.Date(2026, 3, 4, 17, 0, 20, 0, time.Local)
	for text, want := range map[string]time.Time{
		"2h":                   time.Date(2026, 3, 4, 19, 0, 0, 0, time.Local),
		"18:30":                time.Date(2026, 3, 4, 18, 30, 0, 0, time.Local),
		"09:15":                time.Date(2026, 3, 5, 9, 15, 0, 0, time.Local),
		"2026-04-01 08:00":     time.Date(2026, 4, 1, 8, 0, 0, 0, time.Local),
		"2026-04-01":           time.Date(2026, 4, 1, 0, 0, 0, 0, time.Local),
		"2026-04-01T08:00:00Z": time.Date(2026, 4, 1, 8, 0, 0, 0, time.UTC),
	} {
		if got, err := parseUntil(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-2h", "0s", "tomorrow", "25:00", "2026-01-01", "2026-03-04 16:00"} {
		if got, err := parseUntil(text, now); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}
