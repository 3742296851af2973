package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// shimListener is the file descriptor at which a shim is given its listener.
const shimListener = 3

// removingOwnSocket returns what removes the name of the socket on which this
// shim listens. The shim's own way looks for a name made of its first
// container's id, which is another one when containers share the shim.
//
// It is asked before the shim serves, since the descriptor may be closed later,
// and called while the listener is still open: the next shim of the group, which
// begins when nobody listens any more, finds the name free and keeps its own.
func removingOwnSocket() func(context.Context) error {
	nothing := func(context.Context) error { return nil }
	name, err := unix.Getsockname(shimListener)
	if err != nil {
		return nothing // it was started without one
	}
	socket, ok := name.(*unix.SockaddrUnix)
	if !ok || !filepath.IsAbs(socket.Name) {
		return nothing
	}
	return func(context.Context) error {
		if err := os.Remove(socket.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
}
