package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// door is what is the same for everybody who comes in through one listener.
type door struct {
	tls  bool
	port int // 0: of a unix socket
	unix bool
	// loopback: nobody from outside this machine can connect.
	loopback bool
}

func doorOf(l net.Listener, tls bool) door {
	d := door{tls: tls, port: portOf(l.Addr())}
	switch a := l.Addr().(type) {
	case *net.UnixAddr:
		d.unix = true
	case *net.TCPAddr:
		d.loopback = a.IP.IsLoopback()
	}
	return d
}

// unixScheme begins a listen address that is the path of a unix socket.
const unixScheme = "unix:"

// unixPath of a listen address, "" of any other.
func unixPath(address string) string {
	path, found := strings.CutPrefix(address, unixScheme)
	if !found {
		return ""
	}
	return path
}

func checkListenAddress(a string) error {
	if strings.HasPrefix(a, unixScheme) {
		// sockaddr_un has 108 bytes, the last one is 0.
		if p := unixPath(a); !filepath.IsAbs(p) || filepath.Clean(p) != p || len(p) > 107 {
			return fmt.Errorf("%w: listen address %q: %sPATH wants an absolute path of at most 107 bytes", ErrConfig, a, unixScheme)
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(a); err != nil {
		return fmt.Errorf("%w: listen address %q: %w", ErrConfig, a, err)
	}
	return nil
}

// listenAt opens one address of the configuration.
func listenAt(cfg *Config, address string) (net.Listener, error) {
	if path := unixPath(address); path != "" {
		return listenUnix(path, cfg.UnixMode, cfg.UnixGroup)
	}
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		if who := holder(portIn(address)); who != "" {
			return nil, fmt.Errorf("listen on %s: %s has this port; stop it, or choose another under [proxy] in the site file: %w", address, who, err)
		}
		return nil, fmt.Errorf("listen on %s: another program has this port (ss -ltnp shows which); stop it, or choose another under [proxy] in the site file: %w", address, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s: ports below 1024 need CAP_NET_BIND_SERVICE: %w", address, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// listenUnix opens a unix socket for a web server on this machine. One that a
// dead process left is replaced, a living one is ErrInUse.
func listenUnix(path string, mode fs.FileMode, group string) (_ net.Listener, failure error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close() // it answered
		return nil, fmt.Errorf("%w: %s", ErrInUse, path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("listen on %s: there is something else than a socket; move it away or name another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: the socket of a process that has ended: %w", path, err)
		}
	}
	// Never open to more than its owner, not for a moment: Linux gives the
	// file the socket's own mode.
	own := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var modeErr error
		err := c.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, modeErr)
	}}
	opened, err := own.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, ok := opened.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("listen on %s: a %T", path, opened)
	}
	// It outlives this process in a successor's hands.
	l.SetUnlinkOnClose(false)
	defer func() {
		if failure != nil {
			_ = l.Close() // the first error is told
			_ = os.Remove(path)
		}
	}()
	if err := os.Chmod(path, mode); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if group != "" {
		if err := admitGroup(path, mode, group); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// admitGroup lets a group connect beside those whom the mode admits, by an entry
// in the socket's access control list (acl(5)): that needs no privilege, and
// neither does this process have to be in the group, as for chown.
func admitGroup(path string, mode fs.FileMode, group string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return fmt.Errorf("listen on %s: group %q: %w", path, group, err)
	}
	id, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return fmt.Errorf("listen on %s: group %q has the number %q", path, group, g.Gid)
	}
	const ( // linux/posix_acl.h and posix_acl_xattr.h
		version, nobody                        = 2, 1<<32 - 1
		userObj, groupObj, oneGroup, mask, all = 0x01, 0x04, 0x08, 0x10, 0x20
		readWrite                              = 6
	)
	acl := binary.LittleEndian.AppendUint32(nil, version)
	add := func(tag, permissions uint16, id uint32) {
		acl = binary.LittleEndian.AppendUint16(acl, tag)
		acl = binary.LittleEndian.AppendUint16(acl, permissions)
		acl = binary.LittleEndian.AppendUint32(acl, id)
	}
	add(userObj, uint16(mode>>6&7), nobody)
	add(groupObj, uint16(mode>>3&7), nobody)
	add(oneGroup, readWrite, uint32(id))
	add(mask, readWrite, nobody)
	add(all, uint16(mode&7), nobody)
	if err := unix.Setxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		return fmt.Errorf("listen on %s: admit group %q by an access control list, which the file system must have (as /run has): %w", path, group, err)
	}
	return nil
}

// boundTo compares a socket with an address as it stands in a configuration.
func boundTo(l net.Listener, address string) bool {
	if path := unixPath(address); path != "" {
		bound, ok := l.Addr().(*net.UnixAddr)
		// Its file may be gone with a folder of /run; then nobody finds it.
		info, err := os.Lstat(path)
		return ok && bound.Name == path && err == nil && info.Mode().Type() == fs.ModeSocket
	}
	bound, ok := l.Addr().(*net.TCPAddr)
	host, port, err := net.SplitHostPort(address)
	if !ok || err != nil || port != strconv.Itoa(bound.Port) {
		return false
	}
	if host == "" {
		return bound.IP.IsUnspecified()
	}
	ip := net.ParseIP(host)
	return ip != nil && (ip.Equal(bound.IP) || ip.IsUnspecified() && bound.IP.IsUnspecified())
}

// removeDoors takes away the files of unix sockets that nobody inherits.
func removeDoors(listeners []listener) {
	for _, l := range listeners {
		if a, ok := l.Addr().(*net.UnixAddr); ok {
			_ = os.Remove(a.Name) // a left one is replaced at the next start
		}
	}
}
