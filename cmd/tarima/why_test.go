package main

import (
	"maps"
	"regexp"
	"testing"

	"tarima/supervisor"
)

// reasonFor fills every place of a sentence.
func reasonFor(code, sentence string) supervisor.Reason {
	r := supervisor.Reason{Code: code, Args: map[string]string{}}
	for _, place := range regexp.MustCompile(`{(\w+)}`).FindAllStringSubmatch(sentence, -1) {
		if place[1] == "Because" {
			r.Because = &supervisor.Reason{Code: "waits-job", Args: map[string]string{"Name": "lms-migrate"}}
			continue
		}
		r.Args[place[1]] = "{{.Evil}} {Evil}"
	}
	return r
}

// In English a person reads what JSON says; in Spanish something else, of the
// same reason.
func TestReasonsAreSaidInEveryLanguage(t *testing.T) {
	english, err := newText(nil, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	spanish, err := newText([]string{"--lang=es"}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	for code, sentence := range supervisor.Sentences() {
		r := reasonFor(code, sentence)
		if got := english.why("?", &r); got != r.String() {
			t.Errorf("%s: %q in English, %q in JSON", code, got, &r)
		}
		got := spanish.why("?", &r)
		if got == "?" || got == "" || got == r.String() && code != "said" {
			t.Errorf("%s in Spanish: %q", code, got)
		}
	}
}

func TestReasonsOfANewerDaemonAreSaidInEnglish(t *testing.T) {
	spanish, err := newText([]string{"--lang=es"}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	newer := supervisor.Reason{Code: "of-tomorrow", Args: map[string]string{"X": "y"}}
	behind := supervisor.Reason{Code: "last", Because: &newer}
	unfilled := supervisor.Reason{Code: "waits-job", Args: maps.Clone(newer.Args)}
	for name, r := range map[string]*supervisor.Reason{"none": nil, "unknown": &newer, "unknown behind": &behind, "other arguments": &unfilled} {
		if got := spanish.why("as it was", r); got != "as it was" {
			t.Errorf("%s: %q", name, got)
		}
	}
	known := supervisor.Reason{Code: "last", Because: &supervisor.Reason{Code: "exit-code", Args: map[string]string{"Code": "7"}}}
	if got := spanish.why("last: ended with exit code 7", &known); got != "última vez: terminó con el código de salida 7" {
		t.Errorf("a known one: %q", got)
	}
}
