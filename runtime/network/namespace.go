package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nsfsMagic is the type of the file system that namespaces are files of
// (NSFS_MAGIC in linux/magic.h).
const nsfsMagic = 0x6e736673

// namespace is an open network namespace.
type namespace struct {
	fd   netns.NsHandle
	name string // for messages
}

func openNamespace(path, name string) (*namespace, error) {
	fd, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace of %s at %s: %w", name, path, err)
	}
	return &namespace{fd: fd, name: name}, nil
}

func (ns *namespace) close() { _ = ns.fd.Close() }

// same says whether two namespaces are one.
func (ns *namespace) same(other *namespace) bool { return ns.fd.Equal(other.fd) }

// do runs fn on a thread that is inside the namespace, with a netlink socket
// of it. Sysctls that fn writes and sockets that it opens belong to the
// namespace. fn must start no goroutine that relies on this.
func (ns *namespace) do(fn func(h *netlink.Handle) error) error {
	type result struct {
		err   error
		panic any
	}
	done := make(chan result)
	go func() {
		var r result
		defer func() { done <- r }()
		runtime.LockOSThread()
		before, err := netns.Get()
		if err != nil {
			r.err = fmt.Errorf("look up this thread's network namespace: %w", err)
			return
		}
		defer func() {
			// A thread that cannot go back stays locked to this goroutine and
			// ends with it; nothing else ever runs in the wrong namespace.
			if netns.Set(before) == nil {
				runtime.UnlockOSThread()
			}
			_ = before.Close()
		}()
		if err := netns.Set(ns.fd); err != nil {
			r.err = fmt.Errorf("enter network namespace of %s: %w", ns.name, err)
			return
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			r.err = fmt.Errorf("open netlink socket in network namespace of %s: %w", ns.name, err)
			return
		}
		defer h.Close()
		defer func() { r.panic = recover() }()
		r.err = fn(h)
	}()
	r := <-done
	if r.panic != nil {
		panic(r.panic)
	}
	return r.err
}

// pinned says whether a namespace is mounted at path.
func pinned(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == nsfsMagic
}

// pin opens the namespace that is mounted at path, and makes and mounts a new
// one where there is none.
func pin(path, name string) (*namespace, error) {
	if pinned(path) {
		return openNamespace(path, name)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder for network namespaces: %w", err)
	}
	// What a process left that died before it mounted is an empty file.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make file for network namespace of %s: %w", name, err)
	}
	info, err := f.Stat()
	_ = f.Close()
	if err != nil || !info.Mode().IsRegular() || info.Size() != 0 {
		return nil, fmt.Errorf("%w: %s is not an empty file; remove it", ErrNameTaken, path)
	}
	if err := mountNew(path, name); err != nil {
		return nil, err
	}
	return openNamespace(path, name)
}

// mountNew makes a network namespace and mounts it at path. The thread that
// made it goes back to where it was: would it end instead, and were it the
// process's first, /proc/PID/ns/net of this process would show the new
// namespace for ever.
func mountNew(path, name string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		before, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("look up this thread's network namespace: %w", err)
			return
		}
		err = unix.Unshare(unix.CLONE_NEWNET)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
			err = fmt.Errorf("%w: make network namespace of %s: %w", ErrUnsupported, name, err)
		case err != nil:
			err = fmt.Errorf("make network namespace of %s: %w", name, err)
		default:
			self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
			if err = unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
				err = fmt.Errorf("pin network namespace of %s at %s: %w", name, path, err)
			}
		}
		if netns.Set(before) == nil {
			runtime.UnlockOSThread()
		}
		_ = before.Close()
		done <- err
	}()
	return <-done
}

// unpin releases what pin made. It is no error when there is nothing.
func unpin(path string) error {
	// A race of two processes may have mounted twice: unmount to the bottom.
	for range 8 {
		if !pinned(path) {
			break
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
