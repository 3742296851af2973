package certs

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The test authority's validator sleeps before it looks, to be like a far one.
	if err := os.Setenv("PEBBLE_VA_NOSLEEP", "1"); err != nil {
		panic(err)
	}
	// And it refuses a twentieth of the requests, which are then counted twice.
	if err := os.Setenv("PEBBLE_WFE_NONCEREJECT", "0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m,
		// The test authority's validator lives as long as the process.
		goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"),
		// certmagic's limiter of orders is kept for the life of the process.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"))
}
