package network

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// wholeTries bounds how often a list is asked for again: something that
// changes the host's network without a pause must not hold us for ever.
const wholeTries = 50

// whole asks the kernel for a list until none of it changed while it was read.
// A list that did may lack entries, and the kernel says so (NLM_F_DUMP_INTR,
// Linux, Documentation/userspace-api/netlink/intro.rst): on any host where
// another program adds or removes interfaces at that moment.
func whole[T any](ask func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		list, err := ask()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == wholeTries {
			return list, err
		}
	}
}

func listLinks(h *netlink.Handle) ([]netlink.Link, error) { return whole(h.LinkList) }

func listAddresses(h *netlink.Handle, link netlink.Link) ([]netlink.Addr, error) {
	return whole(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
}

func listRoutes(h *netlink.Handle, link netlink.Link, fam int) ([]netlink.Route, error) {
	return whole(func() ([]netlink.Route, error) { return h.RouteList(link, fam) })
}
