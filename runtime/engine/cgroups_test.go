package engine

import "testing"

func TestCgroupPlaces(t *testing.T) {
	for _, c := range []struct {
		systemd              bool
		root, site, id       string
		cgroupsPath, folders string
	}{
		{false, "tarima", "default", "default.lms", "/tarima/default/default.lms", "tarima/default/default.lms"},
		{true, "tarima", "default", "default.lms", "tarima-default.slice:tarima:default.lms", "tarima.slice/tarima-default.slice/tarima-default.lms.scope"},
		{true, "tarima-1f", "my-site", "my-site.lms-worker", "tarima-1f-my-site.slice:tarima-1f:my-site.lms-worker", "tarima.slice/tarima-1f.slice/tarima-1f-my.slice/tarima-1f-my-site.slice/tarima-1f-my-site.lms-worker.scope"},
	} {
		h := &host{systemd: c.systemd}
		if got := h.cgroupsPath(c.root, c.site, c.id); got != c.cgroupsPath {
			t.Errorf("the runtime is given %q, want %q", got, c.cgroupsPath)
		}
		if got := h.cgroupFolder(c.root, c.site, c.id); got != c.folders {
			t.Errorf("the folder is %q, want %q", got, c.folders)
		}
	}
}
