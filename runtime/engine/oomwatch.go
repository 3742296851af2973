package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// oomWatch follows the memory.events of the containers of one shim on a host
// with cgroup v2.
//
// The count of a cgroup goes with the cgroup, and systemd removes that of a
// scope as soon as its last process has ended: perhaps before anybody could
// read why. Events of a cgroup also count for the one above it, which stays
// (Linux, Documentation/admin-guide/cgroup-v2.rst, "memory.events"). So the
// watch reads both with every notice of the kernel, and when the container's
// own file has gone, a count above that has grown since tells the reason.
// containerd's own watch does not know the one above, and may drop the last
// notice of a container that ends with it.
type oomWatch struct {
	tell   func(id string)
	notify *os.File // inotify
	ended  chan struct{}

	mu   sync.Mutex
	byID map[string]*watchedMemory
	// above are the last counts of the cgroups above, by watch descriptor.
	above map[int32]*aboveMemory
}

type aboveMemory struct {
	events memoryEvents
	kills  int
}

// watchedMemory is what is known of one container's cgroup.
type watchedMemory struct {
	own, above memoryEvents
	descriptor int32 // of the watch over own
	// ownKills and aboveKills are the counts at the last reading.
	ownKills, aboveKills int
	gone                 bool // own could not be read any more
}

// newOOMWatch begins to watch. tell is called, without a lock held, for each
// container in which a process was killed for its memory limit.
func newOOMWatch(tell func(id string)) (*oomWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching for memory kills: inotify: %w", err)
	}
	w := &oomWatch{
		tell:   tell,
		notify: os.NewFile(uintptr(fd), "inotify"),
		ended:  make(chan struct{}),
		byID:   map[string]*watchedMemory{},
		above:  map[int32]*aboveMemory{},
	}
	go w.run()
	return w, nil
}

// add follows a container's cgroup until forget.
func (w *oomWatch) add(id string, own memoryEvents) error {
	if own.file == "" {
		return fmt.Errorf("watching for memory kills: %s has no cgroup of its own", id)
	}
	above := memoryEvents{aboveScope(own.file)}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &watchedMemory{own: own, above: above}
	var err error
	if m.descriptor, err = w.watch(own.file); err != nil {
		return err
	}
	// Adding a file again gives the watch that there is.
	descriptor, err := w.watch(above.file)
	if err != nil {
		return err
	}
	m.aboveKills, _ = above.kills() // 0 when it cannot be read
	m.ownKills, _ = own.kills()
	if w.above[descriptor] == nil {
		w.above[descriptor] = &aboveMemory{events: above, kills: m.aboveKills}
	}
	w.byID[id] = m
	return nil
}

// aboveScope names the same file of the cgroup above, which outlives the
// container. crun puts containers into a cgroup within their scope.
func aboveScope(file string) string {
	dir := filepath.Dir(filepath.Dir(file))
	if strings.HasSuffix(dir, ".scope") {
		dir = filepath.Dir(dir)
	}
	return filepath.Join(dir, filepath.Base(file))
}

func (w *oomWatch) watch(file string) (descriptor int32, err error) {
	conn, err := w.notify.SyscallConn()
	if err != nil {
		return 0, err
	}
	var number int
	var inner error
	err = conn.Control(func(fd uintptr) { number, inner = unix.InotifyAddWatch(int(fd), file, unix.IN_MODIFY) })
	if err = errors.Join(err, inner); err != nil {
		return 0, fmt.Errorf("watching for memory kills: %s: %w", file, err)
	}
	return int32(number), nil // the kernel's are 32 bits wide
}

// forget ends the watch over a container. The kernel ends its own with the
// cgroup.
func (w *oomWatch) forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byID, id)
}

// look reads the counts of all containers that which names, and tells of those
// that have grown.
func (w *oomWatch) look(which func(id string, m *watchedMemory) bool) {
	w.mu.Lock()
	var killed []string
	for id, m := range w.byID {
		if which(id, m) && m.look() {
			killed = append(killed, id)
		}
	}
	w.mu.Unlock()
	for _, id := range killed {
		w.tell(id)
	}
}

// lookAt reads the count of one container now.
func (w *oomWatch) lookAt(id string) {
	w.look(func(other string, _ *watchedMemory) bool { return other == id })
}

// look says whether a process was killed since the last look.
func (m *watchedMemory) look() bool {
	if m.gone {
		return false // what the one above counts now is of others
	}
	// The one above is read first: what happens between the two readings is
	// found again by the next look.
	above, aboveErr := m.above.kills()
	own, err := m.own.kills()
	killed := own > m.ownKills
	if err != nil {
		m.gone = true
		killed = aboveErr == nil && above > m.aboveKills
	}
	m.ownKills, m.aboveKills = own, above
	return killed
}

func (w *oomWatch) run() {
	defer close(w.ended)
	buffer := make([]byte, 4096)
	for {
		n, err := w.notify.Read(buffer)
		if err != nil || n == 0 {
			return
		}
		changed := readNotices(buffer[:n])
		all := changed[overflow] || w.countedAbove(changed)
		w.look(func(_ string, m *watchedMemory) bool { return all || changed[m.descriptor] })
	}
}

// countedAbove says whether one of the cgroups above counted a memory kill.
// Most notices are of other events, such as reclaim at memory.high.
func (w *oomWatch) countedAbove(changed map[int32]bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	grown := false
	for descriptor, above := range w.above {
		if !changed[descriptor] {
			continue
		}
		kills, err := above.events.kills()
		if err != nil {
			delete(w.above, descriptor) // the site is gone
			continue
		}
		grown = grown || kills != above.kills
		above.kills = kills
	}
	return grown
}

// overflow is the watch descriptor of the notice that notices were lost.
const overflow = -1

// readNotices returns the watch descriptors of files that have changed
// (inotify(7): each notice is a header of four numbers and a name, whose
// length the last of them tells).
func readNotices(notices []byte) map[int32]bool {
	changed := map[int32]bool{}
	for len(notices) >= unix.SizeofInotifyEvent {
		if binary.NativeEndian.Uint32(notices[4:])&(unix.IN_MODIFY|unix.IN_Q_OVERFLOW) != 0 {
			changed[int32(binary.NativeEndian.Uint32(notices))] = true
		}
		length := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(notices[12:]))
		notices = notices[min(length, len(notices)):]
	}
	return changed
}

func (w *oomWatch) close() error {
	err := w.notify.Close()
	<-w.ended
	return err
}
