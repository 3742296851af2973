package certs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

// rfc2136 edits a zone by dynamic updates (RFC 2136) signed with a TSIG key
// (RFC 8945), as BIND, Knot, PowerDNS and NSD's friends take them.
type rfc2136 struct {
	server, keyName, key, algorithm string
}

// tsigFudge is how far the clocks may be apart: RFC 8945 section 10 recommends
// 300 s.
const tsigFudge = 300

func newRFC2136(settings map[string]string) (zoneEditor, error) {
	r := &rfc2136{server: settings["server"], keyName: dns.CanonicalName(settings["key_name"]), key: settings["key"]}
	if _, _, err := net.SplitHostPort(r.server); err != nil {
		r.server = net.JoinHostPort(r.server, "53")
	}
	if _, err := base64.StdEncoding.DecodeString(r.key); err != nil {
		return nil, errors.New("the setting key is not base64") // the error would quote it
	}
	algorithms := map[string]string{
		"": dns.HmacSHA256, "hmac-sha256": dns.HmacSHA256, "hmac-sha384": dns.HmacSHA384,
		"hmac-sha512": dns.HmacSHA512, "hmac-sha224": dns.HmacSHA224, "hmac-sha1": dns.HmacSHA1,
	}
	var ok bool
	if r.algorithm, ok = algorithms[settings["key_algorithm"]]; !ok {
		return nil, fmt.Errorf("key_algorithm %q: hmac-sha256, hmac-sha384, hmac-sha512, hmac-sha224 or hmac-sha1", settings["key_algorithm"])
	}
	return r, nil
}

func (r *rfc2136) add(ctx context.Context, zone, name, value string) error {
	return r.update(ctx, zone, func(m *dns.Msg) { m.Insert([]dns.RR{txt(zone, name, value)}) })
}

func (r *rfc2136) remove(ctx context.Context, zone, name, value string) error {
	return r.update(ctx, zone, func(m *dns.Msg) { m.Remove([]dns.RR{txt(zone, name, value)}) })
}

func txt(zone, name, value string) dns.RR {
	return &dns.TXT{
		Hdr: dns.RR_Header{Name: dns.Fqdn(fqdn(name, zone)), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(dnsTTL / time.Second)},
		Txt: []string{value},
	}
}

func (r *rfc2136) update(ctx context.Context, zone string, fill func(*dns.Msg)) error {
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(zone))
	fill(m)
	m.SetTsig(r.keyName, r.algorithm, tsigFudge, time.Now().Unix())
	client := dns.Client{Net: "tcp", Timeout: dnsCallTime, TsigSecret: map[string]string{r.keyName: r.key}}
	answer, _, err := client.ExchangeContext(ctx, m, r.server)
	if err != nil {
		return fmt.Errorf("update of the zone %s at %s: %w", zone, r.server, err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		hint := ""
		switch answer.Rcode {
		case dns.RcodeNotAuth, dns.RcodeBadSig, dns.RcodeBadKey:
			hint = ": is the key right, and may it edit this zone?"
		case dns.RcodeBadTime:
			hint = ": the clocks are more than five minutes apart"
		case dns.RcodeNotZone, dns.RcodeRefused:
			hint = ": is this the primary server of the zone, and does it allow updates with this key?"
		}
		return fmt.Errorf("update of the zone %s at %s: %s%s", zone, r.server, dns.RcodeToString[answer.Rcode], hint)
	}
	return nil
}
