package proxy

import "errors"

var (
	// ErrConfig is a Config that cannot work; the text says which field.
	ErrConfig = errors.New("proxy configuration")
	// ErrInUse is a control socket on which another proxy answers.
	ErrInUse = errors.New("another proxy answers on this socket")

	// errFull is a request that found the waiting room full.
	errFull = errors.New("too many requests wait already")
	// errHeld is a request whose time in the waiting room is over.
	errHeld = errors.New("waited long enough")
	// errTooLarge is a request body over the limit of its path.
	errTooLarge = errors.New("request body over the limit")
	// errSlow is a request body that came more slowly than the minimum rate.
	errSlow = errors.New("request body came too slowly")
	// errClosing is a request that waits while the proxy ends.
	errClosing = errors.New("the proxy is ending")
)
