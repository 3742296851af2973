package site

import (
	_ "embed"

	// A time zone is checked also on a server without tzdata.
	_ "time/tzdata"
)

//go:embed example.toml
var example []byte

// Example is the site file with every key explained, as it is installed beside
// the program. It parses, and asks for nothing but its host.
func Example() []byte { return append([]byte(nil), example...) }
