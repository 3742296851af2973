package proxy

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// handoverEnv tells a successor how many sockets it gets from descriptor 3 on;
// the one after them is a pipe on which it says that it serves.
const handoverEnv = "TARIMA_PROXY_HANDOVER"

// firstDescriptor of those that are handed over: sd_listen_fds(3).
const firstDescriptor = 3

// Inherit takes over what the service manager (sockets of its descriptor
// store, LISTEN_FDS) or a predecessor handed to this process, and takes it out
// of the environment. It is called once, before Run and before the process
// opens files of its own.
func Inherit(cfg *Config) error {
	n, ready, err := handedDown()
	if err != nil {
		return err
	}
	for i := range n {
		f := os.NewFile(uintptr(firstDescriptor+i), "inherited socket")
		l, err := net.FileListener(f) // a duplicate, close-on-exec
		if err != nil {
			if p, perr := net.FilePacketConn(f); perr == nil {
				if u, ok := p.(*net.UDPConn); ok {
					_ = f.Close() // the duplicate is used
					cfg.Packets = append(cfg.Packets, u)
					continue
				}
				_ = p.Close() // no socket of ours
			}
		}
		_ = f.Close() // the duplicate is used
		if err != nil {
			// One that is no stream socket must not keep the door shut.
			cfg.logger().Warn("an inherited descriptor is not a listening socket", "descriptor", firstDescriptor+i, "error", err)
			continue
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the next process may want it as well
		}
		cfg.Listeners = append(cfg.Listeners, l)
	}
	if ready == nil {
		return nil
	}
	notify := cfg.Notify
	cfg.Notify = func(state string) {
		if ready != nil && strings.HasPrefix(state, "READY=1") {
			// A predecessor that is gone does not wait for it.
			_, _ = ready.Write([]byte{1})
			_ = ready.Close()
			ready = nil
		}
		if notify != nil {
			notify(state)
		}
	}
	return nil
}

func handedDown() (n int, ready *os.File, err error) {
	defer func() {
		for _, name := range []string{handoverEnv, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			_ = os.Unsetenv(name) // fails for bad names only
		}
	}()
	if v := os.Getenv(handoverEnv); v != "" {
		if n, err = strconv.Atoi(v); err != nil || n < 0 || n > 64 {
			return 0, nil, fmt.Errorf("%w: %s=%q", ErrConfig, handoverEnv, v)
		}
		unix.CloseOnExec(firstDescriptor + n)
		return n, os.NewFile(uintptr(firstDescriptor+n), "handover"), nil
	}
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return 0, nil, nil
	}
	v := os.Getenv("LISTEN_FDS")
	if n, err = strconv.Atoi(v); err != nil || n < 0 || n > 64 {
		return 0, nil, fmt.Errorf("%w: LISTEN_FDS=%q", ErrConfig, v)
	}
	return n, nil, nil
}

// storeListeners gives copies of the public sockets to the service manager's
// descriptor store, which hands them to the next process after a crash: who
// connects in between waits instead of being refused.
func storeListeners(manager string, listeners []listener) error {
	for _, l := range listeners {
		f, err := l.file()
		if err != nil {
			return fmt.Errorf("descriptor store: %w", err)
		}
		err = tellManager(manager, "FDSTORE=1\nFDNAME="+storedName(l.tls, l.Addr()), unix.UnixRights(int(f.Fd())))
		_ = f.Close() // the manager has its own
		if err != nil {
			return err
		}
	}
	return nil
}

// unstore takes a socket that is not used any more out of the store, under
// both of the names that it may have.
func unstore(manager string, l net.Listener) error {
	return errors.Join(
		tellManager(manager, "FDSTOREREMOVE=1\nFDNAME="+storedName(false, l.Addr()), nil),
		tellManager(manager, "FDSTOREREMOVE=1\nFDNAME="+storedName(true, l.Addr()), nil))
}

// storedName: sd_pid_notify_with_fds(3) wants printable characters without ":".
func storedName(tls bool, a net.Addr) string {
	name := strconv.Itoa(portOf(a))
	if u, ok := a.(*net.UnixAddr); ok {
		h := fnv.New64a()
		_, _ = h.Write([]byte(u.Name)) // a hash takes everything
		name = "unix-" + strconv.FormatUint(h.Sum64(), 16)
	}
	if tls {
		return "https-" + name
	}
	return "http-" + name
}

// tellManager sends a notification with descriptors, which net.UnixConn cannot
// send to an address.
func tellManager(socket, message string, rights []byte) error {
	addr := &unix.SockaddrUnix{Name: socket} // "@" at its begin is an abstract one
	out, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("descriptor store: %w", err)
	}
	defer func() { _ = unix.Close(out) }() // nothing is buffered
	if err := unix.Sendmsg(out, []byte(message), rights, addr, 0); err != nil {
		return fmt.Errorf("descriptor store: %w", err)
	}
	return nil
}

// file is a duplicate of the listener's socket.
func (l listener) file() (*os.File, error) {
	inner := l.Listener
	if limited, ok := inner.(*limitedListener); ok {
		inner = limited.Listener
	}
	return socketFile(inner)
}

// socketFile duplicates by hand: the descriptor of a file that net's File
// methods make is set to blocking when it is passed on, and with it every
// duplicate, ours included. A listener that blocks in accept cannot be closed.
func socketFile(l any) (*os.File, error) {
	c, ok := l.(syscall.Conn)
	if !ok {
		return nil, errors.New("not a socket of the kernel")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	duplicate, dupErr := -1, error(nil)
	err = raw.Control(func(fd uintptr) {
		duplicate, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, firstDescriptor)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(duplicate), "socket"), nil
}
