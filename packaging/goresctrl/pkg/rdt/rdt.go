// Package rdt takes the place of goresctrl's of the same name: cache
// allocation by Intel's processors, of which the package blockio beside it
// holds as well.
package rdt

import "errors"

// ErrUnsupported is the answer to every question.
var ErrUnsupported = errors.New("cache allocation is not part of this build")

// Initialize fails with ErrUnsupported.
func Initialize(string) error { return ErrUnsupported }

// SetConfigFromFile fails with ErrUnsupported.
func SetConfigFromFile(string, bool) error { return ErrUnsupported }

// ContainerClassFromAnnotations names no class.
func ContainerClassFromAnnotations(string, map[string]string, map[string]string) (string, error) {
	return "", nil
}
