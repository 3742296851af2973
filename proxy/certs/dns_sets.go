package certs

import (
	"context"
	"crypto/sha1" //nolint:gosec // the signature that the service asks for
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The providers here know all values of a name as one set.

type hetzner struct{ *webAPI }

func newHetzner(settings map[string]string) (zoneEditor, error) {
	return &hetzner{bearer("https://api.hetzner.cloud/v1", settings["api_token"])}, nil
}

func (h *hetzner) add(ctx context.Context, zone, name, value string) error {
	return h.act(ctx, zone, name, "add_records", map[string]any{"ttl": ttlSeconds(time.Minute), "records": []any{map[string]string{"value": quoted(value)}}})
}

func (h *hetzner) remove(ctx context.Context, zone, name, value string) error {
	err := h.act(ctx, zone, name, "remove_records", map[string]any{"records": []any{map[string]string{"value": quoted(value)}}})
	return unlessMissing(err)
}

func (h *hetzner) act(ctx context.Context, zone, name, action string, body any) error {
	return h.call(ctx, http.MethodPost, "/zones/"+escape(zone)+"/rrsets/"+escape(name)+"/TXT/actions/"+action, body, nil)
}

// unlessMissing takes what is gone already for removed.
func unlessMissing(err error) error {
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusNotFound {
		return nil
	}
	return err
}

type gandi struct{ *webAPI }

func newGandi(settings map[string]string) (zoneEditor, error) {
	return &gandi{bearer("https://api.gandi.net/v5/livedns", settings["api_token"])}, nil
}

// values of a name.
func (g *gandi) values(ctx context.Context, path string) ([]string, error) {
	var answer struct {
		Values []string `json:"rrset_values"`
	}
	err := g.call(ctx, http.MethodGet, path, nil, &answer)
	return answer.Values, unlessMissing(err)
}

func (g *gandi) path(zone, name string) string {
	return "/domains/" + escape(zone) + "/records/" + escape(name) + "/TXT"
}

func (g *gandi) put(ctx context.Context, path string, values []string) error {
	return g.call(ctx, http.MethodPut, path, map[string]any{"rrset_values": values, "rrset_ttl": ttlSeconds(5 * time.Minute)}, nil)
}

func (g *gandi) add(ctx context.Context, zone, name, value string) error {
	path := g.path(zone, name)
	values, err := g.values(ctx, path)
	if err != nil {
		return err
	}
	return g.put(ctx, path, append(values, quoted(value)))
}

func (g *gandi) remove(ctx context.Context, zone, name, value string) error {
	path := g.path(zone, name)
	values, err := g.values(ctx, path)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return unquoted(v) == value })
	switch len(left) {
	case len(values):
		return nil
	case 0:
		return unlessMissing(g.call(ctx, http.MethodDelete, path, nil, nil))
	}
	return g.put(ctx, path, left)
}

// deSEC keeps records for an hour at least.
type deSEC struct{ *webAPI }

func newDeSEC(settings map[string]string) (zoneEditor, error) {
	token := settings["token"]
	return &deSEC{&webAPI{
		base: "https://desec.io/api/v1", client: dnsClient(),
		sign: func(r *http.Request, _ []byte) { r.Header.Set("Authorization", "Token "+token) },
	}}, nil
}

func (d *deSEC) values(ctx context.Context, zone, name string) ([]string, error) {
	var answer struct {
		Records []string `json:"records"`
	}
	err := d.call(ctx, http.MethodGet, "/domains/"+escape(zone)+"/rrsets/"+escape(name)+"/TXT/", nil, &answer)
	return answer.Records, unlessMissing(err)
}

// put all values of a name; none takes the name away.
func (d *deSEC) put(ctx context.Context, zone, name string, values []string) error {
	if name == "@" {
		name = ""
	}
	return d.call(ctx, http.MethodPut, "/domains/"+escape(zone)+"/rrsets/", []map[string]any{
		{"subname": name, "type": "TXT", "ttl": ttlSeconds(time.Hour), "records": values},
	}, nil)
}

func (d *deSEC) add(ctx context.Context, zone, name, value string) error {
	values, err := d.values(ctx, zone, name)
	if err != nil {
		return err
	}
	return d.put(ctx, zone, name, append(values, quoted(value)))
}

func (d *deSEC) remove(ctx context.Context, zone, name, value string) error {
	values, err := d.values(ctx, zone, name)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(append([]string{}, values...), func(v string) bool { return unquoted(v) == value })
	if len(left) == len(values) {
		return nil
	}
	return d.put(ctx, zone, name, left)
}

// duckDNS has one value for all of a subdomain.
type duckDNS struct {
	*webAPI
	token string

	mu    sync.Mutex
	value map[string]string // the one in place, by subdomain
}

func newDuckDNS(settings map[string]string) (zoneEditor, error) {
	return &duckDNS{
		webAPI: &webAPI{base: "https://www.duckdns.org", client: dnsClient()},
		token:  settings["token"], value: map[string]string{},
	}, nil
}

func (d *duckDNS) update(ctx context.Context, domain string, q url.Values) error {
	q.Set("domains", domain)
	q.Set("token", d.token)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+"/update?"+q.Encode(), nil)
	if err != nil {
		return errors.New("the address of the service is wrong") // the token is in it
	}
	response, err := d.client.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.URL.Host, withoutAddress(err))
	}
	defer func() { _ = response.Body.Close() }() // read only
	body, err := io.ReadAll(io.LimitReader(response.Body, 256))
	if err != nil {
		return fmt.Errorf("%s: %w", r.URL.Host, withoutAddress(err))
	}
	if !strings.HasPrefix(string(body), "OK") {
		return fmt.Errorf("%s does not take the update of %s: is it a subdomain of the account, and the token right?", r.URL.Host, domain)
	}
	return nil
}

// subdomain of the account: the label before duckdns.org.
func subdomain(name, zone string) string {
	full := strings.TrimSuffix(fqdn(name, zone), ".duckdns.org")
	return full[strings.LastIndex(full, ".")+1:]
}

func (d *duckDNS) add(ctx context.Context, zone, name, value string) error {
	domain := subdomain(name, zone)
	d.mu.Lock()
	defer d.mu.Unlock()
	if was, busy := d.value[domain]; busy && was != value {
		return fmt.Errorf("duckdns.org keeps one proof at a time for %s and another one is under way", domain)
	}
	if err := d.update(ctx, domain, url.Values{"txt": {value}}); err != nil {
		return err
	}
	d.value[domain] = value
	return nil
}

func (d *duckDNS) remove(ctx context.Context, zone, name, value string) error {
	domain := subdomain(name, zone)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.value[domain] != value {
		return nil
	}
	delete(d.value, domain)
	return d.update(ctx, domain, url.Values{"txt": {value}, "clear": {"true"}})
}

// ovh signs each request.
type ovh struct{ *webAPI }

func newOVH(settings map[string]string) (zoneEditor, error) {
	bases := map[string]string{
		"": "https://eu.api.ovh.com/1.0", "ovh-eu": "https://eu.api.ovh.com/1.0",
		"ovh-ca": "https://ca.api.ovh.com/1.0", "ovh-us": "https://api.us.ovhcloud.com/1.0",
	}
	base, ok := bases[settings["endpoint"]]
	if !ok {
		return nil, fmt.Errorf("endpoint %q: ovh-eu, ovh-ca or ovh-us", settings["endpoint"])
	}
	key, secret, consumer := settings["application_key"], settings["application_secret"], settings["consumer_key"]
	return &ovh{&webAPI{base: base, client: dnsClient(), sign: func(r *http.Request, body []byte) {
		now := strconv.FormatInt(time.Now().Unix(), 10)
		//nolint:gosec // the signature that the service asks for
		sum := sha1.Sum([]byte(strings.Join([]string{secret, consumer, r.Method, r.URL.String(), string(body), now}, "+")))
		r.Header.Set("X-Ovh-Application", key)
		r.Header.Set("X-Ovh-Consumer", consumer)
		r.Header.Set("X-Ovh-Timestamp", now)
		r.Header.Set("X-Ovh-Signature", "$1$"+hex.EncodeToString(sum[:]))
	}}}, nil
}

func (o *ovh) path(zone string) string { return "/domain/zone/" + escape(zone) }

func (o *ovh) refresh(ctx context.Context, zone string) error {
	return o.call(ctx, http.MethodPost, o.path(zone)+"/refresh", nil, nil)
}

func (o *ovh) add(ctx context.Context, zone, name, value string) error {
	if name == "@" {
		name = ""
	}
	if err := o.call(ctx, http.MethodPost, o.path(zone)+"/record", map[string]any{
		"fieldType": "TXT", "subDomain": name, "target": quoted(value), "ttl": ttlSeconds(time.Minute),
	}, nil); err != nil {
		return err
	}
	return o.refresh(ctx, zone)
}

func (o *ovh) remove(ctx context.Context, zone, name, value string) error {
	if name == "@" {
		name = ""
	}
	var ids []int64
	if err := o.call(ctx, http.MethodGet, o.path(zone)+"/record?fieldType=TXT&subDomain="+url.QueryEscape(name), nil, &ids); err != nil {
		return err
	}
	removed := false
	for _, id := range ids {
		path := o.path(zone) + "/record/" + strconv.FormatInt(id, 10)
		var record struct{ Target string }
		if err := o.call(ctx, http.MethodGet, path, nil, &record); err != nil {
			return err
		}
		if unquoted(record.Target) != value {
			continue
		}
		if err := o.call(ctx, http.MethodDelete, path, nil, nil); err != nil {
			return err
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return o.refresh(ctx, zone)
}
