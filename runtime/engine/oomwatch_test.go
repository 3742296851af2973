package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryTree are files like those of a site's cgroup and those below it.
type memoryTree struct {
	t   *testing.T
	dir string
}

func (m memoryTree) write(id string, kills int) memoryEvents {
	m.t.Helper()
	file := filepath.Join(m.dir, id, "memory.events")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	text := fmt.Sprintf("low 0\nhigh 7\nmax 9\noom %d\noom_kill %d\noom_group_kill 0\n", kills, kills)
	// In place and at once, as the kernel's are: nobody sees an empty file.
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		m.t.Fatal(err)
	}
	return memoryEvents{file}
}

func (m memoryTree) remove(id string) {
	m.t.Helper()
	if err := os.RemoveAll(filepath.Join(m.dir, id)); err != nil {
		m.t.Fatal(err)
	}
}

// told collects what a watch tells.
type told struct {
	mu  sync.Mutex
	ids map[string]int
}

func (k *told) tell(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ids[id]++
}

func (k *told) of(id string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ids[id]
}

func newTestWatch(t *testing.T, ids ...string) (*oomWatch, memoryTree, *told) {
	t.Helper()
	tree := memoryTree{t, t.TempDir()}
	told := &told{ids: map[string]int{}}
	tree.write(".", 0)
	w, err := newOOMWatch(told.tell)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	for _, id := range ids {
		if err := w.add(id, tree.write(id, 0)); err != nil {
			t.Fatal(err)
		}
	}
	return w, tree, told
}

func TestMemoryKillIsToldOnce(t *testing.T) {
	w, tree, told := newTestWatch(t, "lms", "mysql")
	tree.write("lms", 1)
	eventually(t, "the kill of lms", func() bool { return told.of("lms") == 1 })
	w.lookAt("lms")
	tree.write(".", 1) // the notice of the one above comes as well
	w.lookAt("mysql")
	tree.write("lms", 3)
	eventually(t, "the next kills of lms", func() bool { return told.of("lms") == 2 })
	if n := told.of("mysql"); n != 0 {
		t.Errorf("mysql was told %d times", n)
	}
}

// systemd removes the cgroup of a scope before anybody has read its count.
func TestMemoryKillOfACgroupThatIsGone(t *testing.T) {
	w, tree, told := newTestWatch(t, "lms", "mysql")
	tree.remove("lms")
	tree.write(".", 1)
	w.lookAt("lms")
	eventually(t, "the kill of lms", func() bool { return told.of("lms") == 1 })
	// Kills of others are not laid to one that has gone.
	tree.write("mysql", 1)
	tree.write(".", 2)
	eventually(t, "the kill of mysql", func() bool { return told.of("mysql") == 1 })
	w.lookAt("lms")
	if n := told.of("lms"); n != 1 {
		t.Errorf("lms was told %d times", n)
	}
}

// A cgroup that ends after another one's memory kill was not killed itself.
func TestMemoryKillOfAnotherIsKnown(t *testing.T) {
	w, tree, told := newTestWatch(t, "lms", "mysql")
	tree.write(".", 1)
	tree.write("mysql", 1)
	eventually(t, "the kill of mysql", func() bool { return told.of("mysql") == 1 })
	eventually(t, "the count above to be known", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.byID["lms"].aboveKills == 1
	})
	tree.remove("lms")
	w.lookAt("lms")
	w.forget("lms")
	w.lookAt("lms")
	if n := told.of("lms"); n != 0 {
		t.Errorf("lms was told %d times", n)
	}
}

func TestWatchOfNoCgroup(t *testing.T) {
	w, tree, _ := newTestWatch(t)
	if err := w.add("none", memoryEvents{}); err == nil {
		t.Error("a container without a cgroup is watched")
	}
	if err := w.add("gone", memoryEvents{filepath.Join(tree.dir, "gone", "memory.events")}); err == nil {
		t.Error("a cgroup that is not there is watched")
	}
}

func FuzzReadNotices(f *testing.F) {
	notice := func(descriptor int32, mask uint32, name string) []byte {
		var b bytes.Buffer
		_ = binary.Write(&b, binary.NativeEndian, unix.InotifyEvent{Wd: descriptor, Mask: mask, Len: uint32(len(name))}) // memory takes it
		b.WriteString(name)
		return b.Bytes()
	}
	f.Add(notice(1, unix.IN_MODIFY, ""))
	f.Add(append(notice(1, unix.IN_IGNORED, ""), notice(2, unix.IN_MODIFY, "file\x00\x00\x00\x00")...))
	f.Add(notice(-1, unix.IN_Q_OVERFLOW, ""))
	f.Add(notice(3, unix.IN_MODIFY, "")[:9])
	f.Fuzz(func(t *testing.T, notices []byte) {
		if n := len(readNotices(notices)); n > len(notices)/unix.SizeofInotifyEvent {
			t.Errorf("%d notices in %d bytes", n, len(notices))
		}
	})
}

func TestReadNotices(t *testing.T) {
	var b bytes.Buffer
	for _, notice := range []unix.InotifyEvent{{Wd: 1, Mask: unix.IN_MODIFY}, {Wd: 2, Mask: unix.IN_IGNORED}, {Wd: 3, Mask: unix.IN_MODIFY, Len: 4}} {
		if err := binary.Write(&b, binary.NativeEndian, notice); err != nil {
			t.Fatal(err)
		}
		b.Write(make([]byte, notice.Len))
	}
	changed := readNotices(b.Bytes())
	if len(changed) != 2 || !changed[1] || !changed[3] {
		t.Errorf("changed are %v, want 1 and 3", changed)
	}
}

func TestAboveScope(t *testing.T) {
	for file, want := range map[string]string{
		"/c/tarima/default/default.lms/memory.events":                              "/c/tarima/default/memory.events",
		"/c/tarima-default.slice/tarima-default.lms.scope/memory.events":           "/c/tarima-default.slice/memory.events",
		"/c/tarima-default.slice/tarima-default.lms.scope/container/memory.events": "/c/tarima-default.slice/memory.events",
	} {
		if got := aboveScope(file); got != want {
			t.Errorf("above %s is %s, want %s", file, got, want)
		}
	}
}
