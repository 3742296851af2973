package openedx

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v2"

	"tarima/supervisor/site"
)

// nasty are texts that end a string somewhere.
var nasty = []string{
	`"`, `'`, `\`, "\n", "a: b", "- x", "#", "%", "{{.Host}}", "${HOME}", "$(id)", "`id`", "on", "yes", "1:20", "=", "~", "null",
	"<<", "\u2028", "\u0085", "\ufeff", "\x00", "\x7f", "\u0080", "🎓", "é", "'; DROP TABLE x; --", "\"\n[uwsgi]\nexec = id\n",
	"\\\"", "*a", "&a", "!!python/object/apply:os.system [id]", "\r\n", "\t", "</script>", " x ", "",
}

func FuzzNoInjection(f *testing.F) {
	for _, s := range nasty {
		f.Add(s, s)
	}
	base := testInput(f, nil)
	plain := mustBuild(f, base)
	f.Fuzz(func(t *testing.T, name, value string) {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return // the site file is UTF-8
		}
		in := base
		in.Config.Site.Name = name
		in.Config.Settings.LMS = site.Table{{Key: value, Value: site.Table{{Key: name, Value: []any{value, name}}}}}
		in.Config.MFE = site.Table{{Key: "K" + name, Value: value}}
		plan := mustBuild(t, in)
		for _, file := range plan.Files {
			was := fileOf(t, plain, file.Path)
			switch {
			case strings.HasSuffix(file.Path, ".yml"):
				var v map[string]any
				if err := yaml.UnmarshalStrict(file.Content, &v); err != nil {
					t.Fatalf("%s: %v\n%s", file.Path, err, file.Content)
				}
				if !printable(string(file.Content)) {
					t.Fatalf("%s holds characters that YAML forbids", file.Path)
				}
				if file.Path != "lms/config/lms.env.yml" {
					continue
				}
				if value != "PLATFORM_NAME" && v["PLATFORM_NAME"] != name {
					t.Fatalf("the name came out as %q", v["PLATFORM_NAME"])
				}
				if got, ok := stringKeys(v[value]).(map[string]any); ok {
					if diff := cmp.Diff([]any{value, name}, got[name]); diff != "" {
						t.Fatal(diff)
					}
				}
			case strings.HasSuffix(file.Path, ".json"):
				var v map[string]any
				if err := json.Unmarshal(file.Content, &v); err != nil {
					t.Fatalf("%s: %v", file.Path, err)
				}
				if file.Path == "jobs/openedx/values.json" && v["platform_name"] != name {
					t.Fatalf("the name came out as %q", v["platform_name"])
				}
			default:
				// Code and files without quotes hold no free text at all.
				if string(file.Content) != string(was) {
					t.Fatalf("%s depends on free text:\n%s", file.Path, file.Content)
				}
			}
		}
	})
}

// printable is YAML 1.1, 5.1: what may stand in a file unescaped.
func printable(s string) bool {
	for _, r := range s {
		ok := r == '\t' || r == '\n' || r >= 0x20 && r <= 0x7e || r >= 0xa0 && r <= 0xd7ff ||
			r >= 0xe000 && r <= 0xfffd && r != 0xfeff || r >= 0x10000
		if !ok {
			return false
		}
	}
	return true
}

// TestPythonReadsIt: the platform's own language gets every nasty text back
// from both kinds of file.
func TestPythonReadsIt(t *testing.T) {
	var list []any
	for _, s := range nasty {
		list = append(list, s)
	}
	plan := mustBuild(t, testInput(t, func(c *site.Config) {
		c.Settings.LMS = site.Table{{Key: "NASTY", Value: list}}
	}))
	l := loadSettings(t, plan, "lms", "proxy")
	if diff := cmp.Diff(list, l.Settings["NASTY"]); diff != "" {
		t.Error(diff)
	}
}

// TestPythonCompiles: every Python file, by the real compiler.
func TestPythonCompiles(t *testing.T) {
	dir := t.TempDir()
	plan := mustBuild(t, testInput(t, nil))
	var files []string
	for _, f := range plan.Files {
		if !strings.HasSuffix(f.Path, ".py") {
			continue
		}
		path := filepath.Join(dir, strings.ReplaceAll(f.Path, "/", "_"))
		if err := os.WriteFile(path, f.Content, 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	if len(files) < 15 {
		t.Fatalf("only %d Python files", len(files))
	}
	out, err := exec.Command("python3", append([]string{"-W", "error", "-m", "py_compile"}, files...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("python3 (is it installed?): %v\n%s", err, out)
	}
}
