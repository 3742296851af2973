package site

import (
	"net/netip"
	"slices"
	"time"
)

// Host is what the defaults depend on: the machine, as far as the site may
// use it.
type Host struct {
	Memory Bytes // that containers may use: the machine's, or less where a parent cgroup says so
	Cores  int   // whole cores, at least 1
	Swap   Bytes // of the machine, used or not
	IPv6   bool  // the kernel has IPv6
	// Range6 is a unique local /64 that belongs to this machine.
	Range6 netip.Prefix
	// Why the memory is what it is, for people: "the machine's" or the path
	// of the limiting cgroup file.
	MemoryFrom string
}

// DefaultRange4 is the site's range where the file names none.
var DefaultRange4 = netip.MustParsePrefix("10.213.0.0/24")

// DefaultHold is how long a request waits for a service that comes up.
const DefaultHold = 30 * time.Second

// Defaults completes a Config with what follows from its own values and from
// the host. It changes nothing that the file says, and a second application
// changes nothing at all.
func Defaults(c Config, h Host) Config {
	s := &c.Site
	hostDefaults(s)
	fill(&s.Name, "Open edX")
	fill(&s.Contact, "contact@"+s.Host)
	fill(&s.Language, "en")
	s.Languages = slices.Clone(s.Languages)
	if !slices.Contains(s.Languages, s.Language) {
		s.Languages = slices.Insert(s.Languages, 0, s.Language)
	}
	fill(&s.Timezone, "UTC")
	fill(&s.Release, DefaultRelease)

	if c.Proxy.TLS == "" {
		c.Proxy.TLS = TLSACME
		if isLocalName(s.Host) {
			c.Proxy.TLS = TLSLocal
		}
	}
	doorDefaults(&c.Proxy)
	fill(&c.Proxy.Email, s.Contact)
	if c.Proxy.Hold == nil {
		c.Proxy.Hold = new(DefaultHold)
	}

	n := &c.Network
	if !n.Range4.IsValid() {
		n.Range4 = DefaultRange4
	}
	if n.IPv6 == nil {
		// A range asked for by name means that IPv6 is wanted.
		n.IPv6 = new(h.IPv6 || n.Range6.IsValid())
	}
	switch {
	case !*n.IPv6:
		n.Range6 = netip.Prefix{}
	case !n.Range6.IsValid():
		n.Range6 = h.Range6
	}

	if c.Size.Memory == 0 {
		c.Size.Memory = h.Memory
	}
	if c.Size.Cores == 0 {
		c.Size.Cores = h.Cores
	}
	if c.Mail.Smarthost != "" && c.Mail.Port == 0 {
		c.Mail.Port = 587
	}
	fill(&c.Mail.From, s.Contact)
	return c
}

func hostDefaults(s *Site) {
	fill(&s.Studio, "studio."+s.Host)
	fill(&s.Apps, "apps."+s.Host)
	fill(&s.Search, "meilisearch."+s.Host)
}

func fill(s *string, value string) {
	if *s == "" {
		*s = value
	}
}
