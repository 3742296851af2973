package proxy

import (
	"net"
	"net/http"
	"os"
)

// upstreamProcess serves an echo until it is killed.
func upstreamProcess(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	_ = http.Serve(l, echo())
}
