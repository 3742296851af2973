// Tarima turns a cheap Linux server into a public Open edX site.
package main

import (
	"os"

	"tarima/runtime/engine"
)

// version is set by the linker.
var version = "0.1.0-dev"

func main() {
	if engine.RunAsShim() {
		return
	}
	os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
