package files

import "errors"

var (
	// ErrNotFound is a name that stands for no file that may be served:
	// there is none, it leads out of the folder, or it is hidden.
	ErrNotFound = errors.New("no such file")
	// ErrNotAcceptable is a request that refuses every encoding that there is
	// (RFC 9110 section 15.5.7).
	ErrNotAcceptable = errors.New("no acceptable encoding of the file")
	// ErrChanging is a file that was written to each time that it was read.
	// Releases are put in place by renaming them.
	ErrChanging = errors.New("the file is being written to")

	// errUnsteady is a file that is not what it was a moment ago.
	errUnsteady = errors.New("the file has changed")
)
