package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"tarima/runtime/container"
	"tarima/store/record"
)

// Prepared is a desired state made ready for planning: checked, with fixed
// addresses, labels and hashes in every spec, sorted so that everything stands
// behind what it requires. It is never changed after it was made.
type Prepared struct {
	Desired
	Topology container.Topology

	services map[string]*Service
	jobs     map[string]*Job
	order    []string            // services and jobs, requirements first
	needs    map[string][]string // what each requires, by name
	routed   map[string]bool     // services behind a public host
	required map[string]bool     // by another service or a job
}

// addressFunc gives a service or job its fixed place.
type addressFunc func(name string) (record.Address, error)

// prepare checks d and completes it. It does not change d.
func prepare(d Desired, prefix4, prefix6 netip.Prefix, address addressFunc) (*Prepared, error) {
	if err := check(d); err != nil {
		return nil, err
	}
	p := &Prepared{
		Desired:  d,
		services: make(map[string]*Service, len(d.Services)),
		jobs:     make(map[string]*Job, len(d.Jobs)),
		needs:    make(map[string][]string, len(d.Services)+len(d.Jobs)),
		routed:   map[string]bool{},
		required: map[string]bool{},
	}
	p.Services = slices.Clone(d.Services)
	p.Jobs = slices.Clone(d.Jobs)
	places := make(map[string]record.Address, len(p.Services)+len(p.Jobs))
	for i := range p.Services {
		s := &p.Services[i]
		p.services[s.Spec.Name], p.needs[s.Spec.Name] = s, s.Requires
	}
	for i := range p.Jobs {
		j := &p.Jobs[i]
		p.jobs[j.Spec.Name], p.needs[j.Spec.Name] = j, j.Requires
	}
	for _, needs := range p.needs {
		for _, n := range needs {
			p.required[n] = true
		}
	}
	order, err := sortByNeeds(p.needs)
	if err != nil {
		return nil, err
	}
	p.order = order
	for _, name := range p.order {
		a, err := address(name)
		if err != nil {
			return nil, fmt.Errorf("give %s its fixed address: %w", name, err)
		}
		places[name] = a
	}
	for i := range p.Services {
		s := &p.Services[i]
		complete(&s.Spec, d, container.Service, places, s.Requires, s.Reaches)
	}
	for i := range p.Jobs {
		j := &p.Jobs[i]
		complete(&j.Spec, d, container.Job, places, j.Requires, nil)
		j.Spec.Labels[container.LabelReason] = j.Reason
		label(&j.Spec, hashOf(j.Reason))
	}
	// In order of RestartWith, since the hash of each goes into the next.
	chain, err := sortByNeeds(restartNeeds(p.Services))
	if err != nil {
		return nil, err
	}
	for _, name := range chain {
		s := p.services[name]
		s.Hash = effectiveHash(s, p.services)
		label(&s.Spec, s.Hash)
	}
	for _, r := range d.Routes {
		if r.Service != "" {
			p.routed[r.Service] = true
		}
		for _, rule := range r.Rules {
			if rule.Service != "" {
				p.routed[rule.Service] = true
			}
		}
	}
	p.Topology = topology(p, prefix4, prefix6)
	return p, nil
}

// complete fills what the site file cannot know: site, kind, fixed address,
// user ids and names of the neighbours.
func complete(s *container.Spec, d Desired, kind container.Kind, places map[string]record.Address, requires, reaches []string) {
	s.Site, s.Kind = d.Site, kind
	own := places[s.Name]
	s.Addresses = container.Addresses{V4: own.V4, V6: own.V6}
	s.IDBase = own.IDBase
	names := []string{s.Name}
	for _, n := range slices.Concat(requires, reaches) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	hosts := slices.Clone(s.Hosts)
	for _, n := range names {
		place, ok := places[n]
		if !ok || (n != s.Name && isJob(d, n)) {
			continue
		}
		for _, a := range []netip.Addr{place.V4, place.V6} {
			if a.IsValid() {
				hosts = append(hosts, container.HostsEntry{Addr: a, Names: []string{n}})
			}
		}
	}
	s.Hosts = hosts
	labels := make(map[string]string, len(s.Labels)+8)
	for k, v := range s.Labels {
		labels[k] = v
	}
	labels[container.LabelSite] = d.Site
	labels[container.LabelName] = s.Name
	labels[container.LabelKind] = string(kind)
	labels[container.LabelGeneration] = strconv.FormatUint(d.Generation, 10)
	labels[container.LabelRequires] = strings.Join(requires, ",")
	s.Labels = labels
}

func isJob(d Desired, name string) bool {
	return slices.ContainsFunc(d.Jobs, func(j Job) bool { return j.Spec.Name == name })
}

// label adds the labels that are made of the finished spec.
func label(s *container.Spec, hash string) {
	s.Labels[container.LabelHash] = hash
	s.Labels[container.LabelLimitsHash] = s.Limits.Hash()
	shown := *s
	shown.Env = redactEnv(s.Env)
	shown.Labels = nil
	if b, err := json.Marshal(shown); err == nil { // plain data always encodes
		s.Labels[container.LabelSpec] = string(b)
	}
}

// redactEnv drops the values of variables that look like secrets: a label can
// be read by whoever may ask the engine.
func redactEnv(env []string) []string {
	out := make([]string, len(env))
	for i, kv := range env {
		key, _, _ := strings.Cut(kv, "=")
		up := strings.ToUpper(key)
		secret := strings.Contains(up, "PASS") || strings.Contains(up, "SECRET") || strings.Contains(up, "TOKEN") || strings.Contains(up, "KEY")
		if secret && !strings.HasSuffix(up, "_FILE") {
			kv = key + "="
		}
		out[i] = kv
	}
	return out
}

// effectiveHash covers what the site file asks for and what the supervisor
// adds to it that a running container cannot learn: its addresses, its ids,
// the names in its hosts file, and the hashes of those that it restarts with.
func effectiveHash(s *Service, all map[string]*Service) string {
	asked := s.Hash
	if asked == "" {
		spec := s.Spec
		spec.Limits, spec.Labels, spec.Hosts = container.Limits{}, nil, nil
		asked = hashOf(spec)
	}
	with := make([]string, 0, len(s.RestartWith))
	for _, n := range s.RestartWith {
		with = append(with, all[n].Hash)
	}
	return hashOf([]any{asked, s.Spec.Addresses, s.Spec.IDBase, s.Spec.Hosts, with})
}

// hashOf is a short name of any plain data.
func hashOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		// Plain data always encodes; a value that does not is still told apart.
		b = fmt.Appendf(nil, "%#v", v)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func restartNeeds(services []Service) map[string][]string {
	needs := make(map[string][]string, len(services))
	for i := range services {
		needs[services[i].Spec.Name] = services[i].RestartWith
	}
	return needs
}

// check finds every contradiction in d at once.
func check(d Desired) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if d.Site == "" {
		wrong("the site has no name")
	}
	services, names := map[string]*Service{}, map[string]bool{}
	for i := range d.Services {
		s := &d.Services[i]
		if s.Spec.Name == "" || strings.ContainsAny(s.Spec.Name, ",/ .\x00") {
			wrong("service %d: %q is no usable name", i+1, s.Spec.Name)
			continue
		}
		if names[s.Spec.Name] {
			wrong("the name %s is used twice", s.Spec.Name)
		}
		names[s.Spec.Name], services[s.Spec.Name] = true, s
	}
	for i := range d.Jobs {
		j := &d.Jobs[i]
		if j.Spec.Name == "" || strings.ContainsAny(j.Spec.Name, ",/ .\x00") {
			wrong("job %d: %q is no usable name", i+1, j.Spec.Name)
			continue
		}
		if names[j.Spec.Name] {
			wrong("the name %s is used twice", j.Spec.Name)
		}
		if j.Reason == "" {
			wrong("job %s has no reason to run for", j.Spec.Name)
		}
		names[j.Spec.Name] = true
	}
	for i := range d.Services {
		s := &d.Services[i]
		if s.Spec.Image == "" {
			wrong("service %s has no image", s.Spec.Name)
		}
		for _, n := range s.Requires {
			if !names[n] || n == s.Spec.Name {
				wrong("service %s requires %q, which does not exist", s.Spec.Name, n)
			}
		}
		for _, n := range slices.Concat(s.Reaches, s.RestartWith) {
			if services[n] == nil || n == s.Spec.Name {
				wrong("service %s names %q, which is no other service", s.Spec.Name, n)
			}
		}
		for _, pr := range []*Probe{s.Probes.Startup, s.Probes.Readiness, s.Probes.Liveness} {
			if err := checkProbe(pr); err != nil {
				wrong("service %s: %w", s.Spec.Name, err)
			}
		}
		if l := s.Probes.Liveness; l != nil && l.Kind == ProbeTCP {
			wrong("service %s: a bare connect is no sign of life, since a stopped process still accepts; choose another liveness probe", s.Spec.Name)
		}
	}
	for i := range d.Jobs {
		j := &d.Jobs[i]
		if j.Spec.Image == "" {
			wrong("job %s has no image", j.Spec.Name)
		}
		for _, n := range j.Requires {
			if !names[n] || n == j.Spec.Name {
				wrong("job %s requires %q, which does not exist", j.Spec.Name, n)
			}
		}
	}
	for _, n := range d.Egress {
		if !names[n] {
			wrong("%q may reach the outside but does not exist", n)
		}
	}
	for _, r := range d.Routes {
		if r.Host == "" {
			wrong("a route has no host name")
		}
		if r.Service == "" && r.Redirect == "" && len(r.Addresses) == 0 {
			wrong("host %s leads nowhere: neither a service, nor an address, nor another host", r.Host)
		}
		if r.Service != "" && services[r.Service] == nil {
			wrong("host %s is routed to %q, which is no service", r.Host, r.Service)
		}
		for _, rule := range r.Rules {
			if rule.Service != "" && services[rule.Service] == nil {
				wrong("host %s, path %s: %q is no service", r.Host, rule.Path, rule.Service)
			}
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(errs...))
	}
	return nil
}

// sortByNeeds returns all names, each behind what it needs, in an order that
// is always the same. A circle is an error that names it.
func sortByNeeds(needs map[string][]string) ([]string, error) {
	names := make([]string, 0, len(needs))
	for n := range needs {
		names = append(names, n)
	}
	sort.Strings(names)
	out := make([]string, 0, len(names))
	const open, done = 1, 2
	mark := make(map[string]int, len(names))
	var path []string
	var visit func(n string) error
	visit = func(n string) error {
		switch mark[n] {
		case done:
			return nil
		case open:
			from := slices.Index(path, n)
			return fmt.Errorf("%w: %s require each other in a circle", ErrInvalid, strings.Join(append(slices.Clone(path[from:]), n), " -> "))
		}
		mark[n] = open
		path = append(path, n)
		for _, m := range needs[n] {
			if err := visit(m); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		mark[n] = done
		out = append(out, n)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}
