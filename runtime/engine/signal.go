package engine

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// parseSignal reads a signal by name, with or without SIG, or by number, as an
// image may name it. Real-time signals are written RTMIN+n.
func parseSignal(text string) (syscall.Signal, error) {
	name := strings.ToUpper(strings.TrimSpace(text))
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("signal %d is not between 1 and 64", n)
		}
		return syscall.Signal(n), nil
	}
	name = strings.TrimPrefix(name, "SIG")
	if offset, ok := strings.CutPrefix(name, "RTMIN+"); ok {
		n, err := strconv.Atoi(offset)
		if err != nil || n < 0 || n > 30 {
			return 0, fmt.Errorf("unknown signal %q", text)
		}
		return syscall.Signal(34 + n), nil // glibc's SIGRTMIN, which images mean
	}
	if signal := unix.SignalNum("SIG" + name); signal != 0 {
		return signal, nil
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}
