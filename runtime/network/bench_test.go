package network

import (
	"fmt"
	"testing"

	"tarima/runtime/container"
)

func BenchmarkAttach(b *testing.B) {
	l := newLab(b)
	top := topology("default", "10.90.1.0/24", "fd7a:1::/64", "lms")
	if err := l.net.Apply(b.Context(), top); err != nil {
		b.Fatal(err)
	}
	pid, _ := l.hold(true)
	for b.Loop() {
		if err := l.net.Attach(b.Context(), top.Site, "lms", pid); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := l.net.Detach(b.Context(), top.Site, "lms"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkApplyUnchanged(b *testing.B) {
	l := newLab(b)
	top := fullTopology()
	if err := l.net.Apply(b.Context(), top); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := l.net.Apply(b.Context(), top); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApplyChanged(b *testing.B) {
	l := newLab(b)
	tops := []container.Topology{fullTopology(), fullTopology()}
	tops[1].Edges = tops[1].Edges[1:]
	i := 0
	for b.Loop() {
		if err := l.net.Apply(b.Context(), tops[i%2]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// fullTopology has 20 members of which each reaches ten others.
func fullTopology() container.Topology {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("service-%d", i))
	}
	t := topology("default", "10.90.1.0/24", "fd7a:1::/64", names...)
	for i := range names {
		for j := range 10 {
			t.Edges = append(t.Edges, container.Edge{From: names[i], To: names[(i+j+1)%20], Port: 8000})
		}
		t.Doors = append(t.Doors, container.Door{To: names[i], Port: 8000})
	}
	t.Egress = names[:10]
	return t
}
