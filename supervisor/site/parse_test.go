package site

import (
	"bytes"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExampleParses reads the installed examples as they are and with every
// commented key switched on, so that they cannot teach a wrong key. The
// languages differ in their comments alone.
func TestExampleParses(t *testing.T) {
	commented := regexp.MustCompile(`(?m)^# ((?:"[a-z.]+"|[A-Za-z_0-9-]+) = |\[)`)
	var all []Config
	for _, language := range []string{"en", "es_419", "fr"} {
		text := Example(language)
		c, err := Parse("example.toml", text)
		if err != nil {
			t.Fatalf("%s: %v", language, err)
		}
		want := Config{Site: Site{Host: "learn.example.org"}}
		if diff := cmp.Diff(want, c, same); diff != "" {
			t.Errorf("%s: the example asks for more than its host (-want +got):\n%s", language, diff)
		}
		full, err := Parse("example.toml", commented.ReplaceAll(text, []byte("$1")))
		if err != nil {
			t.Fatalf("%s with every key:\n%v", language, err)
		}
		if full.Mail.Port != 587 || full.Services["lms"].Memory != 1500*MB || *full.Services["scheduler"].Enabled {
			t.Errorf("%s with every key: %+v", language, full)
		}
		all = append(all, full)
	}
	if bytes.Equal(Example("en"), Example("es")) || !bytes.Equal(Example("en"), Example("fr")) {
		t.Error("Spanish is a language of its own, others read English")
	}
	if diff := cmp.Diff(all[0], all[1], same); diff != "" {
		t.Errorf("English and Spanish differ in keys:\n%s", diff)
	}
	// Each key of a table that the schema knows is named in the example.
	for name, table := range map[string]any{
		"site": Site{}, "proxy": Proxy{}, "network": Network{}, "engine": Engine{}, "images": Images{},
		"size": Size{}, "mail": Mail{}, "service": Service{}, "settings": Settings{},
		"acme": ACME{}, "dns": DNS{}, "certificate": Certificate{}, "maintenance": Maintenance{}, "auth": Auth{},
		"limit": Limit{}, "block": Block{}, "log": AccessLog{}, "metrics": Metrics{}, "app": App{},
	} {
		for _, key := range fieldNames(reflect.TypeOf(table)) {
			if !regexp.MustCompile(`(?m)(^[# ]*\[*(\w+\.)*|or )` + key + `( =|:|\.|\])`).Match(Example("en")) {
				t.Errorf("the example does not tell of %s in %s", key, name)
			}
		}
	}
}

// TestParseReportsEveryMistake wants each mistake with its place, all in one
// answer.
func TestParseReportsEveryMistake(t *testing.T) {
	text := strings.ReplaceAll(`[site]
hots = "learn.example.org"
name = 5

[services.lsm]
memory = "600"

[servces.lms]
`, "\t", "")
	_, err := Parse("/etc/tarima/tarima.toml", []byte(text))
	if err == nil {
		t.Fatal("no error")
	}
	want := strings.TrimSpace(`
/etc/tarima/tarima.toml:1:2: site.host: is missing: the public name of the LMS, as in host = "learn.example.org"
/etc/tarima/tarima.toml:2:1: site.hots: unknown key; allowed here: host, studio, apps, search, name, contact, language, languages, timezone, release; did you mean "host"?
/etc/tarima/tarima.toml:3:8: site.name: is a whole number; a string in quotes is wanted
/etc/tarima/tarima.toml:5:11: services.lsm: "lsm" is not known; allowed: "lms", "cms", "lms-worker", "cms-worker", "scheduler", "mysql", "mongodb", "redis", "redis-cache", "meilisearch", "smtp" or "mfe"; did you mean "lms"?
/etc/tarima/tarima.toml:6:10: services.lsm.memory: not a size: write a number and a unit, as in "600MB" or "1.5GiB"; units are kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024)
/etc/tarima/tarima.toml:8:2: servces: unknown key; allowed here: site, proxy, network, engine, images, size, mail, services, settings, mfe; did you mean "services"?`)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
