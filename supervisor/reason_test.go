package supervisor

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarima/runtime/container"
)

func TestReasonsAreSentences(t *testing.T) {
	for want, r := range map[string]Reason{
		"": {},
		"waits for mysql, which is starting: connection refused": because("waits-service", "Name", "mysql").behind(because("starting-answer", "Answer", "connection refused")),
		// What others said is not looked through for places.
		"is starting: {Name} {Because}":                                 because("starting-answer", "Answer", "{Name} {Because}", "Name", "wrong"),
		"ended by signal 9 (exit code 137)":                             exitReason(&container.Exit{Code: 137}, container.Limits{}),
		"out of memory: it reached its limit of 64 MiB (exit code 137)": exitReason(&container.Exit{Code: 137, OOM: true}, container.Limits{MemoryMax: 64 << 20}),
	} {
		if got := r.String(); got != want {
			t.Errorf("%+v is %q, want %q", r, got, want)
		}
		if (r.told() == nil) != (want == "") {
			t.Errorf("%+v is told as %v", r, r.told())
		}
	}
}

// What was written down as a sentence is found again as what it was.
func TestReasonsOfEndsAreRecalled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		exit := container.Exit{
			Code: rapid.IntRange(-1, 255).Draw(t, "code"), OOM: rapid.Bool().Draw(t, "oom"), Unknown: rapid.Bool().Draw(t, "unknown"),
		}
		limits := container.Limits{MemoryMax: rapid.SampledFrom([]int64{0, 64 << 20, 1 << 30, 5000}).Draw(t, "limit")}
		r := exitReason(&exit, limits)
		if rapid.Bool().Draw(t, "unseen") {
			r = because("unseen").behind(r)
		}
		if got := recalled(r.String(), &exit.Code); !reflect.DeepEqual(got, r) {
			t.Fatalf("%q is recalled as %+v, want %+v", r, got, r)
		}
	})
	code := 3
	for _, r := range []Reason{because("job-late", "Time", (10 * time.Minute).String()), said("it says ended with exit code 3"), {}} {
		if got := recalled(r.String(), &code); !reflect.DeepEqual(got, r) {
			t.Errorf("%q is recalled as %+v, want %+v", r, got, r)
		}
	}
	if got := recalled("ended with exit code 4", &code); got.Code != "said" {
		t.Errorf("the end with another code is %+v", got)
	}
}

// Every reason in the code has a sentence, with exactly the places that it
// fills, and every sentence is used.
func TestReasonsOfTheCodeHaveSentences(t *testing.T) {
	place := regexp.MustCompile(`{(\w+)}`)
	used := map[string]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && name != "reason.go" && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				used[text] = true // some codes are chosen before they are used
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "because" || len(call.Args) == 0 {
				return true
			}
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				return true // computed, of codes that are literals elsewhere
			}
			code, _ := strconv.Unquote(lit.Value)
			used[code] = true
			sentence, known := sentences[code]
			if !known {
				t.Errorf("%s: %q has no sentence", set.Position(n.Pos()), code)
			}
			var given, wanted []string
			for i := 1; i < len(call.Args); i += 2 {
				given = append(given, strings.Trim(call.Args[i].(*ast.BasicLit).Value, `"`))
			}
			for _, m := range place.FindAllStringSubmatch(sentence, -1) {
				if m[1] != "Because" {
					wanted = append(wanted, m[1])
				}
			}
			slices.Sort(given)
			slices.Sort(wanted)
			if !slices.Equal(given, wanted) {
				t.Errorf("%s: %q is given %q and has places for %q", set.Position(n.Pos()), code, given, wanted)
			}
			return true
		})
	}
	for code := range sentences {
		if base, ok := strings.CutSuffix(code, "-waits"); !used[code] && (!ok || !used[base]) {
			t.Errorf("nobody says %q", code)
		}
	}
}

// JSON keeps the sentence, the code and its arguments.
func TestStatusTellsReasonsAsCodes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		settled(r)
		r.engine.setAct("mysql", behaviour{exitAfter: time.Second, exitCode: 3, readyAfter: time.Hour})
		r.engine.kill("mysql")
		pass(time.Minute)
		text, err := json.Marshal(r.Status())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`"why":"ended with exit code 3","cause":{"code":"exit-code","args":{"Code":"3"}}`,
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s is not in %s", want, text)
			}
		}
		// A daemon that begins anew remembers it as a code too.
		r.die()
		r.boot()
		r.reapply(demo())
		pass(time.Second)
		if st := r.service("mysql"); st.Cause == nil || st.Cause.Code != "exit-code" || st.Why != "ended with exit code 3" {
			t.Errorf("after a restart of the daemon: %+v, %+v", st, st.Cause)
		}
	})
}
