package engine

import "errors"

// Sentinels, to be asked for with errors.Is. The errors that carry them say
// which container, image or folder is meant and what can be done.
var (
	// ErrHeld means that another process has the engine's root open.
	ErrHeld = errors.New("engine root is held by another process")
	// ErrDamaged: containerd's own database under Root cannot be used. Root is
	// a cache: move it aside and open again.
	ErrDamaged = errors.New("engine root is damaged")
	// ErrClosed means that the engine has been closed.
	ErrClosed = errors.New("engine is closed")
	// ErrNotFound means that there is no such container, or none that runs
	// where a running one is needed.
	ErrNotFound = errors.New("no such container")
	// ErrRunning means that a container must have ended first.
	ErrRunning = errors.New("container is running")
	// ErrNoImage means that the image is not here or not unpacked.
	ErrNoImage = errors.New("image is not here")
	// ErrArchive means that a file is not a usable image archive.
	ErrArchive = errors.New("not a usable image archive")
	// ErrNoRuntime means that no OCI runtime was found.
	ErrNoRuntime = errors.New("no OCI runtime")
	// ErrOldContainerd means that the external containerd is older than 2.1.
	ErrOldContainerd = errors.New("containerd is too old")
	// ErrSpec means that a container specification cannot be run as written.
	ErrSpec = errors.New("container specification is wrong")
)
