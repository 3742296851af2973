package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tarima/proxy/routes"
)

// After a handover the requests of a service are in two processes, and it is
// drained when both have none. The elder writes down how many it has, in a
// file that it keeps locked while it lives; the successor looks there before
// it tells that a service is drained.
const eldersDir = "elders"

// will is what an elder writes down.
type will struct {
	Generation uint64         `json:"generation"` // of the routes that it knows; 0: not yet said
	Inside     map[string]int `json:"inside"`     // by "site/service", none that are 0
}

func (k serviceKey) String() string { return k.site + "/" + k.service }

// testament is the elder's side.
type testament struct {
	file *os.File
	last []byte
}

// writeTestament begins one that says nothing yet: until it does, a successor
// takes every service for busy.
func writeTestament(dir, instance string) (*testament, error) {
	if err := os.MkdirAll(filepath.Join(dir, eldersDir), 0o700); err != nil {
		return nil, fmt.Errorf("count of requests: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, eldersDir, instance+".json"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("count of requests: %w", err)
	}
	t := &testament{file: f}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.close()
		return nil, fmt.Errorf("count of requests: %w", err)
	}
	return t, nil
}

func (t *testament) say(w will) error {
	data, err := json.Marshal(w)
	if err != nil || slices.Equal(data, t.last) {
		return err
	}
	// A reader that sees half of it takes the elder for busy and looks again.
	if err := t.file.Truncate(0); err != nil {
		return err
	}
	if _, err := t.file.WriteAt(data, 0); err != nil {
		return err
	}
	t.last = data
	return nil
}

func (t *testament) close() {
	_ = os.Remove(t.file.Name())
	_ = t.file.Close() // and with it the lock
}

// will of a process that has handed over.
func (b *switchboard) will() will {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := will{Generation: b.current.Load().snapshot.Generation, Inside: map[string]int{}}
	for key, g := range b.gates {
		if _, inside := g.status(); inside > 0 {
			w.Inside[key.String()] = inside
		}
	}
	return w
}

// elders are the processes that handed over to this one and still live.
type elders struct {
	mu    sync.Mutex
	files []string
}

func findElders(dir string) *elders {
	// The pattern is good, so there is no error.
	files, _ := filepath.Glob(filepath.Join(dir, eldersDir, "*.json"))
	return &elders{files: files}
}

// any living one.
func (e *elders) any() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.files = slices.DeleteFunc(e.files, func(name string) bool { _, gone := read(name); return gone })
	return len(e.files) > 0
}

// busy says whether one of them may have requests of the service, or does not
// know yet that the service drains.
func (e *elders) busy(key serviceKey, generation uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range e.files {
		if w, gone := read(name); !gone && (w.Generation < generation || w.Inside[key.String()] > 0) {
			return true
		}
	}
	return false
}

// read a will. An elder that was killed has left its file, but not its lock.
func read(name string) (w will, gone bool) {
	f, err := os.Open(name)
	if err != nil {
		return w, errors.Is(err, fs.ErrNotExist)
	}
	defer func() { _ = f.Close() }() // read only
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		_ = os.Remove(name) // or the next one looks again
		return w, true
	}
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil || json.Unmarshal(data, &w) != nil {
		return will{}, false
	}
	return w, false
}

// payDebts tells of drains that waited for an elder.
func (b *switchboard) payDebts() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.gates {
		g.mu.Lock()
		due, generation := g.owed && g.state == routes.Draining && g.inside == 0, g.generation
		g.owed = g.owed && g.state == routes.Draining
		g.mu.Unlock()
		if due {
			b.drained(g, generation)
		}
	}
}

// heedElders until the last one is gone.
func (s *server) heedElders(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for living := true; living; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		living = s.board.elders.any()
		s.board.payDebts()
	}
}
