package site

import (
	_ "embed"
	"slices"
	"strings"

	// A time zone is checked also on a server without tzdata.
	_ "time/tzdata"
)

//go:embed example.toml
var example []byte

//go:embed example.es.toml
var exampleSpanish []byte

// Example is the site file with every key explained, as it is installed beside
// the program: in Spanish for a language such as "es" or "es-419", else in
// English. It parses, and asks for nothing but its host.
func Example(language string) []byte {
	if base, _, _ := strings.Cut(normalLanguage(language), "-"); base == "es" {
		return slices.Clone(exampleSpanish)
	}
	return slices.Clone(example)
}
