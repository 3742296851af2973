//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// insideEnv marks the process that runs in the tests' own network.
const insideEnv = "TARIMA_E2E_INSIDE"

// inside runs this test program again in a network namespace of its own: the
// host's interfaces, routes, firewall and forwarding are never touched, and a
// site that runs on the host is not in the way.
func inside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "a network namespace for the tests:", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// newNetwork makes another network namespace, with nothing but its loopback.
func newNetwork() (netns.NsHandle, error) {
	var made netns.NsHandle
	return made, onThread(func() (err error) {
		if made, err = netns.New(); err != nil {
			return fmt.Errorf("a network namespace for another site: %w", err)
		}
		return loopbackUp()
	})
}

// inside does something on a thread that is in the world's network.
func (w *world) inside(do func() error) error {
	if w.network == 0 {
		return do()
	}
	return onThread(func() error {
		if err := netns.Set(w.network); err != nil {
			return fmt.Errorf("enter the network of %s: %w", w.root, err)
		}
		return do()
	})
}

// onThread does something on a thread that ends with it.
func onThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread is in another namespace
		done <- do()
	}()
	return <-done
}
