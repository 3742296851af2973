package certs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"tarima/store/durable"
)

// storage keeps certmagic's files, with locks in memory: one process at a time
// owns the folder, and a lock file that a power cut filled with zeros stops
// certmagic for ever without a word.
type storage struct {
	certmagic.FileStorage

	mu    sync.Mutex
	locks map[string]chan struct{}

	checking sync.Mutex
}

// badMark is in the name of what was set aside.
const badMark = ".bad-"

func newStorage(dir string) *storage {
	return &storage{FileStorage: certmagic.FileStorage{Path: dir}, locks: map[string]chan struct{}{}}
}

func (s *storage) slot(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.locks[name]
	if c == nil {
		c = make(chan struct{}, 1)
		s.locks[name] = c
	}
	return c
}

// Lock serves certmagic.Locker.
func (s *storage) Lock(ctx context.Context, name string) error {
	select {
	case s.slot(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TryLock serves certmagic.TryLocker.
func (s *storage) TryLock(_ context.Context, name string) (bool, error) {
	select {
	case s.slot(name) <- struct{}{}:
		return true, nil
	default:
		return false, nil
	}
}

// Unlock serves certmagic.Locker.
func (s *storage) Unlock(_ context.Context, name string) error {
	select {
	case <-s.slot(name):
		return nil
	default:
		return fmt.Errorf("lock %s is not held", name)
	}
}

// repair sets aside what certmagic would stumble over in silence: folders of
// accounts and of the certificates of a name ("": all) with a file that cannot
// be read. It returns what it set aside.
func (s *storage) repair(name string) []string {
	if name == "" {
		name = "*"
	} else {
		name = certmagic.StorageKeys.Safe(name)
	}
	var aside []string
	for _, pattern := range []string{"certificates/*/" + name, "acme/*/users/*"} {
		folders, err := filepath.Glob(filepath.Join(s.Path, pattern))
		if err != nil {
			continue // the pattern is good
		}
		for _, folder := range folders {
			if strings.Contains(filepath.Base(folder), badMark) || sound(folder) {
				continue
			}
			to := folder + badMark + time.Now().UTC().Format("20060102T150405.000Z")
			if os.Rename(folder, to) == nil {
				aside = append(aside, to)
			}
		}
	}
	return aside
}

// sound says that each file of a folder can be read. A file that is missing is
// no harm: certmagic makes it again.
func sound(folder string) bool {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return true
	}
	files := map[string][]byte{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return true
		}
		files[filepath.Ext(e.Name())] = data
	}
	if data, ok := files[".json"]; ok && !json.Valid(data) {
		return false
	}
	key, hasKey := files[".key"]
	if block, _ := pem.Decode(key); hasKey && block == nil {
		return false
	}
	if crt, ok := files[".crt"]; ok && hasKey {
		if _, err := tls.X509KeyPair(crt, key); err != nil {
			return false
		}
	}
	return true
}

// check says whether files can be written: what a full disk or a read-only one
// costs must not be an order.
func (s *storage) check() error {
	s.checking.Lock()
	defer s.checking.Unlock()
	if err := os.MkdirAll(s.Path, 0o700); err != nil {
		return err
	}
	// As much as a certificate with its chain, its key and what is known of it.
	const name, size = ".space", 32 << 10
	if err := durable.Write(filepath.Join(s.Path, name), make([]byte, size), 0o600); err != nil {
		return err
	}
	return os.Remove(filepath.Join(s.Path, name))
}

// accountFolders of an authority: acme/KEY/users/EMAIL.
func (s *storage) accountFolders(key string) []string {
	users := filepath.Join(s.Path, "acme", certmagic.StorageKeys.Safe(key), "users")
	entries, err := os.ReadDir(users)
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() && !strings.Contains(e.Name(), badMark) {
			all = append(all, filepath.Join(users, e.Name()))
		}
	}
	return all
}

func (s *storage) hasAccount(key string) bool { return len(s.accountFolders(key)) > 0 }

func (s *storage) setAccountsAside(key string) ([]string, error) {
	var aside []string
	for _, folder := range s.accountFolders(key) {
		to := folder + badMark + time.Now().UTC().Format("20060102T150405.000Z")
		if err := os.Rename(folder, to); err != nil {
			return aside, err
		}
		aside = append(aside, to)
	}
	return aside, nil
}
