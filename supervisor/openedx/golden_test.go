package openedx

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarima/supervisor/site"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden keeps what is rendered for the stand-in and for Ulmo in the
// repository, so that every change of it is seen in review. Of a file that is
// the same for every site it keeps where it lies: what it says is in assets.
func TestGolden(t *testing.T) {
	for _, release := range Releases() {
		t.Run(release, func(t *testing.T) {
			plan := mustBuild(t, testInput(t, func(c *site.Config) { c.Site.Release = release }))
			dir := filepath.Join("testdata", "golden", release)
			got := map[string][]byte{}
			origin := embedded(t)
			var same []string
			for _, f := range plan.Files {
				if asset, ok := origin[string(f.Content)]; ok {
					same = append(same, fmt.Sprintf("%s = assets/%s\n", f.Path, asset))
					continue
				}
				got["config/"+f.Path] = f.Content
			}
			slices.Sort(same)
			got["assets.txt"] = []byte(strings.Join(same, ""))
			got["plan.json"] = planJSON(t, plan)
			if *update {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				for name, data := range got {
					path := filepath.Join(dir, name)
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, data, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				name, err := filepath.Rel(dir, path)
				if err != nil {
					return err
				}
				want, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				data, ok := got[name]
				switch {
				case !ok:
					t.Errorf("%s is no longer rendered", name)
				case !bytes.Equal(data, want):
					t.Errorf("%s is rendered otherwise:\n%s", name, firstDifference(want, data))
				}
				delete(got, name)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for name := range got {
				t.Errorf("%s is rendered and not among the golden files; run go test -update and look at what changed", name)
			}
		})
	}
}

// embedded are the assets by what they say.
func embedded(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(assets, "assets", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := assets.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "assets/")
		if other, twice := out[string(data)]; twice {
			t.Errorf("%s and %s say the same", other, name)
		}
		out[string(data)] = name
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func firstDifference(want, got []byte) string {
	w, g := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\n-%s\n+%s", i+1, a, b)
		}
	}
	return ""
}

// planJSON is the plan as people can read it: files and folders without
// contents, then what the supervisor gets.
func planJSON(t *testing.T, plan Plan) []byte {
	t.Helper()
	type entry struct {
		Path     string
		Mode     string
		UID, GID int
	}
	var files, config, data []entry
	for _, f := range plan.Files {
		files = append(files, entry{f.Path, fmt.Sprintf("%04o", f.Mode), f.UID, f.GID})
	}
	for _, d := range plan.ConfigDirs {
		config = append(config, entry{d.Path, fmt.Sprintf("%04o", d.Mode), d.UID, d.GID})
	}
	for _, d := range plan.DataDirs {
		data = append(data, entry{d.Path, fmt.Sprintf("%04o", d.Mode), d.UID, d.GID})
	}
	out, err := json.MarshalIndent(map[string]any{
		"Files": files, "ConfigDirs": config, "DataDirs": data, "Desired": plan.Desired, "Sizes": plan.Sizes, "Notes": plan.Notes,
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}
