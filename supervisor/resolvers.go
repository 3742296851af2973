package supervisor

import (
	"net/netip"
	"slices"

	"tarima/runtime/container"
)

// lookUpResolvers asks for the host's name servers. A host that names none just
// now (its address comes by DHCP, its file is being written) keeps those that
// were known: it is asked again.
func (s *Supervisor) lookUpResolvers() []netip.Addr {
	if s.cfg.Resolvers == nil {
		return nil
	}
	found, err := s.cfg.Resolvers()
	s.mu.Lock()
	defer s.mu.Unlock()
	why := ""
	if err != nil {
		why, found = err.Error(), s.resolvers
	}
	if why != s.noResolvers && why != "" {
		s.log.Warn("containers cannot look up names outside", "error", why, "still asked", found)
	}
	s.noResolvers, s.resolvers = why, found
	return found
}

// keepResolvers brings the network in line with name servers that have changed.
// Containers that run keep their resolv.conf; those that start get the new one.
func (s *Supervisor) keepResolvers() {
	if s.site == nil || slices.Equal(s.site.Topology.Resolvers, s.resolvers) {
		return
	}
	p := *s.site // a copy: whoever holds the old one still sees it whole
	p.Topology.Resolvers = s.resolvers
	s.site = &p
	s.network.Ready = false
}

// resolversOf are the name servers of one container: those that the firewall
// lets it ask. A member without a way out has none, and its look-ups fail at
// once. They are no part of the hash: nothing is restarted for them.
func resolversOf(t container.Topology, member string) []netip.Addr {
	if !slices.Contains(t.Egress, member) {
		return nil
	}
	return t.Resolvers
}
