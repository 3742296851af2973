package engine

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarima/runtime/container"
)

func TestLackingControllers(t *testing.T) {
	for list, want := range map[string][]string{
		"cpuset cpu io memory hugetlb pids rdma misc\n": {},
		"hugetlb\n":           {"cpu", "memory", "pids"},
		"\n":                  {"cpu", "memory", "pids"},
		"cpuset memory pids":  {"cpu"},
		"cpu io memory misc ": {"pids"},
	} {
		file := filepath.Join(t.TempDir(), "cgroup.controllers")
		if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(lackingControllers(file))); !slices.Equal(got, want) {
			t.Errorf("of %q are missing %v, want %v", list, got, want)
		}
	}
	if got := lackingControllers(filepath.Join(t.TempDir(), "none")); len(got) != 0 {
		t.Errorf("without a list are missing %v", got)
	}
}

// A limit whose controller is missing is left out, or the runtime would refuse
// to start the container, and told.
func TestLimitsWithoutControllers(t *testing.T) {
	limits := container.Limits{MemoryMax: 64 << 20, MemoryHigh: 48 << 20, Swap: -1, CPUWeight: 200, Pids: 33}
	for _, lacks := range [][]string{{}, {"memory"}, {"pids"}, {"cpu"}, {"cpu", "memory", "pids"}} {
		h := &host{unified: true, swap: true, lacks: map[string]bool{}}
		for _, controller := range lacks {
			h.lacks[controller] = true
		}
		r, reduced := h.resources(limits)
		told := strings.Join(reduced, "\n")
		if len(reduced) != len(lacks) {
			t.Errorf("without %v: told %q", lacks, reduced)
		}
		for _, controller := range lacks {
			if !strings.Contains(told, "no controller for "+controller) {
				t.Errorf("without %v: told %q", lacks, told)
			}
		}
		_, high := r.Unified["memory.high"]
		_, swap := r.Unified["memory.swap.max"]
		_, weight := r.Unified["cpu.weight"]
		for _, c := range []struct {
			controller string
			set        bool
		}{
			{"memory", r.Memory != nil}, {"memory", high}, {"memory", swap}, {"cpu", weight}, {"pids", r.Pids != nil},
		} {
			if c.set == h.lacks[c.controller] {
				t.Errorf("without %v: a limit of %s is set: %v", lacks, c.controller, c.set)
			}
		}
		if !h.lacks["memory"] && (*r.Memory.Limit != 64<<20 || r.Unified["memory.high"] != "50331648" || r.Unified["memory.swap.max"] != "0") {
			t.Errorf("without %v: memory %d, %v", lacks, *r.Memory.Limit, r.Unified)
		}
		if _, reduced := h.resources(container.Limits{}); len(reduced) != 0 {
			t.Errorf("without %v: without limits is told %q", lacks, reduced)
		}
	}
}
