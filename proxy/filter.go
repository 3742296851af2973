package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"tarima/proxy/coding"
)

// refusal is a request that is answered before any routing.
type refusal struct {
	status int
	page   string // message of the page
}

// screen checks what net/http lets through and an application behind might
// read differently. It returns nil for a request that may go on.
func screen(r *http.Request, headLimit int) *refusal {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		return &refusal{http.StatusMethodNotAllowed, "method"}
	}
	if r.ProtoMajor == 1 && r.ProtoMinor > 1 || r.Host == "" || r.URL.Path == "" || r.URL.Path[0] != '/' {
		return &refusal{http.StatusBadRequest, "malformed"}
	}
	// Django sees the decoded path, so the decoded path decides.
	if strings.IndexByte(r.URL.Path, 0) >= 0 || hasDots(r.URL.Path) {
		return &refusal{http.StatusBadRequest, "malformed"}
	}
	size := len(r.Method) + len(r.RequestURI) + len(r.Host) + 24
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v) + 4
		}
	}
	if size > headLimit {
		return &refusal{http.StatusRequestHeaderFieldsTooLarge, "head"}
	}
	return nil
}

// clean removes headers that only a proxy may set, or that a CGI-like
// application (WSGI folds "-" and "_" into one) would take for another.
func clean(h http.Header) {
	for name := range h {
		if !isPlainName(name) || isForwarding(name) {
			delete(h, name)
		}
	}
}

func isPlainName(name string) bool {
	for i := range len(name) {
		if !isAlphanumeric(name[i]) && name[i] != '-' {
			return false
		}
	}
	return true
}

// isForwarding wants canonical names, as net/http makes them.
func isForwarding(name string) bool {
	switch name {
	case "Forwarded", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Proxy", "Http2-Settings":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Original-") ||
		strings.HasPrefix(name, "X-Rewrite-") || name == "X-Forwarded"
}

// upgrade decides on the one protocol that a connection may change to. For
// any other wish the request goes on as an ordinary one: "h2c" would tunnel
// past every rule.
func upgrade(r *http.Request) (websocket bool) {
	h := r.Header
	if values := h["Upgrade"]; len(values) > 0 {
		if r.Method == http.MethodGet && r.ProtoMajor == 1 && len(values) == 1 &&
			strings.EqualFold(values[0], "websocket") && coding.Lists(h["Connection"], "upgrade") {
			h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
			return true
		}
		delete(h, "Upgrade")
		delete(h, "Connection")
	}
	return false
}

// client is who sent a request and how.
type client struct {
	addr  netip.Addr // invalid: somebody behind a unix socket
	proto string     // http or https
	port  int        // that the client connected to; 0: unknown
	// local: on this machine, by itself and not through a web server in front.
	local bool
	// believed: what the request's headers say of it is a trusted proxy's.
	believed bool
}

// clientOf believes the forwarding headers of trusted peers alone. It must
// see the request before clean.
func (s *server) clientOf(r *http.Request, l listener) client {
	c := client{addr: peerAddr(r.RemoteAddr), proto: "http", port: l.port}
	if l.tls {
		c.proto = "https"
	}
	trusted := s.trust.current.Load()
	peer := c.addr
	if g := guestOf(r); g != nil {
		peer, c.port = g.peer, g.port()
	}
	inFront := trusted.peer(l.door, peer)
	believed := inFront
	if c.addr != peer {
		// The PROXY protocol told of somebody else, whose headers these are.
		believed = trusted.contains(c.addr)
	}
	c.local = c.addr == peer && (l.unix || peer.IsLoopback())
	asked := c.proto
	if inFront && trusted.behind {
		// Visitors come over TLS to who is in front, whether it says so or not.
		asked, c.port = "https", 0
	}
	if p := r.Header["X-Forwarded-Proto"]; believed && len(p) > 0 {
		// As with addresses, the last one is the nearest proxy's.
		p := strings.ToLower(strings.TrimSpace(p[len(p)-1][strings.LastIndexByte(p[len(p)-1], ',')+1:]))
		if p == "http" || p == "https" {
			asked = p
		}
	}
	if asked != c.proto || c.port == 0 {
		c.proto, c.port = asked, s.portOf(asked, r.Host, trusted.behind)
	}
	if !believed {
		return c
	}
	c.believed = true
	if p := r.Header["X-Forwarded-Port"]; len(p) > 0 && isPort(p[len(p)-1]) {
		c.port, _ = strconv.Atoi(p[len(p)-1]) // isPort has read it
	}
	// From the right: each trusted proxy vouches for the entry before its own.
	var hops []string
	for _, v := range r.Header["X-Forwarded-For"] {
		hops = append(hops, strings.Split(v, ",")...)
	}
	for i := len(hops) - 1; i >= 0 && believed; i-- {
		hop := strings.TrimSpace(hops[i])
		a, err := netip.ParseAddr(hop)
		if err != nil {
			if a = peerAddr(hop); !a.IsValid() {
				break
			}
		}
		c.addr, c.local = a.Unmap().WithZone(""), false
		believed = trusted.contains(c.addr)
	}
	return c
}

// portOf a scheme as clients see it, when nobody tells: that of the Host
// header behind a web server that passes it on, or the usual one.
func (s *server) portOf(proto, host string, behind bool) int {
	if _, port, err := net.SplitHostPort(host); behind && err == nil && isPort(port) {
		n, _ := strconv.Atoi(port) // isPort has read it
		return n
	}
	if proto == "https" {
		if s.cfg.PublicPort != 0 {
			return s.cfg.PublicPort
		}
		return 443
	}
	return 80
}

// name of the client in a log.
func (c client) name() string {
	if !c.addr.IsValid() {
		return "local"
	}
	return c.addr.String()
}

func (c client) forward(h http.Header, host string) {
	h["X-Forwarded-Proto"] = []string{c.proto}
	h["X-Forwarded-Host"] = []string{host}
	if c.addr.IsValid() {
		h["X-Forwarded-For"] = []string{c.addr.String()}
	}
	if c.port != 0 {
		h["X-Forwarded-Port"] = []string{strconv.Itoa(c.port)}
	}
}

// withPort is the host of a redirect to HTTPS.
func withPort(name string, port int) string {
	if port == 443 || port == 0 {
		if strings.Contains(name, ":") {
			return "[" + name + "]"
		}
		return name
	}
	return net.JoinHostPort(name, strconv.Itoa(port))
}
