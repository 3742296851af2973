package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// service holds everything in memory and writes each change to its folder
// before it is acknowledged.
type service struct {
	dir    string
	master string

	mu      sync.RWMutex
	keys    []*key
	indexes map[string]*index
	tasks   []*task
	next    int // uid of the next task
}

// index is a set of documents with its settings.
type index struct {
	UID        string              `json:"uid"`
	PrimaryKey string              `json:"primaryKey"`
	Created    time.Time           `json:"createdAt"`
	Updated    time.Time           `json:"updatedAt"`
	Settings   map[string]any      `json:"settings"`
	Documents  map[string]document `json:"documents"`
}

type document = map[string]any

// task is a finished change: this service makes changes at once, and clients
// ask for the task only to hear so.
type task struct {
	UID      int            `json:"uid"`
	IndexUID *string        `json:"indexUid"`
	Status   string         `json:"status"`
	Type     string         `json:"type"`
	Details  map[string]any `json:"details"`
	Error    *apiError      `json:"error"`
	Duration string         `json:"duration"`
	Enqueued time.Time      `json:"enqueuedAt"`
	Started  time.Time      `json:"startedAt"`
	Finished time.Time      `json:"finishedAt"`
}

// state is what lies in state.json.
type state struct {
	Version string `json:"version"`
	Keys    []*key `json:"keys"`
	Next    int    `json:"nextTask"`
}

// open reads the database below dir and makes an empty one when there is none.
func open(dir, master string) (*service, error) {
	s := &service{dir: dir, master: master, indexes: map[string]*index{}}
	if err := os.MkdirAll(filepath.Join(dir, "indexes"), 0o750); err != nil {
		return nil, fmt.Errorf("database folder: %w", err)
	}
	var st state
	err := readJSON(filepath.Join(dir, "state.json"), &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := s.makeDefaultKeys(); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case st.Version != version:
		return nil, fmt.Errorf("your database version (%s) is incompatible with your current engine version (%s)", st.Version, version)
	default:
		s.keys, s.next = st.Keys, st.Next
	}
	files, err := filepath.Glob(filepath.Join(dir, "indexes", "*.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		i := &index{}
		if err := readJSON(f, i); err != nil {
			return nil, err
		}
		s.indexes[i.UID] = i
	}
	return s, nil
}

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}

func (s *service) saveState() error {
	return writeJSON(filepath.Join(s.dir, "state.json"), state{version, s.keys, s.next})
}

var safeUID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,400}$`)

func (s *service) indexPath(uid string) string {
	return filepath.Join(s.dir, "indexes", uid+".json")
}

func (s *service) saveIndex(i *index) error {
	i.Updated = time.Now().UTC()
	return writeJSON(s.indexPath(i.UID), i)
}

// writeJSON replaces a file so that after a crash either the old or the new one
// is there.
func writeJSON(path string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// finish records a change as a task; the lock is held.
func (s *service) finish(kind string, uid *string, details map[string]any, problem *apiError) (*task, error) {
	now := time.Now().UTC()
	t := &task{
		UID: s.next, IndexUID: uid, Type: kind, Details: details, Error: problem, Status: "succeeded",
		Duration: "PT0.001S", Enqueued: now, Started: now, Finished: now,
	}
	if problem != nil {
		t.Status = "failed"
	}
	s.next++
	s.tasks = append(s.tasks, t)
	if len(s.tasks) > 1000 {
		s.tasks = s.tasks[len(s.tasks)-1000:]
	}
	return t, s.saveState()
}
