package proxy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"tarima/proxy/certs"
	"tarima/proxy/routes"
)

// Bounds of a snapshot: far above what a server can serve, low enough that a
// hostile one costs nothing that matters.
const (
	maxSnapshotBytes = 4 << 20
	maxHosts         = 1000
	maxRules         = 500  // of one host
	maxTrusted       = 500  // networks: the greatest CDNs publish some 200
	maxUpstreams     = 64   // of one host
	maxText          = 2048 // bytes of a path, URL or text
	maxPathElements  = 64
)

// decodeSnapshot reads and checks a snapshot. Unknown fields are left alone: a
// supervisor one version newer may send some within the same schema.
func decodeSnapshot(data []byte) (routes.Snapshot, error) {
	var s routes.Snapshot
	if len(data) > maxSnapshotBytes {
		return s, fmt.Errorf("%w: %d bytes, %d are possible", routes.ErrInvalid, len(data), maxSnapshotBytes)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return routes.Snapshot{}, fmt.Errorf("%w: %w", routes.ErrInvalid, err)
	}
	if err := checkSnapshot(&s); err != nil {
		return routes.Snapshot{}, fmt.Errorf("%w: %w", routes.ErrInvalid, err)
	}
	return s, nil
}

// checkSnapshot also fills in the states that rules leave to their service's
// host.
func checkSnapshot(s *routes.Snapshot) error {
	if s.Schema < 1 || s.Schema > routes.Schema {
		return fmt.Errorf("schema %d, this proxy reads 1 to %d", s.Schema, routes.Schema)
	}
	if err := checkTrusted(s.Trusted); err != nil {
		return err
	}
	if err := certs.CheckSource(s.TLS); err != nil {
		return err
	}
	if len(s.Hosts) > maxHosts {
		return fmt.Errorf("%d hosts, %d are possible", len(s.Hosts), maxHosts)
	}
	for _, text := range []string{s.Page.SiteName, s.Page.Contact, s.Page.Language, s.TLS.Email} {
		if err := checkText(text); err != nil {
			return fmt.Errorf("page or tls: %w", err)
		}
	}
	seen := map[string]bool{}
	states := map[serviceKey]routes.State{}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if seen[h.Name] {
			return fmt.Errorf("host %q twice", h.Name)
		}
		seen[h.Name] = true
		if err := checkHost(h, states); err != nil {
			return fmt.Errorf("host %q: %w", h.Name, err)
		}
	}
	// Rules may lean on the state of any host's service.
	for i := range s.Hosts {
		h := &s.Hosts[i]
		for j := range h.Rules {
			if err := checkRule(h, &h.Rules[j], states); err != nil {
				return fmt.Errorf("host %q: rule %d (%q): %w", h.Name, j+1, h.Rules[j].Path, err)
			}
		}
	}
	return nil
}

func checkTrusted(networks []netip.Prefix) error {
	if len(networks) > maxTrusted {
		return fmt.Errorf("%d trusted networks, %d are possible", len(networks), maxTrusted)
	}
	for _, p := range networks {
		// An address of a connection is never IPv4 written as IPv6.
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("trusted network %q", p)
		}
	}
	return nil
}

func checkHost(h *routes.Host, states map[serviceKey]routes.State) error {
	if !isHostName(h.Name) {
		return fmt.Errorf("not a host name in lower case without a port")
	}
	if !isLabel(h.Site) {
		return fmt.Errorf("site %q: letters, digits, - and _, at most 63", h.Site)
	}
	if h.MaxBody < 0 {
		return fmt.Errorf("maxBody %d", h.MaxBody)
	}
	if len(h.Rules) > maxRules {
		return fmt.Errorf("%d rules, %d are possible", len(h.Rules), maxRules)
	}
	if h.Redirect != "" {
		u, err := checkURL(h.Redirect)
		if err != nil || u.Host == "" {
			return fmt.Errorf("redirect %q: not http(s)://host", h.Redirect)
		}
		if strings.EqualFold(u.Hostname(), h.Name) {
			return fmt.Errorf("redirect %q leads to the same host", h.Redirect)
		}
	} else if err := checkService(h.Site, h.Service, h.Upstream, h.State, states); err != nil {
		return err
	}
	if len(h.Upstreams) > maxUpstreams {
		return fmt.Errorf("%d upstreams, %d are possible", len(h.Upstreams), maxUpstreams)
	}
	for _, u := range h.Upstreams {
		if !isUpstream(u) {
			return fmt.Errorf("upstream %q: not address:port", u)
		}
	}
	return checkDoor(h)
}

// checkService also makes sure that a service is in one state only: two
// answers to "may requests pass" would make a drain meaningless.
func checkService(site, service, upstream string, state routes.State, states map[serviceKey]routes.State) error {
	if !isLabel(service) {
		return fmt.Errorf("service %q: letters, digits, - and _, at most 63", service)
	}
	if upstream != "" && !isUpstream(upstream) {
		return fmt.Errorf("upstream %q: not address:port", upstream)
	}
	switch state {
	case routes.Ready, routes.Hold, routes.Draining, routes.Down:
	default:
		return fmt.Errorf("state %q: ready, hold, draining or down", state)
	}
	key := serviceKey{site, service}
	if known, ok := states[key]; ok && known != state {
		return fmt.Errorf("service %q is both %s and %s", service, known, state)
	}
	states[key] = state
	return nil
}

func checkRule(h *routes.Host, r *routes.Rule, states map[serviceKey]routes.State) error {
	if err := checkRulePath(r.Path); err != nil {
		return err
	}
	if err := checkHeaders(r.Headers); err != nil {
		return err
	}
	if r.Status != 0 && (r.Status < 400 || r.Status > 599) {
		return fmt.Errorf("status %d: 400 to 599", r.Status)
	}
	if r.MaxBody < 0 {
		return fmt.Errorf("maxBody %d", r.MaxBody)
	}
	does := 0
	for _, said := range []bool{r.Redirect != "", r.Root != "", r.Upstream+r.Service != "", r.Status != 0} {
		if said {
			does++
		}
	}
	if does > 1 || (r.Rewrite != "" && (r.Redirect != "" || r.Root != "" || r.Status != 0)) {
		return fmt.Errorf("only one of redirect, root, status and upstream; rewrite goes with upstream alone")
	}
	if r.Redirect != "" {
		if u, err := checkURL(r.Redirect); err != nil || (u.Host == "" && !strings.HasPrefix(r.Redirect, "/")) {
			return fmt.Errorf("redirect %q: not a URL or a path", r.Redirect)
		}
	}
	if r.Rewrite != "" && (r.Rewrite[0] != '/' || checkText(r.Rewrite) != nil || hasDots(r.Rewrite)) {
		return fmt.Errorf("rewrite %q: not a clean path", r.Rewrite)
	}
	if r.Root != "" && (checkText(r.Root) != nil || r.Root[0] == '/' || path.Clean(r.Root) != strings.TrimSuffix(r.Root, "/") || hasDots(r.Root)) {
		return fmt.Errorf("root %q: not a clean relative path", r.Root)
	}
	if r.Host != "" && !isHostPort(r.Host) {
		return fmt.Errorf("host header %q", r.Host)
	}
	if r.Service != "" {
		state := r.State
		if state == "" {
			if state = states[serviceKey{h.Site, r.Service}]; state == "" {
				state = routes.Ready
			}
			r.State = state
		}
		return checkService(h.Site, r.Service, r.Upstream, state, states)
	}
	if r.Upstream != "" && !isUpstream(r.Upstream) {
		return fmt.Errorf("upstream %q: not address:port", r.Upstream)
	}
	return nil
}

func checkRulePath(path string) error {
	if path != "" && path[0] != '/' || len(path) > maxText || strings.Count(path, "/") > maxPathElements {
		return fmt.Errorf("path: begins with / and has at most %d elements", maxPathElements)
	}
	return nil
}

func checkText(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("text of %d bytes, %d are possible", len(s), maxText)
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return fmt.Errorf("control character or broken UTF-8 in %q", s)
		}
	}
	return nil
}

func checkURL(s string) (*url.URL, error) {
	if err := checkText(s); err != nil {
		return nil, err
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	// "//host" and "/\host" are other hosts to a browser, whatever they are
	// to a parser of URLs.
	if u.Scheme == "" && (strings.HasPrefix(s, "//") || strings.HasPrefix(s, `/\`)) {
		return nil, fmt.Errorf("without a scheme")
	}
	if u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, fmt.Errorf("not http or https")
	}
	return u, nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isAlphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return s[0] != '.' && s[0] != '-'
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// isHostName: RFC 1123 names in lower case, and addresses.
func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == "" && a.String() == s
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !isAlphanumeric(c) && c != '-' || c >= 'A' && c <= 'Z' {
				return false
			}
		}
	}
	return true
}

func isHostPort(s string) bool {
	name, port, found := strings.Cut(s, ":")
	return isHostName(name) && (!found || isPort(port))
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// isUpstream wants an address, never a name: what a name resolves to is not
// for the proxy to decide.
func isUpstream(s string) bool {
	a, err := netip.ParseAddrPort(s)
	return err == nil && a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast()
}

// hasDots says whether a decoded path has an element that walks upwards or
// stays; the latter is harmless, but no client sends it.
func hasDots(p string) bool {
	for e := range strings.SplitSeq(p, "/") {
		if e == ".." {
			return true
		}
	}
	return false
}
