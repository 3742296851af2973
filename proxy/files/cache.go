package files

import (
	"container/list"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"tarima/proxy/coding"
)

// Config of a Server. Zero values take the defaults that are named.
type Config struct {
	Memory     int64         // bytes of files that are kept; 0: 32 MiB, negative: none
	MemoryEach int64         // bytes of one file, and of one encoding of it; 0: 2 MiB
	Recheck    time.Duration // how long a change on disk may go unseen; 0: 1 s
}

// Stats is what a Server holds and did.
type Stats struct {
	Files  int   // that are known
	Bytes  int64 // in memory, of all files
	Hits   uint64
	Misses uint64 // requests that had to look at the disk
}

// Server serves files of folders. Its methods may be called from several
// goroutines.
type Server struct {
	cfg   Config
	loads singleflight.Group
	slots chan struct{} // of those that load
	pool  sync.Pool     // *[]byte for files that are not kept

	mu      sync.Mutex
	folders map[folderKey]folderState
	entries map[entryKey]*entry
	recent  *list.List // of *entry, the one used last in front
	stats   Stats
}

type folderKey struct{ base, root string }

// folderState is which folder stands at a path. Another one has other files.
type folderState struct {
	id      identity
	checked time.Time
}

type entryKey struct {
	folder folderKey
	name   string
}

// entry is a known file in the cache, under one of its names.
type entry struct {
	key     entryKey
	file    *file
	folder  identity // where it was found
	data    [coding.Count][]byte
	checked time.Time
	weight  int64
	place   *list.Element
}

const (
	loadsAtOnce = 4
	maxFolders  = 1024
	// What is known of a file without its content takes about this much.
	entryWeight = 2 << 10
	copyBuffer  = 64 << 10
)

// New makes a Server. It starts nothing and needs no end.
func New(cfg Config) *Server {
	if cfg.Memory == 0 {
		cfg.Memory = 32 << 20
	}
	if cfg.MemoryEach == 0 {
		cfg.MemoryEach = 2 << 20
	}
	if cfg.Recheck == 0 {
		cfg.Recheck = time.Second
	}
	return &Server{
		cfg: cfg, slots: make(chan struct{}, loadsAtOnce),
		folders: map[folderKey]folderState{}, entries: map[entryKey]*entry{}, recent: list.New(),
		pool: sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }},
	}
}

// Stats returns the numbers of this moment.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Files = len(s.entries)
	return stats
}

// known returns what the cache has of a name, when it was looked at lately.
func (s *Server) known(key entryKey, now time.Time) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	state := s.folders[key.folder]
	if e == nil || !e.file.settled || e.folder != state.id ||
		now.Sub(e.checked) >= s.cfg.Recheck || now.Sub(state.checked) >= s.cfg.Recheck {
		s.stats.Misses++
		return nil
	}
	s.stats.Hits++
	s.recent.MoveToFront(e.place)
	return e
}

// see notes which folder stands at a path now. Of another one nothing is kept.
func (s *Server) see(key folderKey, id identity, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.folders[key]; ok && old.id != id {
		for k, e := range s.entries {
			if k.folder == key {
				s.drop(e)
			}
		}
	}
	if len(s.folders) >= maxFolders {
		clear(s.folders) // all are looked at again
	}
	s.folders[key] = folderState{id, now}
}

// renew returns the entry of a name if it is still true.
func (s *Server) renew(key entryKey, name string, seen survey, folder identity, now time.Time) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil || !e.file.settled || e.file.name != name || e.file.survey != seen || e.folder != folder {
		return nil
	}
	e.checked = now
	s.recent.MoveToFront(e.place)
	return e
}

func (s *Server) put(key entryKey, f *file, folder identity, now time.Time) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[key]; old != nil {
		s.drop(old)
	}
	e := &entry{key: key, file: f, folder: folder, checked: now, weight: entryWeight + int64(len(key.name))}
	e.place = s.recent.PushFront(e)
	s.entries[key] = e
	s.stats.Bytes += e.weight
	s.shrink()
	return e
}

// keep adds the content of one form.
func (s *Server) keep(e *entry, c coding.Coding, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[e.key] != e || e.data[c] != nil {
		return
	}
	e.data[c] = data
	e.weight += int64(len(data))
	s.stats.Bytes += int64(len(data))
	s.shrink()
}

// content of a form, nil when it is not kept.
func (s *Server) content(e *entry, c coding.Coding) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.data[c]
}

// forget an entry that turned out to be wrong.
func (s *Server) forget(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[e.key] == e {
		s.drop(e)
	}
}

// drop is called with the lock held.
func (s *Server) drop(e *entry) {
	delete(s.entries, e.key)
	s.recent.Remove(e.place)
	s.stats.Bytes -= e.weight
}

func (s *Server) shrink() {
	for s.stats.Bytes > max(s.cfg.Memory, 0) && s.recent.Len() > 0 {
		s.drop(s.recent.Back().Value.(*entry)) //nolint:forcetypeassert // nothing else is in the list
	}
}

// find returns what is known of the file that a request asks for, looking at the
// disk where it has to.
func (s *Server) find(key entryKey, spa bool) (*entry, error) {
	now := time.Now()
	if e := s.known(key, now); e != nil {
		return e, nil
	}
	folder, id, err := openFolder(key.folder.base, key.folder.root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }() // read only
	s.see(key.folder, id, now)
	name, file, err := lookUp(folder, key.name)
	if err != nil && spa && !isHashed(key.name) {
		// Its pages have paths that are no files. One name for all of them: the
		// cache is not to be filled with what visitors make up.
		key.name = "index.html"
		if e := s.known(key, now); e != nil {
			return e, nil
		}
		name, file, err = lookUp(folder, key.name)
	}
	if err != nil {
		return nil, err
	}
	seen := surveyOf(folder, name, file)
	if e := s.renew(key, name, seen, id, now); e != nil {
		return e, nil
	}
	f, err := s.load(folder, key, name, seen)
	if err != nil {
		return nil, err
	}
	return s.put(key, f, id, now), nil
}

// load bounds how many look at files at the same time, and looks once for all
// who ask for the same.
func (s *Server) load(folder *os.Root, key entryKey, name string, seen survey) (*file, error) {
	once := key.folder.base + "\x00" + key.folder.root + "\x00" + name
	loaded, err, _ := s.loads.Do(once, func() (any, error) {
		s.slots <- struct{}{}
		defer func() { <-s.slots }()
		return load(folder, name, seen)
	})
	if err != nil {
		return nil, err
	}
	f := loaded.(*file) //nolint:forcetypeassert // as returned above
	if f.survey != seen {
		return nil, errUnsteady
	}
	return f, nil
}
