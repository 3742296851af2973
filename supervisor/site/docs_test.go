package site

import (
	"os"
	"reflect"
	"regexp"
	"testing"

	"tarima/proxy/routes"
)

// TestDocumentation wants every key of the public door explained, and the
// fields of its log.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/public-door.md")
	if err != nil {
		t.Fatal(err)
	}
	words := fieldNames(reflect.TypeFor[Proxy]())
	for _, table := range []any{ACME{}, Authority{}, DNS{}, Certificate{}, Maintenance{}, Auth{}, Limit{}, Block{}, AccessLog{}, Metrics{}, App{}} {
		words = append(words, fieldNames(reflect.TypeOf(table))...)
	}
	words = append(words, LogFields()...)
	words = append(words, UsualLimits()...)
	for name, settings := range routes.DNSProviders {
		words = append(words, name)
		for _, s := range settings {
			words = append(words, s.Name)
		}
	}
	for _, word := range words {
		if !regexp.MustCompile("(`|\\.|\\[|or |(?m:^ *#? *))" + word + "(`|\\.| =|\\])").Match(text) {
			t.Errorf("docs/public-door.md does not tell of %q", word)
		}
	}
}
