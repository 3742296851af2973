package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// installShim puts the executable where shims are started from and returns
// that path: Root/bin/HASH/tarima-shim. The path is written into the bundle of
// every container and used again for its deletion, so it must stay what it is
// when a package upgrade replaces the executable. A hard link costs nothing;
// on another file system it is a copy.
func installShim(root, executable string) (string, error) {
	source, err := os.Open(executable)
	if err != nil {
		return "", fmt.Errorf("shim binary: %w", err)
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return "", fmt.Errorf("shim binary: %w", err)
	}
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o711); err != nil {
		return "", fmt.Errorf("folder of the shim: %w", err)
	}
	if path := installedShim(bin, info); path != "" {
		return path, nil
	}

	sum := sha256.New()
	if _, err := io.Copy(sum, source); err != nil {
		return "", fmt.Errorf("reading %s: %w", executable, err)
	}
	dir := filepath.Join(bin, hex.EncodeToString(sum.Sum(nil))[:16])
	path := filepath.Join(dir, shimName)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("folder of the shim: %w", err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, markSource(dir, info)
	}
	temp := path + ".new"
	_ = os.Remove(temp)
	if err := os.Link(executable, temp); err != nil {
		if _, err := source.Seek(0, io.SeekStart); err != nil {
			return "", fmt.Errorf("reading %s: %w", executable, err)
		}
		if err := copyExecutable(temp, source); err != nil {
			return "", fmt.Errorf("installing the shim: %w", err)
		}
	}
	if err := os.Rename(temp, path); err != nil {
		return "", fmt.Errorf("installing the shim: %w", err)
	}
	return path, markSource(dir, info)
}

func copyExecutable(path string, source io.Reader) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(file, source); err != nil {
		return err
	}
	return file.Sync()
}

// sourceMark names a version of a file without reading it: hashing 40 MB at
// every start would cost more than the rest of the start.
func sourceMark(info os.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok {
		return fmt.Sprintf("%d %d %d %d", stat.Dev, stat.Ino, info.Size(), info.ModTime().UnixNano())
	}
	return fmt.Sprintf("%s %d %d", info.Name(), info.Size(), info.ModTime().UnixNano())
}

func markSource(dir string, info os.FileInfo) error {
	return os.WriteFile(filepath.Join(dir, "source"), []byte(sourceMark(info)), 0o600)
}

func installedShim(bin string, info os.FileInfo) string {
	marks, _ := filepath.Glob(filepath.Join(bin, "*", "source")) // the pattern is constant
	for _, mark := range marks {
		text, err := os.ReadFile(mark)
		path := filepath.Join(filepath.Dir(mark), shimName)
		if err != nil || string(text) != sourceMark(info) {
			continue
		}
		if installed, err := os.Stat(path); err == nil && installed.Size() == info.Size() {
			return path
		}
	}
	return ""
}

// removeOldShims removes binaries that neither this version nor any bundle
// under state uses.
func removeOldShims(root, state, current string) error {
	used := map[string]bool{current: true}
	marks, err := filepath.Glob(filepath.Join(state, "io.containerd.runtime.v2.task", namespace, "*", "shim-binary-path"))
	if err != nil {
		return err
	}
	for _, mark := range marks {
		if text, err := os.ReadFile(mark); err == nil {
			used[strings.TrimSpace(string(text))] = true
		}
	}
	installed, err := filepath.Glob(filepath.Join(root, "bin", "*", shimName))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range installed {
		if !used[path] {
			errs = append(errs, os.RemoveAll(filepath.Dir(path)))
		}
	}
	return errors.Join(errs...)
}
