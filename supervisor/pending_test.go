package supervisor

import (
	"testing"

	"tarima/runtime/container"
)

// TestRestartPending: a running container is told apart from the wanted one
// by its spec and by the files that it mounts, as long as the wishes are the
// same.
func TestRestartPending(t *testing.T) {
	const spec, other = `{"name":"lms"}`, `{"name":"lms","readOnlyRoot":true}`
	labels := func(hash, spec, files string) map[string]string {
		return map[string]string{container.LabelHash: hash, container.LabelSpec: spec, container.LabelFiles: files}
	}
	for _, c := range []struct {
		name      string
		was, want map[string]string
		pending   bool
	}{
		{"the same", labels("h", spec, "f"), labels("h", spec, "f"), false},
		{"another spec", labels("h", spec, "f"), labels("h", other, "f"), true},
		{"other files", labels("h", spec, "f"), labels("h", spec, "g"), true},
		{"limits alone", labels("h", `{"name":"lms","limits":{"pids":1}}`, "f"), labels("h", spec, "f"), false},
		{"another wish replaces it anyway", labels("i", spec, "f"), labels("h", spec, "g"), false},
		{"a label that cannot be read", labels("h", "{", "f"), labels("h", spec, "g"), false},
	} {
		svc := Service{Hash: "h", Spec: container.Spec{Labels: c.want}}
		if got := pending(&svc, container.Status{Labels: c.was}); (!got.none()) != c.pending {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}
