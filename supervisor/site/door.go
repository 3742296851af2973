package site

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// TLSMode says where certificates come from.
type TLSMode string

// The modes.
const (
	TLSLocal TLSMode = "local" // an authority of this server's own
	TLSACME  TLSMode = "acme"  // Let's Encrypt or another public authority
	TLSNone  TLSMode = "none"  // a web server in front has the certificates
)

// Off as an address means that nobody listens.
const Off = "off"

// UnixPrefix begins an address that is the path of a unix socket.
const UnixPrefix = "unix:"

// Proxy is the public door.
type Proxy struct {
	// HTTP is an address:port, "unix:/path" with TLSNone, or "off"; default
	// ":80", and "127.0.0.1:8080" with TLSNone.
	HTTP string `toml:"http"`
	// HTTPS is an address:port, or "off" with TLSNone, whose default it is;
	// else ":443".
	HTTPS string `toml:"https"`
	HTTP3 bool   `toml:"http3"` // HTTP/3 on the port of HTTPS
	// SocketGroup is the group that may connect to a unix socket of HTTP.
	SocketGroup string `toml:"socket_group"`
	// Trusted are the networks of load balancers, CDNs and web servers in
	// front, whose word on the visitor's address is believed; default none,
	// and this machine with TLSNone.
	Trusted []netip.Prefix `toml:"trusted"`
	// ProxyProtocol wants the PROXY protocol of those in Trusted.
	ProxyProtocol bool    `toml:"proxy_protocol"`
	TLS           TLSMode `toml:"tls"`   // default "acme"; "local" for a name under .localhost, .local, .test, .internal or .home.arpa
	Email         string  `toml:"email"` // for the certificate authority; default: the contact
	// Hold is how long a request may wait for a service that comes up;
	// default 30 s, at most 10 min. Nil: the file does not say.
	Hold *time.Duration `toml:"hold"`
	// HSTS is how long browsers are to come by HTTPS alone (RFC 6797), at most
	// two years; 0: no word of it.
	HSTS         time.Duration `toml:"hsts"`
	Compress     *bool         `toml:"compress"`      // pages on the fly; default true
	ServerTiming bool          `toml:"server_timing"` // the visitor's browser is told how long each part took
	Closed       bool          `toml:"closed"`        // search engines are to stay away
	Proof        bool          `toml:"proof"`         // browsers show a proof of work first: for a site under attack

	ACME         ACME                         `toml:"acme"`
	DNS          DNS                          `toml:"dns"`
	Certificates map[string]Certificate       `toml:"certificates"` // of one's own, by host name
	Redirects    map[string]string            `toml:"redirects"`    // from a host name to a host name or an https URL
	Maintenance  Maintenance                  `toml:"maintenance"`
	Auth         map[string]Auth              `toml:"auth"`    // by host name
	Headers      map[string]map[string]string `toml:"headers"` // of answers, by host name; "" takes one away
	Limits       map[string]Limit             `toml:"limits"`  // by the limit's name, see UsualLimits
	Block        Block                        `toml:"block"`
	Log          AccessLog                    `toml:"log"`
	Metrics      Metrics                      `toml:"metrics"`
	Apps         map[string]App               `toml:"apps"` // applications of one's own, by a name for them
}

// ACME says which public authority is asked for certificates.
type ACME struct {
	Directory string `toml:"directory"` // https URL; default: Let's Encrypt
	// KeyID and KeyFile are the account that the authority gave to its
	// customer (external account binding, RFC 8555 section 7.3.4): the file
	// holds the key, base64url, and is its owner's alone.
	KeyID   string `toml:"key_id"`
	KeyFile string `toml:"key_file"`
	// Wildcards are names such as "*.learn.example.org" to have one
	// certificate for; they need [DNS].
	Wildcards []string `toml:"wildcards"`
	// Fallback are asked in their order while the first authority refuses.
	Fallback []Authority `toml:"fallback"`
}

// Authority is another certificate authority, with the keys of [ACME].
type Authority struct {
	Directory string `toml:"directory"`
	KeyID     string `toml:"key_id"`
	KeyFile   string `toml:"key_file"`
}

// DNS is where the zone of the names is kept: with it names are proved by a
// record (DNS-01).
type DNS struct {
	Provider string `toml:"provider"` // such as "cloudflare" or "rfc2136"
	// SettingsFile holds the provider's settings, its owner's alone: TOML with
	// strings, as in api_token = "…". See [ReadSettings].
	SettingsFile string `toml:"settings_file"`
}

// Certificate is one of one's own: absolute paths of PEM files.
type Certificate struct {
	Cert string `toml:"cert"` // the certificate, then its chain
	Key  string `toml:"key"`
}

// Maintenance says who sees a site that is closed by `tarima maintenance on`.
type Maintenance struct {
	Networks []netip.Prefix `toml:"networks"`
}

// Auth lets nobody into a host without a password.
type Auth struct {
	// Users is the absolute path of a file as `htpasswd -B` writes it: lines
	// NAME:HASH with bcrypt. It is its owner's alone. See [ReadUsers].
	Users string `toml:"users"`
	Realm string `toml:"realm"` // that the browser shows; default: the host's name
}

// Limit bounds how often one address (IPv6: /64) may ask.
type Limit struct {
	Host    string        `toml:"host"`  // default: every host; of a usual limit: the LMS and Studio
	Paths   []string      `toml:"paths"` // as in App; of a usual limit: its own
	Methods []string      `toml:"methods"`
	Burst   int           `toml:"burst"` // requests at once
	Every   time.Duration `toml:"every"` // after which one more is allowed
	Enabled *bool         `toml:"enabled"`
}

// UsualLimits are the names of the limits that every site has: they bound
// attempts at log-in, registration, password reset and the tokens of OAuth.
func UsualLimits() []string { return []string{"login", "registration", "password", "token"} }

// Block answers paths with 404 and wakes nobody.
type Block struct {
	Paths []string `toml:"paths"` // as in App
	// Usual is a short list of what robots look for on every server; default
	// true.
	Usual *bool `toml:"usual"`
}

// AccessLog is a line of JSON for every request.
type AccessLog struct {
	File      string   `toml:"file"`      // absolute path; "": none
	Fields    []string `toml:"fields"`    // of LogFields; default all
	Addresses string   `toml:"addresses"` // "full", "short" (network only) or "none"; default "full"
	Size      Bytes    `toml:"size"`      // when a new file begins; default 50 MB
	Keep      int      `toml:"keep"`      // older files; default 5
	// Slow requests are told in the journal: those that take longer; default
	// 3 s, 0: none.
	Slow *time.Duration `toml:"slow"`
}

// LogFields are the fields of an access log, in their order.
func LogFields() []string {
	return []string{
		"time", "client", "method", "host", "path", "proto", "status", "bytes", "took",
		"upstream", "upstream_took", "held", "agent", "referer", "trace", "request", "note",
	}
}

// Metrics are figures for Prometheus.
type Metrics struct {
	Address string `toml:"address"` // of this machine alone, as in "127.0.0.1:9460"; "": none
}

// App is an application of one's own behind the public door.
type App struct {
	Host string `toml:"host"` // a name of its own, or one of the site's with Paths
	// Paths that go to the application; none: the whole host. One that ends in
	// "/" stands for all below it, "*" for one element of a path.
	Paths   []string `toml:"paths"`
	Service string   `toml:"service"` // one of the site's that answers HTTP, see WebServices
	Address []string `toml:"address"` // ADDRESS:PORT; several only without Paths
	// Rewrite is the path to ask the application for instead. When both end in
	// "/", what follows is kept.
	Rewrite    string `toml:"rewrite"`
	HostHeader string `toml:"host_header"` // host name that the application is told; default: the visitor's
	MaxBody    Bytes  `toml:"max_body"`    // of a request; default: no bound on a host of its own, else the host's
	Stream     bool   `toml:"stream"`      // answers are passed on as they come, without a buffer
}

// WebServices are the services that answer HTTP for visitors.
func WebServices() []string { return []string{"lms", "cms", "mfe", "meilisearch"} }

// Hosts are the site's public names: its own, the LMS first, those left out
// that belong to a disabled service; then those of applications, then those
// that are sent on to others.
func (c *Config) Hosts() []string {
	hosts := c.siteHosts()
	for _, name := range slices.Sorted(maps.Keys(c.Proxy.Apps)) {
		if h := c.Proxy.Apps[name].Host; !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	hosts = append(hosts, slices.Sorted(maps.Keys(c.Proxy.Redirects))...)
	return slices.DeleteFunc(hosts, func(h string) bool { return h == "" })
}

// siteHosts are the names of the site's own parts.
func (c *Config) siteHosts() []string {
	hosts := []string{c.Site.Host, c.Site.Studio}
	if c.Enabled("mfe") {
		hosts = append(hosts, c.Site.Apps)
	}
	if c.Enabled("meilisearch") {
		hosts = append(hosts, c.Site.Search)
	}
	return hosts
}

// doorDefaults completes what follows from where certificates come from.
func doorDefaults(p *Proxy) {
	if p.TLS == TLSNone {
		fill(&p.HTTP, "127.0.0.1:8080")
		fill(&p.HTTPS, Off)
		if len(p.Trusted) == 0 {
			p.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
		}
	}
	fill(&p.HTTP, ":80")
	fill(&p.HTTPS, ":443")
	if p.Compress == nil {
		p.Compress = new(true)
	}
	if p.Block.Usual == nil {
		p.Block.Usual = new(true)
	}
	if p.Log.File != "" {
		fill(&p.Log.Addresses, "full")
		if p.Log.Size == 0 {
			p.Log.Size = 50 * MB
		}
		if p.Log.Keep == 0 {
			p.Log.Keep = 5
		}
	}
	if p.Log.Slow == nil {
		p.Log.Slow = new(3 * time.Second)
	}
}
