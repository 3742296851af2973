package store_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain turns the test binary into another process that uses a store, when
// a test starts it so.
func TestMain(m *testing.M) {
	if role := os.Getenv("STORE_TEST_CHILD"); role != "" {
		os.Exit(child(role, os.Getenv("STORE_TEST_DIR")))
	}
	goleak.VerifyTestMain(m)
}
