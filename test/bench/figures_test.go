package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	var none samples
	if none.median() != 0 {
		t.Error("no samples have a median")
	}
	s := samples{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %g: %g, want %g", q, got, want)
		}
	}
	if s[0] != 5 {
		t.Error("the samples were sorted in place")
	}
}

// A pair that met a busy machine does not spoil the ratio of the others.
func TestPairs(t *testing.T) {
	var p pairs
	p.add(1, 4)
	p.add(100, 400)
	p.add(2, 8)
	f := p.figure("start", "ms", "docker").ratioAtMost(0.25)
	if *f.Ratio != 0.25 || !*f.Met || f.Value != 2 || *f.PeerValue != 8 {
		t.Errorf("%+v", f)
	}
	if f = f.ratioAtMost(0.24); *f.Met {
		t.Error("0.25 meets 0.24")
	}
	if f = f.ratioAtLeast(0.26); *f.Met {
		t.Error("0.25 is at least 0.26")
	}
	if f = f.atMost(1); *f.Met {
		t.Error("2 is at most 1")
	}
}

// What a run did not measure keeps its earlier value.
func TestWriteKeepsOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	for _, run := range [][]figure{{{Name: "a", Value: 1}, {Name: "b", Value: 2}}, {{Name: "b", Value: 3}, {Name: "c", Value: 4}}} {
		f := figures{list: run, out: io.Discard}
		if err := f.write(path); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []figure
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	want := []figure{{Name: "a", Value: 1}, {Name: "b", Value: 3}, {Name: "c", Value: 4}}
	if len(all) != len(want) {
		t.Fatalf("%+v", all)
	}
	for i := range want {
		if all[i].Name != want[i].Name || all[i].Value != want[i].Value {
			t.Errorf("%+v, want %+v", all[i], want[i])
		}
	}
	var table strings.Builder
	if err := markdown(&table, path, false); err != nil || strings.Count(table.String(), "\n") != 5 || !strings.Contains(table.String(), "| b | 3 ") {
		t.Errorf("%v:\n%s", err, table.String())
	}
	f := figures{out: io.Discard}
	f.add(figure{Name: doorFigures + "pages", Value: 5})
	if err := f.write(path); err != nil {
		t.Fatal(err)
	}
	table.Reset()
	if err := markdown(&table, path, true); err != nil || strings.Count(table.String(), "\n") != 3 || !strings.Contains(table.String(), "| pages | 5 ") {
		t.Errorf("of the door: %v:\n%s", err, table.String())
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&figures{out: io.Discard}).write(path); err == nil {
		t.Error("a damaged file was replaced")
	}
}
