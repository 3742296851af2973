//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarima/supervisor"
)

// reapers are the services whose main process waits for every child, its own or
// not. The others keep what a command inside leaves behind as a line in the
// table of processes until they end (docs/reliability.md).
var reapers = []string{"lms", "cms", "meilisearch", "smtp"}

// What a service does by itself leaves no zombie, and what somebody's command
// leaves behind in it is reaped where the main process does that.
func TestZombies(t *testing.T) {
	now := site.mustBeReady(t)
	for _, one := range now.Services {
		if one.State != supervisor.StateReady {
			continue
		}
		t.Run(one.Name, func(t *testing.T) {
			if n := zombiesOf(t, one.PID); n != 0 {
				t.Errorf("%d zombies before anybody ran a command in it", n)
			}
			code, _, stderr := site.run(t, "exec", one.Name, "--", "sh", "-c", "sleep 0.1 </dev/null >/dev/null 2>&1 &")
			if code != 0 {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			if slices.Contains(reapers, one.Name) {
				eventually(t, 20*time.Second, "the orphan is gone", func() error {
					if n := zombiesOf(t, one.PID) + orphansOf(t, one.PID); n != 0 {
						return fmt.Errorf("%d are left", n)
					}
					return nil
				})
			}
			t.Logf("zombies: %d", zombiesOf(t, one.PID))
		})
	}
	samePids(t, now, site.mustBeReady(t))
}

// zombiesOf counts the children of a process that nobody has waited for.
func zombiesOf(t *testing.T, parent int) int {
	return count(t, parent, func(state, _ string) bool { return state == "Z" })
}

// orphansOf counts the sleeping commands that a process was given.
func orphansOf(t *testing.T, parent int) int {
	return count(t, parent, func(state, name string) bool { return state != "Z" && name == "sleep" })
}

func count(t *testing.T, parent int, fits func(state, name string) bool) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid …, proc_pid_stat(5); the name may hold anything.
		open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
		fields := strings.Fields(string(text[end+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) && fits(fields[0], string(text[open+1:end])) {
			n++
		}
	}
	return n
}
