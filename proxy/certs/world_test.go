package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"tarima/proxy/routes"
)

// Of the zone that the tests' name server lets be edited.
const (
	tsigName = "proofs."
	tsigKey  = "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
)

// zone is a small name server: one zone, edited by RFC 2136 with a TSIG key.
// Names without records of their own are at 127.0.0.1.
type zone struct {
	address string
	apex    string

	mu      sync.Mutex
	txt     map[string][]string
	a       map[string][]string
	aaaa    map[string][]string
	caa     map[string][]string // "tag value"
	missing map[string]bool
	silent  bool
	added   []string // values of TXT, all that ever were
}

func newZone(t *testing.T, apex string) *zone {
	t.Helper()
	z := &zone{
		apex: apex, txt: map[string][]string{}, a: map[string][]string{}, aaaa: map[string][]string{},
		caa: map[string][]string{}, missing: map[string]bool{},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	z.address = l.Addr().String()
	keys := map[string]string{tsigName: tsigKey}
	for _, s := range []*dns.Server{
		{Listener: l, Handler: z, TsigSecret: keys, MsgAcceptFunc: acceptUpdates},
		{PacketConn: packets, Handler: z, TsigSecret: keys, MsgAcceptFunc: acceptUpdates},
	} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return z
}

// acceptUpdates: the library's own filter refuses RFC 2136.
func acceptUpdates(h dns.Header) dns.MsgAcceptAction {
	if opcode := int(h.Bits>>11) & 0xF; opcode == dns.OpcodeUpdate {
		return dns.MsgAccept
	}
	return dns.DefaultMsgAcceptFunc(h)
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	defer func() { _ = w.WriteMsg(m) }()
	if q.Opcode == dns.OpcodeUpdate {
		m.Rcode = z.update(w, q)
		if t := q.IsTsig(); t != nil {
			m.SetTsig(t.Hdr.Name, t.Algorithm, 300, time.Now().Unix())
		}
		return
	}
	if z.silent {
		m.Rcode = dns.RcodeServerFailure
		return
	}
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	add := func(text string) {
		r, err := dns.NewRR(question.Name + " 1 IN " + text)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, r)
	}
	switch {
	case z.missing[name]:
		m.Rcode = dns.RcodeNameError
	case question.Qtype == dns.TypeSOA && name == z.apex:
		add("SOA ns." + z.apex + ". host." + z.apex + ". 1 2 3 4 5")
	case question.Qtype == dns.TypeTXT:
		for _, v := range z.txt[name] {
			add(`TXT "` + v + `"`)
		}
	case question.Qtype == dns.TypeCAA:
		for _, v := range z.caa[name] {
			tag, value, _ := strings.Cut(v, " ")
			add("CAA 0 " + tag + ` "` + value + `"`)
		}
	case question.Qtype == dns.TypeA:
		addresses, own := z.a[name]
		if !own {
			addresses = []string{"127.0.0.1"}
		}
		for _, a := range addresses {
			add("A " + a)
		}
	case question.Qtype == dns.TypeAAAA:
		for _, a := range z.aaaa[name] {
			add("AAAA " + a)
		}
	}
}

func (z *zone) update(w dns.ResponseWriter, q *dns.Msg) int {
	switch {
	case q.IsTsig() == nil || w.TsigStatus() != nil:
		return dns.RcodeNotAuth
	case q.Question[0].Name != z.apex+".":
		return dns.RcodeNotZone
	}
	for _, r := range q.Ns {
		t, ok := r.(*dns.TXT)
		if !ok {
			return dns.RcodeRefused
		}
		name, value := strings.TrimSuffix(t.Hdr.Name, "."), strings.Join(t.Txt, "")
		switch t.Hdr.Class {
		case dns.ClassINET:
			z.txt[name] = append(z.txt[name], value)
			z.added = append(z.added, value)
		case dns.ClassNONE:
			z.txt[name] = slices.DeleteFunc(z.txt[name], func(v string) bool { return v == value })
		default:
			return dns.RcodeRefused // a whole set: other values would go with it
		}
	}
	return dns.RcodeSuccess
}

func (z *zone) set(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

// pebble is a real ACME authority.
type pebble struct {
	directory      string
	itself, issued *x509.CertPool
	server         *httptest.Server

	mu sync.Mutex
	// before may answer a request in the authority's place.
	before func(w http.ResponseWriter, r *http.Request) bool
	asked  map[string]int // requests by path, without what comes after the second "/"
}

func (p *pebble) intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = f
}

// orders that were sent.
func (p *pebble) orders() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked["order-plz"]
}

// impatient drops the second that the authority wants to be left alone between
// two looks at an order.
type impatient struct{ http.ResponseWriter }

func (i impatient) WriteHeader(status int) {
	if status < 300 && i.Header().Get("Retry-After") == "1" {
		i.Header().Del("Retry-After")
	}
	i.ResponseWriter.WriteHeader(status)
}

func (i impatient) Write(p []byte) (int, error) {
	if i.Header().Get("Retry-After") == "1" {
		i.Header().Del("Retry-After")
	}
	return i.ResponseWriter.Write(p)
}

type pebbleOptions struct {
	accounts map[string]string // external ones, by key id; nil: none is needed
}

func newPebble(t *testing.T, httpPort, tlsPort int, names *zone, options pebbleOptions) *pebble {
	t.Helper()
	return startPebble(t, httpPort, tlsPort, names, options)
}

func startPebble(t *testing.T, httpPort, tlsPort int, names *zone, options pebbleOptions) *pebble {
	t.Helper()
	logger := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	for id, key := range options.accounts {
		if err := store.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	authority := ca.New(logger, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	validator := va.New(logger, httpPort, tlsPort, true, names.address, store)
	front := wfe.New(logger, store, validator, authority, []string{"pebble.test"}, true, options.accounts != nil, 1, 1)
	handler := front.Handler()
	p := &pebble{asked: map[string]int{}}
	p.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		p.asked[first]++
		before := p.before
		p.mu.Unlock()
		if before == nil || !before(w, r) {
			handler.ServeHTTP(impatient{w}, r)
		}
	}))
	t.Cleanup(p.server.Close)
	p.directory = p.server.URL + wfe.DirectoryPath
	p.itself, p.issued = x509.NewCertPool(), x509.NewCertPool()
	p.itself.AddCert(p.server.Certificate())
	p.issued.AddCert(authority.GetRootCert(0).Cert)
	return p
}

// house is a Keeper behind real listeners.
type house struct {
	t           *testing.T
	lms         string // a name, for tests that run beside others
	keeper      *Keeper
	config      Config
	http, https string
	logs        *tape
	open        func()
}

// tape keeps what is said.
type tape struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *tape) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *tape) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// door is a listener whose keeper may change.
type door struct {
	mu     sync.Mutex
	keeper *Keeper
}

func (d *door) get() *Keeper {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keeper
}

func newHouse(t *testing.T, names *zone) *house {
	t.Helper()
	h := &house{t: t, logs: &tape{}}
	var d door
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		if k := d.get(); k == nil || !k.Challenge(w, r, host) {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	secure.TLS = &tls.Config{
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return d.get().GetCertificate(hello) },
		NextProtos:     []string{"http/1.1", ACMEProtocol},
	}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	// StartTLS puts its own certificate in, which would be asked first.
	l := tls.NewListener(secure.Listener, secure.TLS)
	go func() { _ = secure.Config.Serve(l) }()
	t.Cleanup(func() { _ = secure.Config.Close() })
	h.http, h.https = plain.Listener.Addr().String(), secure.Listener.Addr().String()
	h.config = Config{
		Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(h.logs, nil)), Changed: func(State) {},
		HTTPPort: portOf(t, h.http), HTTPSPort: portOf(t, h.https), PublicHTTPPort: portOf(t, h.http),
	}
	if names != nil {
		h.config.Nameservers = []string{names.address}
	}
	t.Cleanup(func() {
		h.close()
		if t.Failed() {
			t.Logf("log:\n%s", h.logs)
		}
	})
	h.open = func() {
		t.Helper()
		k, err := Open(h.config)
		if err != nil {
			t.Fatal(err)
		}
		h.keeper = k
		d.mu.Lock()
		d.keeper = k
		d.mu.Unlock()
	}
	return h
}

func (h *house) close() {
	if h.keeper != nil {
		h.keeper.Close()
		h.keeper = nil
	}
}

// again closes the Keeper and opens another one on the same folder.
func (h *house) again() {
	h.t.Helper()
	h.close()
	h.open()
}

func (h *house) state(name string) State {
	for _, s := range h.keeper.States() {
		if s.Name == name {
			return s
		}
	}
	return State{}
}

func (h *house) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited in vain for %s; states: %+v", what, h.keeper.States())
		}
		<-time.After(5 * time.Millisecond)
	}
}

// phase waits until a name is in a phase.
func (h *house) phase(name string, p Phase) State {
	h.t.Helper()
	h.until(name+" "+string(p), func() bool { return h.state(name).Phase == p })
	return h.state(name)
}

// shown is the certificate that a visitor gets, checked against the roots.
func (h *house) shown(name string, roots *x509.CertPool) *x509.Certificate {
	h.t.Helper()
	c, err := tls.Dial("tcp", h.https, &tls.Config{RootCAs: roots, ServerName: name})
	if err != nil {
		h.t.Fatalf("%s: %v", name, err)
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0]
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

// one authority and one house, whose challenges the authority can reach.
func oneAuthority(t *testing.T, apex string, options pebbleOptions) (*house, *pebble, *zone) {
	t.Helper()
	z := newZone(t, apex)
	h := newHouse(t, z)
	p := newPebble(t, h.config.HTTPPort, h.config.HTTPSPort, z, options)
	h.config.Roots = p.itself
	h.open()
	return h, p, z
}

func acmeAt(p *pebble) routes.TLS {
	return routes.TLS{Mode: ModeACME, Email: "ana@escuela.test", Directory: p.directory}
}

// problem answers as an ACME authority refuses.
func problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:`+kind+`","detail":"`+detail+`"}`)
}

func isOrder(r *http.Request) bool { return r.URL.Path == "/order-plz" }

func both(pools ...*pebble) *x509.CertPool {
	all := x509.NewCertPool()
	for _, p := range pools {
		all.AddCert(p.server.Certificate())
	}
	return all
}

type (
	x509Pool = x509.CertPool
	conn     = net.Conn
)

func dialTLS(ctx context.Context, network, address, name string, roots *x509.CertPool) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name}}
	return d.DialContext(ctx, network, address)
}
