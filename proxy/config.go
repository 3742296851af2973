package proxy

import (
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"time"

	"tarima/proxy/compress"
	"tarima/proxy/files"
)

// Config of a proxy. Zero values take the defaults that are named.
type Config struct {
	// HTTP and HTTPS are the addresses to listen on, "host:port" as in
	// net.Listen or "unix:/path" of a socket; none: off. Without HTTPS the
	// sites are served over HTTP, otherwise HTTP only redirects.
	HTTP, HTTPS []string
	// UnixMode is the file mode of such sockets (0: 0660), UnixGroup the name
	// of a group that may connect beside this process's own; "": none. Who may
	// connect is believed as Trusted are.
	UnixMode  fs.FileMode
	UnixGroup string
	// ProxyProtocol expects a PROXY protocol header, version 1 or 2, at the
	// beginning of each connection of a trusted peer, and refuses those
	// without. Others are clients themselves and must not send one.
	ProxyProtocol bool
	// PublicPort is the port of HTTPS as clients see it, for redirects and
	// X-Forwarded-Port; 0: the port of the first HTTPS listener.
	PublicPort int

	// Dir keeps what must outlive the process: certificates and the last
	// snapshot of routes. It is made with mode 0711, so that
	// the local authority's root can be read; what is secret in it is the owner's alone.
	Dir string
	// Socket is the unix socket of the control protocol, SocketMode its file
	// mode (0: 0600). Who may connect may change the routes.
	Socket     string
	SocketMode fs.FileMode
	// StaticDir gives the static folder of a site; nil: no static files.
	StaticDir func(site string) string
	// Files bounds the memory of static files.
	Files files.Config
	// Compress bounds what the compression of pages may cost.
	Compress compress.Config
	// Listeners are sockets that are open already, from systemd or from a
	// predecessor. Each is used in place of the configured address that it
	// is bound to; one that fits no address is closed.
	Listeners []net.Listener
	// HTTP3 serves HTTP/3 as well, on the UDP ports of HTTPS. It costs two to
	// three times the processor time of HTTP/2 for large bodies and helps
	// visitors on lossy networks.
	HTTP3 bool
	// Packets are the UDP sockets of a predecessor.
	Packets []*net.UDPConn

	Logger    *slog.Logger // nil: slog.Default()
	AccessLog io.Writer    // one JSON line per request, written soon and together with others; nil: none

	// ACMERoots vouch for an ACME authority that the system does not trust.
	ACMERoots *x509.CertPool
	// Nameservers to ask about names and for proofs, as "address:port"; none:
	// those of /etc/resolv.conf.
	Nameservers []string
	// PublicHTTPPort is where ACME authorities ask for HTTP-01; 0: 80.
	PublicHTTPPort int

	Sight   Sight
	Hold    Hold
	Limits  Limits
	Buffers Buffers
	// Trusted are the networks of proxies in front of this one, whose
	// X-Forwarded-For, -Proto and -Port are believed, beside those of the
	// routes.
	Trusted []netip.Prefix

	// Handover: a value asks the proxy to start a successor, to give it all
	// sockets and to end when its own requests have ended, those that wait
	// included, or HandoverLimit (0: 10 min) is over. A successor that does
	// not come up leaves everything as it was. The successor calls Inherit.
	Handover      <-chan struct{}
	HandoverLimit time.Duration
	// Successor makes the command; nil: this program with its arguments.
	Successor func() *exec.Cmd
	// Store is the service manager's notification socket, whose descriptor
	// store keeps the public sockets over a crash; "": none.
	Store string

	// Grace is how long requests may go on after the end was asked for;
	// 0: 30 s.
	Grace time.Duration
	// Notify tells the service manager ("READY=1", "STATUS=…", "STOPPING=1",
	// "MAINPID=…", "WATCHDOG=1"), from any goroutine; nil: nobody.
	Notify func(state string)
	// Watchdog is the service manager's interval; the proxy asks itself over
	// its control socket twice in it and only then tells "WATCHDOG=1";
	// 0: off.
	Watchdog time.Duration
}

// Hold bounds the requests that wait for a service.
type Hold struct {
	MaxPerHost int           // requests; 0: 256
	MaxTotal   int           // requests; 0: 1024
	Timeout    time.Duration // of one request, all its waits together; 0: 20 s
	MaxBytes   int64         // memory of all that wait: head and the window of the body; 0: 32 MiB
}

// Buffers hold the answers that clients take slowly, so that the application is
// free at once. What does not fit waits in the application, as without them.
type Buffers struct {
	Memory     int64 // bytes of all answers together; 0: 16 MiB, negative: none
	MemoryEach int64 // bytes of one; 0: 128 KiB
	// Disk is the room in files without a name for what does not fit into
	// memory, of all answers together; 0: 512 MiB, negative: none.
	Disk     int64
	DiskEach int64  // bytes of one; 0: 128 MiB
	Dir      string // of the files; "": Config.Dir
}

// Limits of the public side.
type Limits struct {
	Connections        int           // open at a time, all listeners; 0: as many as fit the machine, 4000 on 2 GB
	ConnectionsPerAddr int           // of one IPv4 address or IPv6 /64; 0: an eighth (a school is one address)
	Head               int           // request line and headers in bytes; 0: 30 KiB, below uWSGI's buffer-size
	HeadTimeout        time.Duration // TLS handshake and head; 0: 10 s
	IdleTimeout        time.Duration // kept connection without a request; 0: 60 s
	Stall              time.Duration // a body may stand still this long; 0: 30 s
	MinRate            int64         // bytes per second of a body beside Stall; 0: 500
	Upstream           time.Duration // until an upstream's answer begins; 0: 5 min
}

func (c *Config) complete() error {
	if len(c.HTTP) == 0 && len(c.HTTPS) == 0 {
		return fmt.Errorf("%w: no address to listen on (HTTP, HTTPS)", ErrConfig)
	}
	for _, a := range append(append([]string{}, c.HTTP...), c.HTTPS...) {
		if err := checkListenAddress(a); err != nil {
			return err
		}
	}
	if c.Dir == "" || c.Socket == "" {
		return fmt.Errorf("%w: Dir and Socket must be given", ErrConfig)
	}
	// sockaddr_un has 108 bytes, and the socket is made beside its place
	// under a name that is a little longer.
	if len(c.Socket) > 98 {
		return fmt.Errorf("%w: socket path of %d bytes, 98 are possible: %s", ErrConfig, len(c.Socket), c.Socket)
	}
	if c.PublicPort < 0 || c.PublicPort > 65535 {
		return fmt.Errorf("%w: PublicPort %d", ErrConfig, c.PublicPort)
	}
	if err := c.Sight.check(); err != nil {
		return err
	}
	fill(&c.SocketMode, 0o600)
	fill(&c.UnixMode, 0o660)
	c.Logger = c.logger()
	fill(&c.Grace, 30*time.Second)
	fill(&c.HandoverLimit, 10*time.Minute)
	fill(&c.Hold.MaxPerHost, 256)
	fill(&c.Hold.MaxTotal, 1024)
	fill(&c.Hold.Timeout, 20*time.Second)
	fill(&c.Hold.MaxBytes, 32<<20)
	fill(&c.Limits.Connections, machineCapacity())
	fill(&c.Limits.ConnectionsPerAddr, max(c.Limits.Connections/8, 100))
	fill(&c.Buffers.Memory, 16<<20)
	fill(&c.Buffers.MemoryEach, 128<<10)
	fill(&c.Buffers.Disk, 512<<20)
	fill(&c.Buffers.DiskEach, 128<<20)
	fill(&c.Buffers.Dir, c.Dir)
	fill(&c.Limits.Head, 30<<10)
	fill(&c.Limits.HeadTimeout, 10*time.Second)
	fill(&c.Limits.IdleTimeout, 60*time.Second)
	fill(&c.Limits.Stall, 30*time.Second)
	fill(&c.Limits.MinRate, 500)
	fill(&c.Limits.Upstream, 5*time.Minute)
	if c.StaticDir == nil {
		c.StaticDir = func(string) string { return "" }
	}
	if c.Notify == nil {
		c.Notify = func(string) {}
	}
	return nil
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.Default()
	}
	return c.Logger
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
