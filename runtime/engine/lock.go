package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rootLock keeps a second engine out of a root. containerd's own database lock
// would make it wait for ten seconds and not say for whom.
type rootLock struct{ file *os.File }

// lockRoot takes the lock of root at once or says which process has it. The
// kernel drops the lock with the process, whichever way it ends.
func lockRoot(root string) (*rootLock, error) {
	path := filepath.Join(root, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the engine's lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s by %s; stop it or use another root", ErrHeld, root, lockHolder(path))
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// The number is for people only; the lock itself is what decides.
	text := strconv.Itoa(os.Getpid()) + "\n"
	if err := file.Truncate(0); err == nil {
		_, err = file.WriteAt([]byte(text), 0)
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("writing the holder of the engine's lock: %w", err)
		}
	}
	return &rootLock{file: file}, nil
}

func lockHolder(path string) string {
	text, err := os.ReadFile(path)
	pid := strings.TrimSpace(string(text))
	if err != nil || pid == "" {
		return "another process"
	}
	if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil {
		return "process " + pid + " (" + strings.TrimSpace(string(name)) + ")"
	}
	return "process " + pid
}

func (l *rootLock) release() error { return l.file.Close() }
