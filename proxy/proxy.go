// Package proxy is the public door of a site: a TLS reverse proxy in a process
// of its own that is not root.
//
// It is told its routes over a unix socket as one snapshot at a time and
// remembers the last one, so that it serves on while nobody tells it anything.
// Requests wait, within bounds, for a service that starts or restarts, and a
// service is drained before it stops.
package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarima/proxy/certs"
	"tarima/proxy/compress"
	"tarima/proxy/files"
	"tarima/proxy/ratelimit"
	"tarima/proxy/routes"
)

// h2Window is what a client may send ahead of a body that nobody reads yet:
// enough for 10 MB/s over 100 ms.
const h2Window = 1 << 20

type server struct {
	cfg    Config
	logger *slog.Logger

	instance string
	since    time.Time

	board     *switchboard
	room      *waitingRoom
	events    *eventLog
	keeper    *certs.Keeper
	trust     *trust
	tickets   *certs.Tickets
	upstreams *upstreams
	buffers   *buffers
	spools    *spools
	files     *files.Server
	presses   *compress.Compressor
	fleet     *fleet
	nobody    *gate // of addresses that belong to no service
	limiter   *ratelimit.Table
	passwords *passwords
	signer    *signer

	sight     sight
	proxyLog  *log.Logger
	httpsPort int // as clients see it; 0: no HTTPS

	remembering sync.Mutex
	trouble     trouble
	limits      *connectionLimits
	leaving     atomic.Bool // each answer closes its connection
	parting     partings
	altSvc      atomic.Pointer[[]string] // of answers over TCP; nil: no HTTP/3
	requests    sync.WaitGroup           // all handlers, those of websockets too
	background  sync.WaitGroup
	// base is the parent of all requests; cut ends it when Grace is over.
	base context.Context
	cut  context.CancelFunc
}

// Run serves until ctx ends, and then until the requests under way have ended
// or Config.Grace is over. Requests that wait for a service are answered with
// the waiting page at the end. An error means that it could not start, or that
// a listener failed.
func Run(ctx context.Context, cfg Config) error {
	s, err := newServer(cfg)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

func newServer(cfg Config) (*server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("folder of the proxy: %w", err)
	}
	s := &server{
		cfg: cfg, logger: cfg.Logger, instance: rand.Text(), since: time.Now().UTC(),
		room: newWaitingRoom(cfg.Hold), events: newEventLog(),
		trust: newTrust(cfg.Trusted), upstreams: newUpstreams(cfg.Limits), buffers: newBuffers(), fleet: newFleet(), nobody: newGate(serviceKey{}),
		proxyLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	s.limiter, s.passwords = ratelimit.New(), newPasswords()
	s.base, s.cut = context.WithCancel(context.Background())
	s.files, s.presses = files.New(cfg.Files), compress.New(cfg.Compress)
	s.spools = newSpools(cfg.Buffers, cfg.Logger, s.buffers)
	s.board = newSwitchboard(cfg.Logger, s.events, s.room, func(snapshot routes.Snapshot) {
		s.certify(snapshot)
		s.fleet.keep(snapshot)
		s.sight.served(snapshot)
	})
	return s, nil
}

// recall serves the routes of the last time until somebody tells new ones.
func (s *server) recall() error {
	snapshot, err := loadSnapshot(s.cfg.Dir)
	switch {
	case err == nil:
		_, err = s.board.apply(snapshot)
		return err
	case errors.Is(err, errNoSnapshot):
		return nil
	case errors.Is(err, routes.ErrInvalid):
		aside, aerr := setAside(s.cfg.Dir, snapshotFile)
		if aerr != nil {
			return aerr
		}
		s.logger.Error("the remembered routes are damaged; none are served until the supervisor tells them", "error", err, "aside", aside)
		s.trouble.set("recall", err)
		return nil
	default:
		return err
	}
}

// certify makes the names of the snapshot known to the authority before their
// routes are, and signs new ones ahead of the first visitor.
func (s *server) certify(snapshot routes.Snapshot) {
	s.trouble.set("recall", nil)
	s.trust.set(snapshot)
	names := make([]string, len(snapshot.Hosts))
	for i, h := range snapshot.Hosts {
		names[i] = h.Name
	}
	added := s.keeper.Set(snapshot.TLS, names)
	if len(added) == 0 {
		return
	}
	s.background.Go(func() {
		for _, name := range added {
			state := certs.State{Name: name, Phase: certs.Valid}
			switch c, err := s.keeper.Certificate(name); {
			case err != nil:
				state.Phase, state.LastError = certs.Failed, err.Error()
			case c == nil:
				continue // taken away again in the meantime
			default:
				state.Issuer = c.Leaf.Issuer.CommonName
			}
			s.certificate(state)
		}
	})
}

// certificate tells the state of a name's certificate.
func (s *server) certificate(c certs.State) {
	detail := string(c.Phase)
	switch {
	case c.Warning != "":
		detail += ": " + c.Warning
	case c.LastError != "" && c.Phase != certs.Obtaining:
		detail += ": " + c.LastError
	}
	s.logger.Info("certificate", "name", c.Name, "state", detail)
	s.events.add(routes.Event{Kind: routes.Certificate, Name: c.Name, Detail: detail})
}

// openKeeper opens the certificates, whose challenges the listeners answer.
func (s *server) openKeeper(listeners []listener) (err error) {
	cfg := certs.Config{
		Dir: s.cfg.Dir, Logger: s.logger, Roots: s.cfg.ACMERoots, Changed: s.certificate,
		Nameservers: s.cfg.Nameservers, PublicHTTPPort: s.cfg.PublicHTTPPort,
	}
	for _, l := range listeners {
		port := &cfg.HTTPPort
		if l.tls {
			port = &cfg.HTTPSPort
		}
		if *port == 0 {
			*port = l.port
		}
		if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
			cfg.Host = a.IP.String()
		}
	}
	if s.keeper, err = certs.Open(cfg); err != nil {
		return err
	}
	s.tickets = certs.OpenTickets(s.cfg.Dir, s.logger)
	return nil
}

func (s *server) run(ctx context.Context) error {
	control, err := s.openControl()
	if err != nil {
		return err
	}
	s.limits = newConnectionLimits(&s.cfg, s.trust)
	listeners, err := openListeners(&s.cfg, s.limits)
	if err != nil {
		_ = control.Close() // the first error is told
		_ = os.Remove(s.cfg.Socket)
		return err
	}
	for _, l := range listeners {
		if l.tls && s.httpsPort == 0 {
			s.httpsPort = cmp.Or(l.port, 443)
			if s.cfg.PublicPort != 0 {
				s.httpsPort = s.cfg.PublicPort
			}
		}
	}
	s.board.elders = findElders(s.cfg.Dir)
	defer s.closeSight()
	if err = s.openSight(); err == nil {
		s.signer, err = openSigner(s.cfg.Dir)
	}
	if err == nil {
		err = s.openKeeper(listeners)
	}
	if err == nil {
		defer s.keeper.Close()
		defer s.tickets.Close()
		err = s.recall()
	}
	if err != nil {
		for _, l := range listeners {
			_ = l.Close() // the first error is told
		}
		_ = control.Close()
		_ = os.Remove(s.cfg.Socket)
		return err
	}
	if s.cfg.Store != "" {
		if err := storeListeners(s.cfg.Store, listeners); err != nil {
			s.logger.Warn("the sockets will not outlive a crash", "error", err)
		}
	}

	quicDoors, err := openQUIC(s, listeners)
	if err != nil {
		for _, l := range listeners {
			_ = l.Close() // the first error is told
		}
		_ = control.Close()
		_ = os.Remove(s.cfg.Socket)
		return err
	}
	quicServing, stopQUIC := context.WithCancel(context.Background())
	defer stopQUIC()
	s.background.Go(func() { quicDoors.serve(quicServing) })
	failed := make(chan error, len(listeners)+1)
	servers := s.serve(listeners, control, failed)
	s.cfg.Notify("READY=1\nSTATUS=" + s.summary())
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	if s.board.elders.any() {
		s.background.Go(func() { s.heedElders(watching) })
	}
	if s.cfg.Sight.Metrics != "" {
		s.background.Go(func() { s.serveFigures(watching) })
	}
	if s.cfg.Sight.Reopen != nil {
		s.background.Go(func() { s.reopenLogs(watching) })
	}
	if s.cfg.Watchdog > 0 {
		s.background.Go(func() { s.watch(watching) })
	}

	for {
		select {
		case err = <-failed:
		case <-ctx.Done():
		case <-s.cfg.Handover:
			last, err := s.handOver(ctx, listeners, quicDoors, control)
			if err != nil {
				s.logger.Error("no handover; this process goes on", "error", err)
				continue
			}
			stopWatching()
			stopQUIC()
			s.outlast(ctx, listeners, control, servers, last)
			return nil
		}
		break
	}
	s.cfg.Notify("STOPPING=1\nSTATUS=Finishing the requests under way")
	if s.cfg.Store != "" {
		settle(listeners) // the sockets live on, for the next process
	}
	stopWatching()
	stopQUIC()
	s.finish(servers, s.cfg.Grace)
	_ = os.Remove(s.cfg.Socket) // a left one is replaced at the next start
	if s.cfg.Store == "" {
		removeDoors(listeners)
	}
	return err
}

// openControl takes over the control socket of a predecessor, or opens one.
func (s *server) openControl() (*net.UnixListener, error) {
	for i, l := range s.cfg.Listeners {
		// Others are doors, of this configuration or of the one before.
		if u, ok := l.(*net.UnixListener); ok && strings.HasPrefix(u.Addr().String(), s.cfg.Socket) {
			u.SetUnlinkOnClose(false)
			s.cfg.Listeners = append(s.cfg.Listeners[:i:i], s.cfg.Listeners[i+1:]...)
			return u, nil
		}
	}
	return listenControl(s.cfg.Socket, s.cfg.SocketMode)
}

func (s *server) serve(listeners []listener, control net.Listener, failed chan<- error) []*http.Server {
	var servers []*http.Server
	run := func(srv *http.Server, l net.Listener, withTLS bool) {
		servers = append(servers, srv)
		s.background.Go(func() {
			var err error
			if withTLS {
				err = srv.ServeTLS(l, "", "")
			} else {
				err = srv.Serve(l)
			}
			if !isClosed(err) {
				failed <- fmt.Errorf("listener %s: %w", l.Addr(), err)
			}
		})
	}
	for _, l := range listeners {
		run(s.publicServer(l), l.Listener, l.tls)
		s.logger.Info("listening", "address", l.Addr().String(), "tls", l.tls)
	}
	run(&http.Server{Handler: s.control(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: s.proxyLog}, control, false)
	return servers
}

// settleFor is what a client has to send its first bytes in before
// http.Server.Shutdown: a request that it reads later gets no answer.
const settleFor = 200 * time.Millisecond

// settle accepts nobody any more and lets those who were accepted last be read.
func settle(listeners []listener) {
	for _, l := range listeners {
		pause(l.Listener)
	}
	<-time.After(settleFor)
}

// outlast serves the requests that are here while a successor has the sockets.
func (s *server) outlast(ctx context.Context, listeners []listener, control *net.UnixListener, servers []*http.Server, last *testament) {
	began := time.Now()
	s.background.Go(s.keeper.Retire)
	settle(listeners)
	pause(control)
	following, stop := context.WithCancel(ctx)
	defer stop()
	s.background.Go(func() { s.follow(following, last) })
	ended := make(chan struct{})
	s.background.Go(func() {
		// Told to end in the meantime: no more patience than otherwise.
		select {
		case <-ctx.Done():
			s.dismiss()
			timer := time.NewTimer(s.cfg.Grace)
			defer timer.Stop()
			select {
			case <-timer.C:
				s.cut()
				for _, srv := range servers {
					_ = srv.Close() // time is over
				}
			case <-ended:
			}
		case <-ended:
		}
	})
	// The successor alone is told new routes from now on.
	s.events.close()
	_ = servers[len(servers)-1].Shutdown(ctx) // the control socket's; what is left ends below
	s.partFrom(ctx)
	s.end(servers, s.cfg.HandoverLimit-time.Since(began))
	close(ended)
	stop()
	s.background.Wait()
	s.upstreams.close()
}

func (s *server) summary() string {
	t := s.board.current.Load()
	if t.snapshot.Schema == 0 {
		return "Waiting for routes"
	}
	return fmt.Sprintf("Serving %d hosts, routes of generation %d", len(t.hosts), t.snapshot.Generation)
}

// finish lets requests end within grace and then cuts what is left.
func (s *server) finish(servers []*http.Server, grace time.Duration) {
	s.events.close()
	s.dismiss()
	s.end(servers, grace)
	s.background.Wait()
	s.upstreams.close()
}

// dismiss answers the requests that wait and ends websockets and streams of
// events, none of which would end by itself.
func (s *server) dismiss() {
	s.room.close()
	s.board.dismiss()
	s.nobody.dismiss()
}

func (s *server) end(servers []*http.Server, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var ends sync.WaitGroup
	for _, srv := range servers {
		ends.Go(func() {
			if srv.Shutdown(ctx) != nil {
				_ = srv.Close() // time is over: what is left is cut
			}
		})
	}
	ends.Wait()
	// Shutdown does not know of websockets.
	gone := make(chan struct{})
	go func() { s.requests.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-ctx.Done():
		s.dismiss()
		patience := time.NewTimer(farewellFor + time.Second)
		defer patience.Stop()
		select {
		case <-gone:
		case <-patience.C:
		}
	}
	s.cut()
	<-gone
}

func (s *server) publicServer(l listener) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(l.tls)
	srv := &http.Server{
		Handler:           s.handle(l),
		ReadHeaderTimeout: s.cfg.Limits.HeadTimeout,
		// Also the only end of a silent HTTP/2 connection. There is no
		// ReadTimeout and WriteTimeout: they would cut long uploads.
		IdleTimeout:    s.cfg.Limits.IdleTimeout,
		MaxHeaderBytes: max(64<<10, 2*s.cfg.Limits.Head),
		ErrorLog:       s.proxyLog,
		BaseContext:    func(net.Listener) context.Context { return s.base },
		ConnContext:    withGuest,
		Protocols:      protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 128, MaxReceiveBufferPerStream: h2Window, MaxReceiveBufferPerConnection: h2Window,
		},
		// "OPTIONS *" is not for us either.
		DisableGeneralOptionsHandler: true,
	}
	if l.tls {
		srv.TLSConfig = &tls.Config{
			MinVersion:       tls.VersionTLS12,
			VerifyConnection: s.greeted,
			GetCertificate:   s.keeper.GetCertificate,
			WrapSession:      s.tickets.Wrap,
			UnwrapSession:    s.tickets.Unwrap,
			NextProtos:       []string{"h2", "http/1.1", certs.ACMEProtocol},
			// For TLS 1.2: forward secrecy and AEAD alone.
			CipherSuites: []uint16{
				tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
				tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
			},
		}
		s.parting.configure(srv, s.leaving.Load)
	}
	return srv
}

// watch tells the watchdog that the proxy lives, each time after it has
// answered a request of its own over the control socket.
func (s *server) watch(ctx context.Context) {
	client := NewClient(s.cfg.Socket)
	defer client.close()
	tick := time.NewTicker(s.cfg.Watchdog / 2)
	defer tick.Stop()
	for {
		if client.Healthy(ctx) == nil {
			s.cfg.Notify("WATCHDOG=1\nSTATUS=" + s.summary())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// trouble is what is wrong at the moment, by topic.
type trouble struct {
	mu    sync.Mutex
	texts map[string]string
}

func (t *trouble) set(topic string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.texts, topic)
		return
	}
	if t.texts == nil {
		t.texts = map[string]string{}
	}
	t.texts[topic] = err.Error()
}

func (t *trouble) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for _, text := range t.texts {
		all = append(all, text)
	}
	return all
}
