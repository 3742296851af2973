package proxy

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarima/proxy/routes"
)

// TestIndexChangesNothing: the rule that the index finds is the first of all
// that match.
func TestIndexChangesNothing(t *testing.T) {
	element := rapid.SampledFrom([]string{"", "a", "b", "ab", "*", "upload"})
	path := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 9).Draw(t, "all") == 0 {
			return ""
		}
		return "/" + strings.Join(rapid.SliceOfN(element, 0, 4).Draw(t, "elements"), "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		var h routes.Host
		h.Name = "lms.test"
		for _, p := range rapid.SliceOfN(path, 0, 12).Draw(t, "rules") {
			h.Rules = append(h.Rules, routes.Rule{Path: p})
		}
		table := newTable(routes.Snapshot{Hosts: []routes.Host{h}}, newGate)
		asked := "/" + strings.TrimPrefix(path.Draw(t, "path"), "/")
		d, _ := table.find("lms.test", asked)
		rules := table.hosts["lms.test"].rules
		first := slices.IndexFunc(rules, func(r rule) bool { _, ok := r.match(asked); return ok })
		switch {
		case first < 0 && d.rule != nil:
			t.Fatalf("%q finds %q, and nothing matches", asked, d.rule.Path)
		case first >= 0 && d.rule != &rules[first]:
			t.Fatalf("%q does not find %q", asked, rules[first].Path)
		}
	})
}

// BenchmarkFind among the rules of a usual host.
func BenchmarkFind(b *testing.B) {
	h := routes.Host{Name: "lms.test"}
	for _, p := range []string{"/wp-login.php", "/wp-admin/", "/.env", "/.git/", "/phpmyadmin/", "/cgi-bin/", "/favicon.ico", "/api/profile_images/*/*/upload"} {
		for _, suffix := range []string{"", "x", "y", "z"} {
			h.Rules = append(h.Rules, routes.Rule{Path: "/" + suffix + p[1:]})
		}
	}
	table := newTable(routes.Snapshot{Hosts: []routes.Host{h}}, newGate)
	b.ReportAllocs()
	for b.Loop() {
		table.find("lms.test", "/courses/course-v1:a+b+c/about")
	}
}
