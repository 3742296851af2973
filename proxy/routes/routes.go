// Package routes is plain data: the snapshot of routes that the supervisor
// puts to the proxy, and the events that come back. The one package of proxy
// that supervisor may import.
package routes

import (
	"errors"
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
}

// TLS says where certificates come from.
type TLS struct {
	// Mode is "local" (an authority of this server's own) or "acme".
	Mode  string `json:"mode"`
	Email string `json:"email,omitempty"`
	// Directory is the URL of the ACME authority; "": Let's Encrypt.
	Directory string `json:"directory,omitempty"`
}

// Page is what the waiting page says of the site.
type Page struct {
	SiteName string `json:"siteName"`
	Contact  string `json:"contact,omitempty"`
	Language string `json:"language,omitempty"` // the site's own: decides which text comes first
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
