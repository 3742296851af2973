package supervisor

import (
	"net/netip"
	"time"

	"tarima/proxy/routes"
	"tarima/runtime/container"
)

// Desired is everything that a site should be: the input of Plan that does
// not change by itself.
type Desired struct {
	Site       string
	Generation uint64
	Services   []Service
	Jobs       []Job
	Routes     []Route
	Egress     []string // services that may reach the outside
	// TLS, Page and Trusted go to the proxy with the routes as they are.
	TLS     routes.TLS
	Page    routes.Page
	Trusted []netip.Prefix
	// Insiders see a site that is closed for maintenance as if it were open.
	Insiders []netip.Prefix
}

// Service is one supervised container with its probes and its place in the
// order of the site.
type Service struct {
	Spec container.Spec
	// Hash covers what the site file and the release ask for, limits left
	// out. A running container with another hash is replaced.
	Hash string
	// Requires are services that must be ready before this one starts, and
	// jobs that must have succeeded. They are also the edges that the network
	// lets through (Ports of the required service).
	Requires []string
	// Reaches are further services that this one may speak to without needing
	// them to start.
	Reaches []string
	// RestartWith are services whose replacement replaces this one too. Without
	// it a service is left alone when one that it requires is replaced.
	RestartWith []string
	Ports       []uint16 // TCP ports that others and the host may be allowed to
	Probes      Probes
	// Database services are restarted for a failed probe only after a long
	// grace, and are stopped with patience.
	Database bool
	// OnDemand services are started by the first request (routes.Wanted), or at
	// once when another service or a job requires them.
	OnDemand bool
}

// Job is a container that runs to its end, once per Reason.
type Job struct {
	Spec     container.Spec
	Reason   string // content hash: a new reason runs the job again
	Requires []string
	Timeout  time.Duration
	Retries  int // attempts after the first, with backoff
}

// Probes are three separate questions. A nil startup or liveness probe is not
// asked; a nil readiness probe means ready as soon as started.
type Probes struct {
	Startup   *Probe // until it passes once, the others are not asked
	Readiness *Probe // decides routing and the start of dependants
	Liveness  *Probe // decides restart
}

// ProbeKind is how a probe asks.
type ProbeKind string

// Kinds of probes.
const (
	ProbeHTTP  ProbeKind = "http"
	ProbeTCP   ProbeKind = "tcp" // readiness only: a stopped process still accepts
	ProbeRedis ProbeKind = "redis"
	ProbeMySQL ProbeKind = "mysql" // handshake packet, no login
	ProbeMongo ProbeKind = "mongo" // ping or hello over the wire
	ProbeSMTP  ProbeKind = "smtp"  // 220 banner
	ProbeExec  ProbeKind = "exec"  // last choice: costs a process
)

// Probe is one question with its rhythm.
type Probe struct {
	Kind ProbeKind
	Port uint16
	Path string // http
	Host string // http: Host header
	Exec []string
	// PasswordFile holds the password of a Redis that wants one (host path,
	// read for each question). Without it, a demand for a password counts as
	// the answer of a working server.
	PasswordFile string
	Interval     time.Duration // 0: 10 s
	Timeout      time.Duration // 0: 5 s
	// Grace is how long the question may fail before it counts: failure time,
	// not a number of failures. 0 means: startup 10 min, readiness 0 s,
	// liveness 30 s. A database's liveness has at least Policy.DatabaseGrace.
	Grace time.Duration
}

// Route is a public host and the service behind it; the supervisor fills in
// upstream and state and hands the snapshot to the proxy.
type Route struct {
	Host    string
	Service string `json:",omitempty"`
	Port    uint16 `json:",omitempty"`
	// Name and Addresses (ADDRESS:PORT) are an application that is no service
	// of the site's, in place of Service. It is always ready.
	Name      string   `json:",omitempty"`
	Addresses []string `json:",omitempty"`

	MaxBody  int64       `json:",omitempty"`
	Rules    []RouteRule `json:",omitempty"`
	Redirect string      `json:",omitempty"`

	// As in routes.Host.
	HSTS         int64              `json:",omitempty"` // seconds
	Headers      map[string]string  `json:",omitempty"`
	Auth         *routes.Auth       `json:",omitempty"`
	Closed       bool               `json:",omitempty"`
	Limits       []routes.RateLimit `json:",omitempty"`
	Proof        bool               `json:",omitempty"`
	Compress     bool               `json:",omitempty"`
	ServerTiming bool               `json:",omitempty"`
}

// RouteRule mirrors routes.Rule with a service in place of an address.
type RouteRule struct {
	Path       string
	Rewrite    string            `json:",omitempty"`
	Redirect   string            `json:",omitempty"`
	MaxBody    int64             `json:",omitempty"`
	Service    string            `json:",omitempty"`
	Port       uint16            `json:",omitempty"`
	Address    string            `json:",omitempty"` // ADDRESS:PORT in place of Service
	HostHeader string            `json:",omitempty"`
	Root       string            `json:",omitempty"`
	SPA        bool              `json:",omitempty"`
	Status     int               `json:",omitempty"`
	Headers    map[string]string `json:",omitempty"`
	Stream     bool              `json:",omitempty"`
}
