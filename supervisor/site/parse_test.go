package site

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExampleParses reads the installed example as it is and with every
// commented key switched on, so that it cannot teach a wrong key.
func TestExampleParses(t *testing.T) {
	c, err := Parse("example.toml", Example())
	if err != nil {
		t.Fatalf("example: %v", err)
	}
	want := Config{Site: Site{Host: "learn.example.org"}}
	if diff := cmp.Diff(want, c, same); diff != "" {
		t.Errorf("the example asks for more than its host (-want +got):\n%s", diff)
	}

	switchedOn := regexp.MustCompile(`(?m)^# ((?:"[a-z.]+"|[A-Za-z_0-9]+) = |\[)`).ReplaceAll(Example(), []byte("$1"))
	if bytes.Equal(switchedOn, Example()) {
		t.Fatal("no commented key found in the example")
	}
	full, err := Parse("example.toml", switchedOn)
	if err != nil {
		t.Fatalf("example with every key:\n%v", err)
	}
	if full.Mail.Port != 587 || full.Services["lms"].Memory != 1500*MB || *full.Services["scheduler"].Enabled {
		t.Errorf("example with every key: %+v", full)
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
