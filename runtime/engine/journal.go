package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// exitEntry is one container's entry in the exit journal: a file of its own,
// written by the shim before anybody hears of the exit. containerd forgets an
// exit that happens while the daemon is not there.
type exitEntry struct {
	ID   string    `json:"id"`
	Run  string    `json:"run"`
	PID  int       `json:"pid"`
	Code int       `json:"code"`
	At   time.Time `json:"at"`
	OOM  bool      `json:"oom,omitempty"`
}

// writeExit replaces an entry as a whole. It is not synced: the folder lies on
// a file system that ends with the machine, as the container did before.
func writeExit(path string, entry exitEntry) error {
	text, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// writeMissingExit writes an entry if there is none: what the shim wrote knows
// more and is never replaced.
func writeMissingExit(path string, entry exitEntry) error {
	if exists(path) {
		return nil
	}
	temp := path + "." + entry.Run
	if err := writeExit(temp, entry); err != nil {
		return err
	}
	err := os.Link(temp, path)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(temp))
}

// readExit reads an entry; the error of a missing one is os.ErrNotExist.
func readExit(path string) (exitEntry, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return exitEntry{}, err
	}
	var entry exitEntry
	if err := json.Unmarshal(text, &entry); err != nil {
		return exitEntry{}, fmt.Errorf("exit journal %s: %w", path, err)
	}
	return entry, nil
}

// memoryEvents is the kernel's count of processes of one cgroup that were
// killed for its memory limit.
type memoryEvents struct{ file string }

// memoryEventsOf finds the count for the cgroup of a process. The zero value
// counts nothing.
func memoryEventsOf(pid int) memoryEvents {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return memoryEvents{}
	}
	unified := ""
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		if controllers == "" {
			unified = path
		}
		for controller := range strings.SplitSeq(controllers, ",") {
			if controller == "memory" { // cgroup v1, alone or beside an empty v2 tree
				return memoryEvents{filepath.Join("/sys/fs/cgroup/memory", path, "memory.oom_control")}
			}
		}
	}
	if unified == "" || unified == "/" {
		return memoryEvents{}
	}
	return memoryEvents{filepath.Join("/sys/fs/cgroup", unified, "memory.events")}
}

// kills reads the count. There is none any more when the cgroup is gone.
func (m memoryEvents) kills() (int, error) {
	if m.file == "" {
		return 0, nil
	}
	text, err := os.ReadFile(m.file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == "oom_kill" {
			return strconv.Atoi(value)
		}
	}
	return 0, nil
}

// processes lists what lives in the cgroup and below it; nothing when that is
// not known or gone.
func (m memoryEvents) processes() []uint32 {
	if m.file == "" {
		return nil
	}
	var pids []uint32
	err := filepath.WalkDir(filepath.Dir(m.file), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return err
		}
		for word := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.ParseUint(word, 10, 32)
			if err != nil {
				return err
			}
			pids = append(pids, uint32(pid))
		}
		return nil
	})
	if err != nil {
		return nil // half a list would be a wrong answer
	}
	return pids
}

// removeExit forgets an entry.
func removeExit(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
