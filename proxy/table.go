package proxy

import (
	"net"
	"net/netip"
	"strings"

	"tarima/proxy/ratelimit"
	"tarima/proxy/routes"
)

// table is a snapshot made ready for lookups. It never changes; a new snapshot
// makes a new one.
type table struct {
	snapshot routes.Snapshot
	hosts    map[string]*host
}

type host struct {
	routes.Host
	gate      *gate // nil for a redirect
	rules     []rule
	ruleIndex pathIndex

	secure, plain edits // of answers over HTTPS and over HTTP
	limits        []limit
	limitIndex    pathIndex
	authBucket    ratelimit.Bucket
	anyHash       routes.Secret // for users that do not exist
	cookieDomain  string

	// several are the addresses of the service when there are more than one.
	several []string
}

type rule struct {
	routes.Rule
	elements []string // of Path, nil for ""
	prefix   bool
	gate     *gate // of the rule's own service
	edits    edits
}

// destination is where one request goes.
type destination struct {
	host     *host
	rule     *rule // nil: none matched
	rest     string
	gate     *gate    // nil: no service stands behind it
	upstream string   // "": none yet
	several  []string // to choose from; nil: there is upstream alone
	maxBody  int64    // 0: no bound
}

func newTable(s routes.Snapshot, gateOf func(serviceKey) *gate) *table {
	t := &table{snapshot: s, hosts: make(map[string]*host, len(s.Hosts))}
	names := map[string][]string{} // of each site
	for _, h := range s.Hosts {
		names[h.Site] = append(names[h.Site], h.Name)
	}
	for _, h := range s.Hosts {
		e := &host{Host: h, cookieDomain: cookieDomain(h.Name, names[h.Site])}
		e.secure, e.plain = hostEdits(&h)
		e.limits, e.limitIndex = newLimits(&h)
		if h.Auth != nil {
			e.authBucket, e.anyHash = ratelimit.BucketOf(h.Site, h.Name, "", "auth"), costliest(h.Auth.Users)
		}
		if all := addressesOf(h); len(all) > 0 {
			e.Upstream = all[0]
			if len(all) > 1 {
				e.several = all
			}
		}
		if h.Redirect == "" {
			e.gate = gateOf(serviceKey{h.Site, h.Service})
		}
		for _, r := range h.Rules {
			c := newRule(r)
			if r.Service != "" {
				c.gate = gateOf(serviceKey{h.Site, r.Service})
			}
			e.rules = append(e.rules, c)
		}
		elements := make([][]string, len(e.rules))
		for i := range e.rules {
			elements[i] = e.rules[i].elements
		}
		e.ruleIndex = newPathIndex(elements)
		t.hosts[h.Name] = e
	}
	return t
}

func newRule(r routes.Rule) rule {
	return rule{
		Rule: r, elements: pathElements(r.Path), edits: newEdits(r.Headers),
		prefix: len(r.Path) > 1 && strings.HasSuffix(r.Path, "/"),
	}
}

// find returns the destination of a request, or false for a host that is not
// ours.
func (t *table) find(hostHeader, path string) (destination, bool) {
	h, ok := t.hosts[hostName(hostHeader)]
	if !ok {
		return destination{}, false
	}
	d := destination{host: h, gate: h.gate, upstream: h.Upstream, several: h.several, maxBody: h.MaxBody}
	for _, i := range h.ruleIndex.candidates(path) {
		r := &h.rules[i]
		rest, ok := r.match(path)
		if !ok {
			continue
		}
		d.rule, d.rest = r, rest
		if r.MaxBody > 0 {
			d.maxBody = r.MaxBody
		}
		if r.Upstream != "" || r.Service != "" {
			if r.gate != h.gate || r.Upstream != h.Upstream {
				d.several = nil
			}
			d.gate, d.upstream = r.gate, r.Upstream
		}
		break
	}
	return d, true
}

// match compares a decoded path and returns what follows a prefix.
func (r *rule) match(path string) (rest string, ok bool) {
	if r.elements == nil {
		return strings.TrimPrefix(path, "/"), true
	}
	rest = strings.TrimPrefix(path, "/")
	if r.Path == "/" {
		return "", rest == "" && path != ""
	}
	for i, want := range r.elements {
		last := i == len(r.elements)-1
		element, after, more := strings.Cut(rest, "/")
		if want == "*" && element == "" || want != "*" && element != want {
			return "", false
		}
		if last && r.prefix != more {
			return "", false
		}
		if !last && !more {
			return "", false
		}
		rest = after
	}
	return rest, true
}

// target gives the path or URL that a rule leads to.
func (r *rule) target(to, rest string) string {
	if strings.HasSuffix(to, "/") && (r.prefix || r.elements == nil) {
		return to + rest
	}
	return to
}

// hostName of a Host header: lower case, without port and final dot.
func hostName(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		s = s[:i]
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	s = strings.TrimSuffix(s, ".")
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// peerAddr of a net/http RemoteAddr; the zero Addr for a unix socket.
func peerAddr(remote string) netip.Addr {
	if a, err := netip.ParseAddrPort(remote); err == nil {
		return a.Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

func portOf(a net.Addr) int {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.Port
	case *net.UDPAddr:
		return a.Port
	}
	return 0
}
