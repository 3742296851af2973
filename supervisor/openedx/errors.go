package openedx

import "errors"

// Errors that callers tell apart.
var (
	// ErrRelease: no release of that name, or its file is damaged.
	ErrRelease = errors.New("unknown or damaged release")
	// ErrTooSmall: the memory that the site file grants does not hold the
	// services, or its own limits exceed it.
	ErrTooSmall = errors.New("not enough memory")
	// ErrConfig: a value of the site file that cannot be used; the site
	// package refuses it earlier, so this is a second lock on the door.
	ErrConfig = errors.New("unusable site file")
)
