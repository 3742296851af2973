package coding

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestBest(t *testing.T) {
	all := [Count]int64{Brotli: 10, Zstd: 12, Gzip: 15, Identity: 100}
	plain := [Count]int64{Brotli: -1, Zstd: -1, Gzip: -1, Identity: 100}
	for _, c := range []struct {
		accept []string
		sizes  [Count]int64
		want   string
	}{
		{nil, all, "identity"},
		{[]string{""}, all, "identity"},
		{[]string{"gzip, deflate, br, zstd"}, all, "br"},
		{[]string{"gzip", "zstd"}, all, "zstd"},
		{[]string{"GZip"}, all, "gzip"},
		{[]string{"x-gzip"}, all, "gzip"},
		{[]string{"br;q=0.5, gzip;q=0.8"}, all, "gzip"},
		{[]string{"br ; q=0.5,gzip ;Q=0.5"}, all, "br"},
		{[]string{"identity;q=1, br;q=0.5"}, all, "identity"},
		{[]string{"br;q=0"}, all, "identity"},
		{[]string{"*"}, all, "br"},
		{[]string{"*;q=0, gzip"}, all, "gzip"},
		{[]string{"br;q=0, *;q=0.1"}, all, "zstd"},
		{[]string{"identity;q=0"}, all, ""},
		{[]string{"identity;q=0, gzip"}, plain, ""},
		{[]string{"*;q=0"}, plain, ""},
		{[]string{"gzip"}, plain, "identity"},
		{[]string{"br;q=1.000, gzip;q=1.001"}, all, "br"},
		{[]string{"br;q=2, gzip;q=x, zstd;level=3"}, all, "identity"},
		{[]string{"br;q=0.0001"}, all, "identity"},
		{[]string{"br;q=.5"}, all, "identity"},
		{[]string{"gzip;q=0.001"}, all, "gzip"}, // as much as identity, and smaller
	} {
		got := ""
		if best, ok := Parse(c.accept).Best(c.sizes); ok {
			got = best.String()
		}
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.accept, got, c.want)
		}
	}
}

func TestCompressible(t *testing.T) {
	for kind, want := range map[string][2]bool{ // made ahead, on the fly
		"text/html; charset=utf-8": {true, true}, "Text/CSS": {true, true}, "application/json": {true, true}, "application/problem+json": {true, true},
		"image/svg+xml": {true, true}, "text/event-stream": {false, false}, "text/event-stream; charset=utf-8": {false, false},
		"image/png": {false, false}, "application/wasm": {true, false}, "font/ttf": {true, false}, "font/woff2": {false, false},
		"application/octet-stream": {false, false}, "": {false, false}, "multipart/x-mixed-replace; boundary=x": {false, false},
	} {
		if got := [2]bool{Compressible(kind), Text(kind)}; got != want {
			t.Errorf("%q: %v, want %v", kind, got, want)
		}
	}
}

// What is refused by name is never chosen, whatever else is said.
func TestRefusedIsNeverChosen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		refused := Coding(rapid.IntRange(0, Count-1).Draw(t, "refused"))
		var items []string
		for c := range Coding(Count) {
			if c != refused && rapid.Bool().Draw(t, "named") {
				items = append(items, c.String()+rapid.SampledFrom([]string{"", ";q=0.3", "; q=1", ";q=0"}).Draw(t, "q"))
			}
		}
		items = append(items, rapid.SampledFrom([]string{"*", "*;q=0.2", "deflate", "*;q=0"}).Draw(t, "more"), refused.String()+";q=0")
		items = rapid.Permutation(items).Draw(t, "order")
		var sizes [Count]int64
		for c := range sizes {
			sizes[c] = int64(rapid.IntRange(-1, 100).Draw(t, "size"))
		}
		best, ok := Parse([]string{strings.Join(items, rapid.SampledFrom([]string{",", " , "}).Draw(t, "comma"))}).Best(sizes)
		if ok && (best == refused || sizes[best] < 0) {
			t.Fatalf("%q: %v", items, best)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"gzip, br;q=0.5", "*;q=0", ",,;q=,", "gzip;q=0.123;x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for c, w := range Parse([]string{s}) {
			if w < 0 || w > 1000 {
				t.Errorf("%q: weight %d of %v", s, w, Coding(c))
			}
		}
	})
}
