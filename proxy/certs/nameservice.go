package certs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// lookupTime bounds one question to one name server.
const lookupTime = 3 * time.Second

// errNoSuchName: the name system says that the name does not exist.
var errNoSuchName = errors.New("no such name")

// nameService asks name servers directly. What a hosts file says is of no
// use here: an authority does not see it.
type nameService struct{ servers []string }

func newNameService(servers []string) nameService {
	if len(servers) > 0 {
		return nameService{servers}
	}
	config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nameService{}
	}
	for _, s := range config.Servers {
		if strings.Contains(s, ":") {
			s = "[" + s + "]"
		}
		servers = append(servers, s+":"+config.Port)
	}
	return nameService{servers}
}

// ask one question. The error is errNoSuchName, or says that nobody answered.
func (n nameService) ask(ctx context.Context, name string, kind uint16) ([]dns.RR, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	q.SetEdns0(1232, false)
	failure := errors.New("this server has no name server to ask (/etc/resolv.conf)")
	for _, server := range n.servers {
		var answer *dns.Msg
		for _, network := range []string{"udp", "tcp"} {
			var err error
			client := dns.Client{Net: network, Timeout: lookupTime}
			if answer, _, err = client.ExchangeContext(ctx, q, server); err != nil {
				failure = err
				answer = nil
				continue
			}
			if !answer.Truncated {
				break
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case answer == nil:
			continue
		case answer.Rcode == dns.RcodeSuccess:
			return answer.Answer, nil
		case answer.Rcode == dns.RcodeNameError:
			return nil, errNoSuchName
		}
		failure = fmt.Errorf("%s answers %s", server, dns.RcodeToString[answer.Rcode])
	}
	return nil, failure
}

// addresses of a name, IPv4 and IPv6.
func (n nameService) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		records, err := n.ask(ctx, name, kind)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			switch r := r.(type) {
			case *dns.A:
				if a, ok := netip.AddrFromSlice(r.A.To4()); ok {
					all = append(all, a)
				}
			case *dns.AAAA:
				if a, ok := netip.AddrFromSlice(r.AAAA.To16()); ok {
					all = append(all, a)
				}
			}
		}
	}
	return all, nil
}

// permission finds the CAA records that hold for a name: its own, or those of
// the nearest name above it that has some (RFC 8659 section 3).
func (n nameService) permission(ctx context.Context, name string) (at string, records []*dns.CAA, err error) {
	name = strings.TrimPrefix(name, "*.")
	for at = name; strings.Contains(at, "."); {
		answer, err := n.ask(ctx, at, dns.TypeCAA)
		if err != nil && !errors.Is(err, errNoSuchName) {
			return at, nil, err
		}
		for _, r := range answer {
			if c, ok := r.(*dns.CAA); ok {
				records = append(records, c)
			}
		}
		if len(records) > 0 {
			return at, records, nil
		}
		_, at, _ = strings.Cut(at, ".")
	}
	return "", nil, nil
}

// permits says whether CAA records let an authority with one of these names
// certify a name.
func permits(records []*dns.CAA, wildcard bool, identities []string) bool {
	tag := "issue"
	if wildcard {
		for _, c := range records {
			if strings.EqualFold(c.Tag, "issuewild") {
				tag = "issuewild" // it alone holds for wildcards, where there is one
			}
		}
	}
	restricted := false
	for _, c := range records {
		if strings.EqualFold(c.Tag, tag) {
			restricted = true
			issuer, _, _ := strings.Cut(c.Value, ";")
			for _, id := range identities {
				if strings.EqualFold(strings.TrimSpace(issuer), id) {
					return true
				}
			}
		}
	}
	return !restricted
}
