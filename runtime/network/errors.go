package network

import "errors"

// Errors that callers tell apart with errors.Is. What is returned wraps them
// with the site, the member and what to do.
var (
	// ErrTopology: the declaration contradicts itself (an edge to a member that
	// does not exist, an address outside the range, a name that cannot be used).
	// Nothing was changed.
	ErrTopology = errors.New("the declared network is not valid")
	// ErrRangeInUse: the site's range overlaps a route or an address of the
	// host. The message names them. Nothing was changed.
	ErrRangeInUse = errors.New("address range is already used on this host")
	// ErrUnknownMember: Attach was asked for a member, or in a site, that no
	// Apply of this process has declared.
	ErrUnknownMember = errors.New("member is not declared")
	// ErrProcess: the process to attach has ended, or it has no network
	// namespace of its own.
	ErrProcess = errors.New("process cannot be attached")
	// ErrNameTaken: an interface or a file of the name that the site needs is
	// there and is not Tarima's. It is left alone.
	ErrNameTaken = errors.New("name is taken by something else")
	// ErrUnsupported: the kernel lacks something that the network needs
	// (nf_tables, network namespaces, or IPv6 where the topology asks for it).
	ErrUnsupported = errors.New("not supported by this kernel")
	// ErrNoResolver: the host has no name server that a container can reach.
	ErrNoResolver = errors.New("no name server that containers can reach")
)
