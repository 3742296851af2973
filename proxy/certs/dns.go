package certs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/libdns/libdns"

	"tarima/proxy/routes"
)

const (
	// dnsTTL of the records of a proof: as short as every provider allows.
	dnsTTL = 2 * time.Minute
	// dnsCallTime bounds one request to a provider.
	dnsCallTime = 30 * time.Second
)

// zoneEditor adds and removes values of TXT records. Other values under the
// same name stay: the proofs of example.org and *.example.org are both under
// _acme-challenge.example.org at the same time. zone has no dot at its end;
// name is relative to it, "@" for the zone itself.
type zoneEditor interface {
	add(ctx context.Context, zone, name, value string) error
	remove(ctx context.Context, zone, name, value string) error
}

// zoneEditors makes one from checked settings, by provider.
var zoneEditors = map[string]func(settings map[string]string) (zoneEditor, error){
	"cloudflare":   newCloudflare,
	"desec":        newDeSEC,
	"digitalocean": newDigitalOcean,
	"duckdns":      newDuckDNS,
	"gandi":        newGandi,
	"hetzner":      newHetzner,
	"linode":       newLinode,
	"ovh":          newOVH,
	"porkbun":      newPorkbun,
	"rfc2136":      newRFC2136,
	"vultr":        newVultr,
}

// provider offers a zoneEditor to certmagic. Changes go one at a time: some
// services know only how to replace all values of a name.
type provider struct {
	name   string
	editor zoneEditor
	turn   sync.Mutex
}

func newProvider(p routes.DNSProvider) (*provider, error) {
	if err := routes.CheckDNS(p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	settings := map[string]string{}
	for name, value := range p.Settings {
		settings[name] = strings.TrimSpace(string(value))
	}
	editor, err := zoneEditors[p.Name](settings)
	if err != nil {
		return nil, fmt.Errorf("%w: DNS provider %s: %w", ErrSource, p.Name, err)
	}
	return &provider{name: p.Name, editor: editor}, nil
}

// AppendRecords implements libdns.RecordAppender.
func (p *provider) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return p.each(ctx, zone, records, p.editor.add)
}

// DeleteRecords implements libdns.RecordDeleter.
func (p *provider) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return p.each(ctx, zone, records, p.editor.remove)
}

func (p *provider) each(ctx context.Context, zone string, records []libdns.Record, change func(ctx context.Context, zone, name, value string) error) ([]libdns.Record, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*dnsCallTime)
	defer cancel()
	for i, r := range records {
		rr := r.RR()
		if rr.Type != "TXT" {
			return records[:i], fmt.Errorf("%s: a record of type %s is not for a proof", p.name, rr.Type)
		}
		name := rr.Name
		if name == "" {
			name = "@"
		}
		if err := change(ctx, strings.TrimSuffix(zone, "."), name, rr.Data); err != nil {
			return records[:i], fmt.Errorf("DNS provider %s: %w", p.name, err)
		}
	}
	return records, nil
}

// fqdn of a name in a zone, without the dot at its end.
func fqdn(name, zone string) string {
	if name == "@" {
		return zone
	}
	return name + "." + zone
}

// quoted is a TXT value as zone files write it. The values of proofs need no
// escapes.
func quoted(value string) string { return `"` + value + `"` }

func unquoted(value string) string { return strings.Trim(value, `"`) }
