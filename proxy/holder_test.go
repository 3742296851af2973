package proxy

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestPortInUseNamesItsHolder(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		port := portOf(l.Addr())
		if got, want := holder(port), fmt.Sprintf("(process %d)", os.Getpid()); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want …%s", address, got, want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got := holder(port); strings.Contains(got, fmt.Sprint(os.Getpid())) {
			t.Errorf("%s: %q after the close", address, got)
		}
	}
}
