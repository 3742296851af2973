// Package routes is plain data: the snapshot of routes that the supervisor
// puts to the proxy, and the events that come back. The one package of proxy
// that supervisor may import.
package routes

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// What a put snapshot is refused for; Ack.Error carries the text.
var (
	// ErrStale is a snapshot older than the one that is served, or another
	// one of the same generation: put it again with a greater generation.
	ErrStale = errors.New("older than the routes that are served")
	// ErrInvalid is a snapshot that breaks a rule of its shape; nothing of it
	// was applied.
	ErrInvalid = errors.New("invalid routes")
)

// Schema is the version of the snapshot's shape. A proxy refuses a schema
// newer than its own and reads one older.
const Schema = 1

// Snapshot is everything that the proxy needs to serve all sites. It is
// applied as a whole or not at all; Generation grows with every change.
type Snapshot struct {
	Schema     int    `json:"schema"`
	Generation uint64 `json:"generation"`
	Hosts      []Host `json:"hosts"`
	TLS        TLS    `json:"tls"`
	Page       Page   `json:"page"`
	// Trusted are the networks of load balancers and CDNs in front, whose
	// X-Forwarded-* headers and PROXY protocol are believed.
	Trusted []netip.Prefix `json:"trusted,omitempty"`
}

// TLS says where certificates come from.
type TLS struct {
	// Mode is "local" (an authority of this server's own), "acme", or "none":
	// a web server in front ends TLS, and this one listens for it alone.
	Mode  string `json:"mode"`
	Email string `json:"email,omitempty"`
	// Directory is the URL of the ACME authority; "": Let's Encrypt.
	Directory string `json:"directory,omitempty"`
	// Account binds the ACME account to one that the authority knows already
	// (RFC 8555 section 7.3.4); nil: none.
	Account *ExternalAccount `json:"account,omitempty"`
	// Fallback are the authorities to ask, in this order, while the first one
	// refuses or is away.
	Fallback []Authority `json:"fallback,omitempty"`
	// DNS, when given, proves names by a record in their zone (DNS-01), and
	// by nothing else.
	DNS *DNSProvider `json:"dns,omitempty"`
	// Wildcards are names such as "*.learn.example.org" whose certificate
	// serves every host below them; they need DNS.
	Wildcards []string `json:"wildcards,omitempty"`
}

// Authority is one ACME certificate authority.
type Authority struct {
	Directory string           `json:"directory"`
	Account   *ExternalAccount `json:"account,omitempty"`
}

// ExternalAccount is a key that an authority gave to its customer.
type ExternalAccount struct {
	KeyID string `json:"keyID"`
	Key   Secret `json:"key"` // base64url
}

// DNSProvider is where the names' zone is kept.
type DNSProvider struct {
	Name string `json:"name"` // such as "cloudflare" or "rfc2136"
	// Settings by the provider's own names, such as "api_token".
	Settings map[string]Secret `json:"settings,omitempty"`
}

// Secret is a text that no log and no error may show. It travels in JSON as
// it is.
type Secret string

// String hides the text.
func (Secret) String() string { return "[secret]" }

// GoString hides the text.
func (Secret) GoString() string { return "[secret]" }

// LogValue hides the text.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// Page is what the waiting page says of the site.
type Page struct {
	SiteName string `json:"siteName"`
	Contact  string `json:"contact,omitempty"`
	Language string `json:"language,omitempty"` // the site's own: decides which text comes first
	TimeZone string `json:"timeZone,omitempty"` // IANA name in which pages tell times; "": UTC
}

// Host is one public name and where its requests go.
type Host struct {
	Name     string `json:"name"` // lower case, no port
	Site     string `json:"site"`
	Service  string `json:"service"`
	Upstream string `json:"upstream,omitempty"` // address:port; "" while the service has none
	State    State  `json:"state"`
	// MaxBody bounds a request body in bytes; 0 means no bound.
	MaxBody int64  `json:"maxBody,omitempty"`
	Rules   []Rule `json:"rules,omitempty"` // first match wins
	// Redirect sends every request to this URL's host, path kept.
	Redirect string `json:"redirect,omitempty"`

	// Upstreams are further addresses of Service beside Upstream, when it
	// runs on several machines.
	Upstreams []string `json:"upstreams,omitempty"`
	// HSTS is the max-age in seconds of Strict-Transport-Security (RFC 6797);
	// 0: no such header.
	HSTS int64 `json:"hsts,omitempty"`
	// Headers are set on every response, "" removes one.
	Headers map[string]string `json:"headers,omitempty"`
	// Auth lets nobody in without a password; nil: everybody.
	Auth *Auth `json:"auth,omitempty"`
	// Maintenance answers every request with a page; nil: the site is open.
	Maintenance *Maintenance `json:"maintenance,omitempty"`
	// Closed keeps search engines out: robots.txt and X-Robots-Tag say so.
	Closed bool `json:"closed,omitempty"`
	// Limits bound how often one address may ask. Every limit whose path and
	// method match is counted.
	Limits []RateLimit `json:"limits,omitempty"`
	// Proof asks every browser for a proof of work before its first page:
	// the remedy of a site under attack.
	Proof bool `json:"proof,omitempty"`
	// Compress allows the compression of pages on the fly.
	Compress bool `json:"compress,omitempty"`
	// ServerTiming tells the visitor's browser how long each part took.
	ServerTiming bool `json:"serverTiming,omitempty"`
}

// Auth is HTTP basic authentication (RFC 7617).
type Auth struct {
	Realm string `json:"realm,omitempty"` // default: the host's name
	// Users by name: bcrypt hashes of their passwords.
	Users map[string]Secret `json:"users"`
}

// Maintenance closes a host for a while.
type Maintenance struct {
	Until time.Time `json:"until,omitzero"` // for the page and Retry-After; zero: nobody knows
	// Pass lets a browser through that opens the host with it once, as in
	// https://learn.example.org/-/pass/PASS; "": nobody.
	Pass Secret `json:"pass,omitempty"`
	// Networks whose visitors see the site as if it were open.
	Networks []netip.Prefix `json:"networks,omitempty"`
}

// RateLimit is a budget of requests for each address (IPv6: each /64).
type RateLimit struct {
	// Name tells limits apart: limits of one name on one host share a budget.
	Name string `json:"name"`
	// Path as in Rule; Methods in capitals, none: all.
	Path    string   `json:"path"`
	Methods []string `json:"methods,omitempty"`
	// Burst requests may come at once; after that one in each Every.
	Burst int           `json:"burst"`
	Every time.Duration `json:"every"` // nanoseconds
}

// Rule narrows a host's handling for a path. The path is matched decoded.
//
// A Path that ends in "/" is a prefix, "/" alone is the root page only, and
// "" is every path. For a prefix, a Rewrite or a Redirect that itself ends in
// "/" keeps the rest of the path: "/course-authoring/" to "/authoring/".
type Rule struct {
	Path     string `json:"path"`               // exact, or a prefix when it ends in "/", "*" matches one element
	MaxBody  int64  `json:"maxBody,omitempty"`  // bytes
	Rewrite  string `json:"rewrite,omitempty"`  // path asked of the upstream instead
	Redirect string `json:"redirect,omitempty"` // 302 to this URL
	Upstream string `json:"upstream,omitempty"` // another upstream for this path
	// Service is whose upstream that is, so that its requests are held and
	// drained with the service; "" with an Upstream: always ready. A Service
	// without an Upstream has none yet: its requests wait.
	Service string `json:"service,omitempty"`
	State   State  `json:"state,omitempty"` // of Service; "": as the host of that service says
	Host    string `json:"host,omitempty"`  // Host header for that upstream
	Root    string `json:"root,omitempty"`  // static files from this folder of the site's static folder
	SPA     bool   `json:"spa,omitempty"`   // unknown paths get Root/index.html
	// Status answers with this status (400 to 599) and a plain page, without
	// waking anybody; 0: the request goes on.
	Status int `json:"status,omitempty"`
	// Headers as in Host, after the host's own.
	Headers map[string]string `json:"headers,omitempty"`
	// Stream passes the answer on as it comes, without a buffer.
	Stream bool `json:"stream,omitempty"`
}

// State of a service as far as routing is concerned.
type State string

// States of a service.
const (
	Ready    State = "ready"    // requests pass
	Hold     State = "hold"     // requests wait, bounded, then the page
	Draining State = "draining" // no new request; running ones may end
	Down     State = "down"     // the page at once
)

// Ack answers a put snapshot: the generation that is served now, and why the
// snapshot was refused when it was.
type Ack struct {
	Generation uint64 `json:"generation"`
	Error      string `json:"error,omitempty"`
}

// EventKind of what the proxy tells.
type EventKind string

// Kinds of events.
const (
	Drained     EventKind = "drained"     // no request of Service is in flight any more; told again for each snapshot that drains
	Wanted      EventKind = "wanted"      // a request waits for Service
	Certificate EventKind = "certificate" // the state of a name's certificate changed
)

// CertificateValid is the Detail of a Certificate event for a certificate that
// is in place.
const CertificateValid = "valid"

// Event is input from a process that may be hostile: check every field.
type Event struct {
	Seq        uint64    `json:"seq"`
	Kind       EventKind `json:"kind"`
	Site       string    `json:"site,omitempty"`
	Service    string    `json:"service,omitempty"`
	Generation uint64    `json:"generation,omitempty"`
	Name       string    `json:"name,omitempty"` // host name
	Detail     string    `json:"detail,omitempty"`
	At         time.Time `json:"at"`
}
