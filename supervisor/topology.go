package supervisor

import (
	"cmp"
	"net/netip"
	"slices"

	"tarima/runtime/container"
)

// topology derives who may speak to whom from what the services declare: an
// edge to every port of what is required or reached, a door from the host to
// every port (the proxy and the probes come through it).
func topology(p *Prepared, prefix4, prefix6 netip.Prefix) container.Topology {
	t := container.Topology{Site: p.Site, Prefix4: prefix4, Prefix6: prefix6, Egress: slices.Clone(p.Egress)}
	connect := func(from string, to []string) {
		for _, n := range to {
			target, ok := p.services[n]
			if !ok {
				continue // a job listens nowhere
			}
			for _, port := range target.Ports {
				t.Edges = append(t.Edges, container.Edge{From: from, To: n, Port: port})
			}
		}
	}
	for _, name := range p.order {
		if s, ok := p.services[name]; ok {
			t.Members = append(t.Members, container.Member{Name: name, Addresses: s.Spec.Addresses})
			connect(name, s.Requires)
			connect(name, s.Reaches)
			for _, port := range doorPorts(s) {
				t.Doors = append(t.Doors, container.Door{To: name, Port: port})
			}
			continue
		}
		j := p.jobs[name]
		t.Members = append(t.Members, container.Member{Name: name, Addresses: j.Spec.Addresses})
		connect(name, j.Requires)
	}
	slices.SortFunc(t.Edges, func(a, b container.Edge) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Port, b.Port))
	})
	t.Edges = slices.Compact(t.Edges)
	slices.Sort(t.Egress)
	t.Egress = slices.Compact(t.Egress)
	return t
}

// doorPorts are the service's ports and those that its probes ask at.
func doorPorts(s *Service) []uint16 {
	ports := slices.Clone(s.Ports)
	for _, pr := range []*Probe{s.Probes.Startup, s.Probes.Readiness, s.Probes.Liveness} {
		if pr != nil && pr.Port != 0 {
			ports = append(ports, pr.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
