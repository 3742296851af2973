package certs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"tarima/proxy/routes"
)

// Codes of what a check finds. They do not change their meaning.
const (
	FindGood        = "good"         // nothing is in the way
	FindNoName      = "no-name"      // the name does not exist
	FindNoAddress   = "no-address"   // the name has no address
	FindNoAnswer    = "no-answer"    // no name server answers
	FindPrivate     = "private"      // an address that is not of the internet
	FindForeign     = "foreign"      // an address that is on no interface of this server
	FindRefused     = "port-refused" // the port does not answer on an address of this server
	FindUnreachable = "port-silent"  // the port does not answer on another address
	FindStranger    = "port-other"   // somebody else answers there
	FindCAA         = "caa"          // another authority alone may certify the name
	FindClockOff    = "clock-off"    // the clock is a little wrong
	FindClockWrong  = "clock-wrong"  // the clock is so wrong that certificates would not hold
	FindAuthority   = "authority"    // the authority does not answer
	FindLocalName   = "local-name"   // no public authority certifies such a name
	FindOwn         = "own"          // the certificate is the administrator's own: nothing to prove
)

// Bounds of a clock's error: Let's Encrypt dates certificates back by an hour.
const (
	clockOff   = 5 * time.Minute
	clockWrong = time.Hour
)

// checkPath is where a check asks itself, followed by a one-time token.
const checkPath = "/.well-known/tarima/"

// tokens are one-time questions of this server to itself, to see whether it is
// the one who answers under a name.
type tokens struct {
	mu    sync.Mutex
	reply map[string]string
}

func (t *tokens) make() (token, reply string) {
	token, reply = rand.Text(), rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reply == nil {
		t.reply = map[string]string{}
	}
	t.reply[token] = reply
	return token, reply
}

func (t *tokens) drop(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.reply, token)
}

func (t *tokens) answer(w http.ResponseWriter, r *http.Request) bool {
	token, ok := strings.CutPrefix(r.URL.Path, checkPath)
	if !ok {
		return false
	}
	t.mu.Lock()
	reply, ok := t.reply[token]
	t.mu.Unlock()
	if !ok {
		return false
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, reply) // the asker is this server
	return true
}

// Check looks at everything that an order of a certificate for a name needs:
// its addresses, the way to this server, who may certify it, the clock. It
// orders nothing. The first finding is of level ok when nothing is in the way.
func (k *Keeper) Check(ctx context.Context, name string) ([]routes.CertificateFinding, error) {
	if err := k.mustKnow(name); err != nil {
		return nil, err
	}
	if _, c, _ := k.own.find(name); c != nil {
		return []routes.CertificateFinding{finding(name, routes.FindingOK, FindOwn, "the certificate is your own; there is nothing to prove")}, nil
	}
	k.mu.RLock()
	source := k.source
	k.mu.RUnlock()
	if source.Mode != ModeACME {
		return []routes.CertificateFinding{finding(name, routes.FindingOK, FindGood, "nothing is asked of a public authority")}, nil
	}
	return k.preflight(ctx, name, source), nil
}

// doubt is the error of a check that found that an order cannot succeed.
func (k *Keeper) doubt(ctx context.Context, name string) error {
	findings, err := k.Check(ctx, name)
	if err != nil {
		return nil // the name is about to go
	}
	for _, f := range findings {
		if f.Level == routes.FindingError {
			return &doubtError{f}
		}
	}
	return nil
}

// doubtError is what speaks against an order before it is sent.
type doubtError struct{ finding routes.CertificateFinding }

func (e *doubtError) Error() string { return e.finding.Text }

// problem is what the authority would have called it (RFC 8555 section 6.7).
func (e *doubtError) problem() string {
	switch e.finding.Code {
	case FindNoName, FindNoAddress, FindNoAnswer:
		return "dns"
	case FindRefused, FindUnreachable, FindStranger:
		return "connection"
	case FindCAA:
		return "caa"
	}
	return ""
}

func finding(name, level, code, text string, args ...string) routes.CertificateFinding {
	f := routes.CertificateFinding{Name: name, Level: level, Code: code, Text: text}
	for i := 0; i+1 < len(args); i += 2 {
		if f.Args == nil {
			f.Args = map[string]string{}
		}
		f.Args[args[i]] = args[i+1]
		f.Text = strings.ReplaceAll(f.Text, "{"+args[i]+"}", args[i+1])
	}
	return f
}

func (k *Keeper) preflight(ctx context.Context, name string, source routes.TLS) []routes.CertificateFinding {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	names := newNameService(k.cfg.Nameservers)
	var mu sync.Mutex
	var all []routes.CertificateFinding
	add := func(found ...routes.CertificateFinding) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, found...)
	}
	var both sync.WaitGroup
	if source.DNS == nil {
		// A proof in the zone needs no way to this server.
		both.Go(func() { add(k.checkWay(ctx, names, name)...) })
	}
	both.Go(func() { add(k.checkAuthority(ctx, names, name, authorities(source)[0].Directory)...) })
	both.Wait()
	rank := map[string]int{routes.FindingError: 0, routes.FindingWarning: 1, routes.FindingOK: 2}
	slices.SortStableFunc(all, func(a, b routes.CertificateFinding) int {
		if c := rank[a.Level] - rank[b.Level]; c != 0 {
			return c
		}
		return strings.Compare(a.Code, b.Code)
	})
	if len(all) == 0 || all[0].Level != routes.FindingError {
		good := finding(name, routes.FindingOK, FindGood, "nothing is in the way of a certificate for {Name}", "Name", name)
		all = append([]routes.CertificateFinding{good}, all...)
	}
	return all
}

// checkWay looks at the addresses of a name and at who answers there.
func (k *Keeper) checkWay(ctx context.Context, names nameService, name string) []routes.CertificateFinding {
	var addresses []netip.Addr
	if a, err := netip.ParseAddr(name); err == nil {
		addresses = []netip.Addr{a}
	} else if !strings.Contains(name, ".") {
		return []routes.CertificateFinding{finding(name, routes.FindingError, FindLocalName,
			"{Name} is a name of this network alone, which no public authority certifies", "Name", name)}
	} else {
		addresses, err = names.addresses(ctx, name)
		switch {
		case errors.Is(err, errNoSuchName):
			return []routes.CertificateFinding{finding(name, routes.FindingError, FindNoName,
				"the name {Name} does not exist: add it where your domain's DNS records are kept, as an A record with this server's address", "Name", name)}
		case err != nil:
			return []routes.CertificateFinding{finding(name, routes.FindingWarning, FindNoAnswer,
				"no name server could be asked for {Name}: {Error}", "Name", name, "Error", shorten(err.Error()))}
		case len(addresses) == 0:
			return []routes.CertificateFinding{finding(name, routes.FindingError, FindNoAddress,
				"the name {Name} has no address: add an A record with this server's address where your domain's DNS records are kept", "Name", name)}
		}
	}
	here := hereAddresses()
	var all []routes.CertificateFinding
	for _, a := range addresses {
		mine := slices.Contains(here, a)
		switch {
		case a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified():
			all = append(all, finding(name, routes.FindingWarning, FindPrivate,
				"the address {Address} of {Name} is not one of the internet; a public authority cannot come here by it", "Address", a.String(), "Name", name))
		case !mine:
			all = append(all, finding(name, routes.FindingWarning, FindForeign,
				"the address {Address} of {Name} is on no interface of this server; that is right behind a router or load balancer, and wrong otherwise",
				"Address", a.String(), "Name", name))
		}
		if k.cfg.HTTPPort != 0 {
			all = append(all, k.checkPort(ctx, name, a, mine)...)
		}
	}
	return all
}

// hereAddresses are those of this server's interfaces.
func hereAddresses() []netip.Addr {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for _, f := range found {
		if p, err := netip.ParsePrefix(f.String()); err == nil {
			all = append(all, p.Addr().Unmap())
		}
	}
	return all
}

// checkPort asks for a token of our own at an address of a name.
func (k *Keeper) checkPort(ctx context.Context, name string, address netip.Addr, mine bool) []routes.CertificateFinding {
	port := k.cfg.PublicHTTPPort
	if port == 0 {
		port = 80
	}
	where := netip.AddrPortFrom(address, uint16(port)).String()
	args := []string{"Address", where, "Name", name}
	token, reply := k.tokens.make()
	defer k.tokens.drop(token)
	dialer := net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", where) },
		DisableKeepAlives: true,
	}
	client := http.Client{
		Transport: transport, Timeout: 8 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	host := name
	if port != 80 {
		host = net.JoinHostPort(name, strconv.Itoa(port))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+checkPath+token, nil)
	if err != nil {
		return nil // the name is no host name: the authority will say so
	}
	response, err := client.Do(request)
	if err != nil {
		args = append(args, "Error", shorten(cause(err).Error()))
		if mine {
			return []routes.CertificateFinding{finding(name, routes.FindingError, FindRefused,
				"nothing answers at {Address}, the address of {Name}, although it is this server's: {Error}", args...)}
		}
		return []routes.CertificateFinding{finding(name, routes.FindingWarning, FindUnreachable,
			"from here nothing answers at {Address}, the address of {Name}: {Error}. Open that port in the firewall of your provider; some routers do not let a server reach itself, then this means nothing", args...)}
	}
	defer func() { _ = response.Body.Close() }() // read only
	body, err := io.ReadAll(io.LimitReader(response.Body, 256))
	if err == nil && string(body) == reply {
		return nil
	}
	return []routes.CertificateFinding{finding(name, routes.FindingWarning, FindStranger,
		"at {Address}, the address of {Name}, another server answers ({Status}): the record may be an old one", append(args, "Status", shorten(response.Status))...)}
}

// cause of a failed request, without its address, which is said already.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

// directory is what is read of an authority's directory (RFC 8555 section 7.1.1).
type directory struct {
	Meta struct {
		CAAIdentities []string `json:"caaIdentities"`
	} `json:"meta"`
}

// checkAuthority looks at the authority: whether it answers, what its clock
// says, and whether it may certify the name.
func (k *Keeper) checkAuthority(ctx context.Context, names nameService, name, address string) []routes.CertificateFinding {
	d, date, err := k.readDirectory(ctx, address)
	if err != nil {
		return []routes.CertificateFinding{finding(name, routes.FindingWarning, FindAuthority,
			"the authority does not answer: {Error}", "Error", shorten(err.Error()))}
	}
	var all []routes.CertificateFinding
	if !date.IsZero() {
		off := time.Since(date)
		text := off.Abs().Round(time.Second).String()
		switch {
		case off.Abs() > clockWrong:
			all = append(all, finding(name, routes.FindingError, FindClockWrong,
				"this server's clock is wrong by {Off}: set it (timedatectl set-ntp true), or no certificate holds", "Off", text))
		case off.Abs() > clockOff:
			all = append(all, finding(name, routes.FindingWarning, FindClockOff,
				"this server's clock is wrong by {Off}: set it (timedatectl set-ntp true)", "Off", text))
		}
	}
	if _, err := netip.ParseAddr(name); err == nil || len(d.Meta.CAAIdentities) == 0 {
		return all // CAA is for names, and an authority that does not say who it is cannot be found in it
	}
	at, records, err := names.permission(ctx, name)
	if err != nil {
		return append(all, finding(name, routes.FindingWarning, FindNoAnswer,
			"no name server could be asked who may certify {Name}: {Error}", "Name", name, "Error", shorten(err.Error())))
	}
	if !permits(records, strings.HasPrefix(name, "*."), d.Meta.CAAIdentities) {
		all = append(all, finding(name, routes.FindingError, FindCAA,
			"the CAA records of {At} ({Records}) do not let this authority certify {Name}: add one for {Authority}",
			"At", at, "Records", caaText(records), "Name", name, "Authority", d.Meta.CAAIdentities[0]))
	}
	return all
}

func caaText(records []*dns.CAA) string {
	texts := make([]string, len(records))
	for i, c := range records {
		texts[i] = shorten(c.Tag + " " + c.Value)
	}
	return strings.Join(texts, ", ")
}

// readDirectory returns an authority's directory and the time by its clock.
func (k *Keeper) readDirectory(ctx context.Context, address string) (d directory, date time.Time, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return d, date, err
	}
	// The certificate of the authority is checked at its own time: a clock
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   &tls.Config{RootCAs: k.cfg.Roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	response, err := client.Do(request)
	var invalid *tls.CertificateVerificationError
	if errors.As(err, &invalid) && len(invalid.UnverifiedCertificates) > 0 {
		// A clock that is wrong by years looks like a wrong certificate.
		c := invalid.UnverifiedCertificates[0]
		switch now := time.Now(); {
		case now.Before(c.NotBefore):
			return d, c.NotBefore, nil
		case now.After(c.NotAfter):
			return d, c.NotAfter, nil
		}
	}
	if err != nil {
		return d, date, cause(err)
	}
	defer func() { _ = response.Body.Close() }() // read only
	if response.StatusCode != http.StatusOK {
		return d, date, fmt.Errorf("%s answers %s", request.URL.Host, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return d, date, err
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return d, date, fmt.Errorf("%s: not an ACME directory: %w", request.URL.Host, err)
	}
	if date, err = http.ParseTime(response.Header.Get("Date")); err != nil {
		return d, time.Time{}, nil // it says no time
	}
	return d, date, nil
}
