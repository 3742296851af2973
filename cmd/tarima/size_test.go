package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"tarima/supervisor/openedx"
	"tarima/supervisor/site"
)

var updateDocs = flag.Bool("update-docs", false, "write the generated tables of the documentation anew")

// The tables of the documentation are what the program computes.
func TestSizesDocumented(t *testing.T) {
	for language, name := range map[string]string{"en": "../../docs/sizes.md", "es": "../../docs/es/sizes.md"} {
		said, err := newText(nil, func(string) string { return language })
		if err != nil {
			t.Fatal(err)
		}
		table, err := (&cli{text: said}).sizesTable()
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		const begin, end = "<!-- tarima size --table -->\n", "<!-- end of the table -->\n"
		before, rest, found := strings.Cut(string(data), begin)
		documented, after, ended := strings.Cut(rest, end)
		if !found || !ended {
			t.Fatalf("%s has no place for the table", name)
		}
		if *updateDocs {
			if err := os.WriteFile(name, []byte(before+begin+table+end+after), 0o600); err != nil { //nolint:gosec // the mode of a file that is there stays
				t.Fatal(err)
			}
			continue
		}
		if documented != table {
			t.Errorf("%s: the table is not what tarima size --table prints; go test ./cmd/tarima -run TestSizesDocumented -update-docs", name)
		}
	}
}

// Every number and every origin has its words.
func TestSizeSpeaks(t *testing.T) {
	said, err := newText(nil, func(string) string { return "es" })
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range openedx.UsualSizes() {
		e, err := openedx.Explain(u.Memory, u.Cores, func(string) bool { return true }, map[string]int64{"smtp": 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range e.Numbers {
			for _, key := range []string{"size.name." + n.Name, "size.from." + string(n.From)} {
				if said.say(key) == key {
					t.Errorf("no words for %s", key)
				}
			}
		}
	}
}

func TestExamineSwap(t *testing.T) {
	for _, c := range []struct {
		name         string
		memory, swap site.Bytes
		level        string
	}{
		{"2 GB without swap", 2 * site.GiB, 0, levelWarning},
		{"2 GB with too little", 2 * site.GiB, site.GiB, levelWarning},
		{"2 GB with the file that is advised", 2 * site.GiB, 2*site.GiB - 4*site.KiB, levelOK},
		{"8 GB without swap", 8 * site.GiB, 0, levelOK},
	} {
		f, ok := examineSwap(site.Host{Memory: c.memory, Cores: 1, Swap: c.swap}, site.Config{})
		if !ok || f.Level != c.level || (f.Fix == "") != (c.level == levelOK) {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
	if f, ok := examineSwap(site.Host{Memory: site.GiB, Cores: 1}, site.Config{}); ok {
		t.Errorf("a machine that holds no site is advised %+v", f)
	}
}
