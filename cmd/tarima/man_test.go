//go:build man

package main

import "testing"

// What only the program that builds the package can do.
func TestPackagersScripts(t *testing.T) { runScripts(t, "testdata/packagers") }
