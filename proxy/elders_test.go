package proxy

import (
	"os"
	"path/filepath"
	"testing"
)

func TestElders(t *testing.T) {
	dir := t.TempDir()
	lms, cms := serviceKey{"default", "lms"}, serviceKey{"default", "cms"}
	if e := findElders(dir); e.any() || e.busy(lms, 1) {
		t.Error("elders out of nothing")
	}
	note, err := writeTestament(dir, "first")
	if err != nil {
		t.Fatal(err)
	}
	e := findElders(dir)
	if !e.any() || !e.busy(lms, 1) {
		t.Error("one that has said nothing yet is not taken for busy")
	}
	if err := note.say(will{Generation: 5, Inside: map[string]int{lms.String(): 2}}); err != nil {
		t.Fatal(err)
	}
	if !e.busy(lms, 5) || e.busy(cms, 5) {
		t.Error("the counts are not heeded")
	}
	if !e.busy(cms, 6) {
		t.Error("it does not know of generation 6 yet")
	}
	if _, err := note.file.WriteAt([]byte("#"), 0); err != nil {
		t.Fatal(err)
	}
	if !e.busy(cms, 5) {
		t.Error("one that cannot be read is not taken for busy")
	}
	// Killed: the lock is gone, the file is not.
	if err := note.file.Close(); err != nil {
		t.Fatal(err)
	}
	if e.busy(lms, 5) || e.any() {
		t.Error("a dead one counts")
	}
	if left, _ := os.ReadDir(filepath.Join(dir, eldersDir)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
