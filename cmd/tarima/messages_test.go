package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// Every message is there in every language, with the same places to fill, and
// every message that the code asks for exists.
func TestMessages(t *testing.T) {
	all := map[string]map[string]string{}
	for _, language := range languages {
		data, err := messageFiles.ReadFile("messages/" + language + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		messages := map[string]string{}
		if err := toml.Unmarshal(data, &messages); err != nil {
			t.Fatalf("%s: %v", language, err)
		}
		all[language] = messages
	}
	place := regexp.MustCompile(`{{.*?}}`)
	for key, english := range all["en"] {
		for _, language := range languages[1:] {
			other, ok := all[language][key]
			if !ok {
				t.Errorf("%q is missing in %s", key, language)
				continue
			}
			want, got := place.FindAllString(english, -1), place.FindAllString(other, -1)
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(want, got) {
				t.Errorf("%q has places %v in en and %v in %s", key, want, got, language)
			}
		}
	}
	for _, language := range languages[1:] {
		for key := range all[language] {
			if _, ok := all["en"][key]; !ok {
				t.Errorf("%q of %s is not in en", key, language)
			}
		}
	}
	used := usedMessages(t)
	if len(used) < 50 {
		t.Fatalf("only %d messages found in the code: the search is broken", len(used))
	}
	for _, key := range used {
		prefix, isPrefix := strings.CutSuffix(key, "*")
		found := false
		for have := range all["en"] {
			found = found || have == key || isPrefix && strings.HasPrefix(have, prefix)
		}
		if !found {
			t.Errorf("the code asks for %q, which is no message", key)
		}
	}
}

// usedMessages are the first arguments of calls of say; "prefix*" where the
// end is computed.
func usedMessages(t *testing.T) []string {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "say" {
				return true
			}
			switch arg := call.Args[0].(type) {
			case *ast.BasicLit:
				key, err := strconv.Unquote(arg.Value)
				if err != nil {
					t.Fatal(err)
				}
				used = append(used, key)
			case *ast.BinaryExpr:
				if left, ok := arg.X.(*ast.BasicLit); ok {
					key, err := strconv.Unquote(left.Value)
					if err != nil {
						t.Fatal(err)
					}
					used = append(used, key+"*")
				}
			}
			return true
		})
	}
	return used
}

func TestLanguage(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{want: "The site is stopped."},
		{env: map[string]string{"LANG": "es_MX.UTF-8"}, want: "El sitio está detenido."},
		{env: map[string]string{"LANG": "es_MX.UTF-8", "LC_ALL": "C"}, want: "The site is stopped."},
		{env: map[string]string{"LC_MESSAGES": "es_ES@euro", "LANG": "C.UTF-8"}, want: "El sitio está detenido."},
		{args: []string{"status", "--lang", "es-419"}, want: "El sitio está detenido."},
		{args: []string{"--lang=es", "status"}, env: map[string]string{"LANG": "en_GB"}, want: "El sitio está detenido."},
		{args: []string{"exec", "lms", "--", "--lang=es"}, want: "The site is stopped."},
		{env: map[string]string{"LANG": "xx nonsense"}, want: "The site is stopped."},
	} {
		text, err := newText(c.args, func(name string) string { return c.env[name] })
		if err != nil {
			t.Fatal(err)
		}
		if got := text.say("act.stoppedAll"); got != c.want {
			t.Errorf("args %q, environment %v: %q, want %q", c.args, c.env, got, c.want)
		}
	}
}
