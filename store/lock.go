package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile is held for as long as the store is open. It is a file of its own,
// so that the database file can be replaced under the lock. The kernel lets go
// of it when the process ends, however it ends.
type lockFile struct {
	file *os.File
}

// acquire locks the file at path, waiting for another holder until ctx ends or
// the patience is used up. The error names the holder.
func acquire(ctx context.Context, path string, patience time.Duration, log *slog.Logger) (*lockFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the store's lock: %w", classify(err))
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for said := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor fits an int
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		holder := holderOf(f)
		if !said && patience > 0 {
			log.Warn("the store is held by another process; waiting for it", "file", path, "holder", holder, "patience", patience)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%w: %s by %s: %w", ErrHeld, filepath.Dir(path), holder, ctx.Err()), f.Close())
		case <-deadline.C:
			return nil, errors.Join(fmt.Errorf("%w: %s by %s; stop it first", ErrHeld, filepath.Dir(path), holder), f.Close())
		case <-retry.C:
		}
	}
	// The number is for people and for kernels whose /proc/locks is out of
	// sight: that it cannot be written, as on a full disk, changes nothing.
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			log.Debug("the process id was not written into the store's lock", "error", err)
		}
	}
	return &lockFile{file: f}, nil
}

func (l *lockFile) release() error { return l.file.Close() }

// holderOf names the process that holds the lock on f: what the kernel says,
// or else what the holder wrote into it.
func holderOf(f *os.File) string {
	pid := kernelHolder(f)
	if pid == 0 {
		content := make([]byte, 20)
		n, _ := f.ReadAt(content, 0)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(content[:n])))
	}
	if pid <= 0 {
		return "an unknown process"
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(comm)))
}

// kernelHolder finds the holder in /proc/locks (proc_locks(5)), or 0.
func kernelHolder(f *os.File) int {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil { //nolint:gosec // a descriptor fits an int
		return 0
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer locks.Close()
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	scan := bufio.NewScanner(locks)
	for scan.Scan() {
		// 1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF
		fields := strings.Fields(scan.Text())
		if len(fields) >= 6 && fields[1] == "FLOCK" && fields[5] == want {
			pid, err := strconv.Atoi(fields[4])
			if err == nil && pid > 0 {
				return pid
			}
		}
	}
	return 0
}
