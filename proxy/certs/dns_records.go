package certs

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The providers here know each record by a number of its own.

type cloudflare struct{ *webAPI }

func newCloudflare(settings map[string]string) (zoneEditor, error) {
	return &cloudflare{bearer("https://api.cloudflare.com/client/v4", settings["api_token"])}, nil
}

func (c *cloudflare) zone(ctx context.Context, zone string) (string, error) {
	var answer struct {
		Result []struct {
			ID string `json:"id"`
		} `json:"result"`
	}
	if err := c.call(ctx, http.MethodGet, "/zones?name="+url.QueryEscape(zone), nil, &answer); err != nil {
		return "", err
	}
	if len(answer.Result) == 0 {
		return "", fmt.Errorf("the zone %s is not among those that the token may see", zone)
	}
	return "/zones/" + escape(answer.Result[0].ID) + "/dns_records", nil
}

func (c *cloudflare) add(ctx context.Context, zone, name, value string) error {
	path, err := c.zone(ctx, zone)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, map[string]any{
		"type": "TXT", "name": fqdn(name, zone), "content": quoted(value), "ttl": ttlSeconds(time.Minute),
	}, nil)
}

func (c *cloudflare) remove(ctx context.Context, zone, name, value string) error {
	path, err := c.zone(ctx, zone)
	if err != nil {
		return err
	}
	var answer struct {
		Result []struct{ ID, Content string } `json:"result"`
	}
	if err := c.call(ctx, http.MethodGet, path+"?type=TXT&per_page=100&name="+url.QueryEscape(fqdn(name, zone)), nil, &answer); err != nil {
		return err
	}
	for _, r := range answer.Result {
		if unquoted(r.Content) == value {
			if err := c.call(ctx, http.MethodDelete, path+"/"+escape(r.ID), nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

type digitalOcean struct{ *webAPI }

func newDigitalOcean(settings map[string]string) (zoneEditor, error) {
	return &digitalOcean{bearer("https://api.digitalocean.com/v2", settings["api_token"])}, nil
}

func (d *digitalOcean) add(ctx context.Context, zone, name, value string) error {
	return d.call(ctx, http.MethodPost, "/domains/"+escape(zone)+"/records", map[string]any{
		"type": "TXT", "name": name, "data": value, "ttl": ttlSeconds(30 * time.Second),
	}, nil)
}

func (d *digitalOcean) remove(ctx context.Context, zone, name, value string) error {
	path := "/domains/" + escape(zone) + "/records"
	var answer struct {
		Records []struct {
			ID         int64  `json:"id"`
			Type, Data string // by their lower-case names
		} `json:"domain_records"`
	}
	if err := d.call(ctx, http.MethodGet, path+"?type=TXT&per_page=200&name="+url.QueryEscape(fqdn(name, zone)), nil, &answer); err != nil {
		return err
	}
	for _, r := range answer.Records {
		if r.Type == "TXT" && unquoted(r.Data) == value {
			if err := d.call(ctx, http.MethodDelete, path+"/"+strconv.FormatInt(r.ID, 10), nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

type linode struct{ *webAPI }

func newLinode(settings map[string]string) (zoneEditor, error) {
	return &linode{bearer("https://api.linode.com/v4", settings["api_token"])}, nil
}

func (l *linode) zone(ctx context.Context, zone string) (string, error) {
	for page, pages := 1, 1; page <= pages && page <= 100; page++ {
		var answer struct {
			Data []struct {
				ID     int64  `json:"id"`
				Domain string `json:"domain"`
			} `json:"data"`
			Pages int `json:"pages"`
		}
		if err := l.call(ctx, http.MethodGet, fmt.Sprintf("/domains?page_size=500&page=%d", page), nil, &answer); err != nil {
			return "", err
		}
		pages = answer.Pages
		for _, d := range answer.Data {
			if d.Domain == zone {
				return fmt.Sprintf("/domains/%d/records", d.ID), nil
			}
		}
	}
	return "", fmt.Errorf("the zone %s is not among those that the token may see", zone)
}

func (l *linode) add(ctx context.Context, zone, name, value string) error {
	path, err := l.zone(ctx, zone)
	if err != nil {
		return err
	}
	if name == "@" {
		name = ""
	}
	return l.call(ctx, http.MethodPost, path, map[string]any{
		"type": "TXT", "name": name, "target": value, "ttl_sec": ttlSeconds(5 * time.Minute),
	}, nil)
}

func (l *linode) remove(ctx context.Context, zone, name, value string) error {
	path, err := l.zone(ctx, zone)
	if err != nil {
		return err
	}
	if name == "@" {
		name = ""
	}
	var found []int64
	for page, pages := 1, 1; page <= pages && page <= 100; page++ {
		var answer struct {
			Data []struct {
				ID                 int64 `json:"id"`
				Type, Name, Target string
			} `json:"data"`
			Pages int `json:"pages"`
		}
		if err := l.call(ctx, http.MethodGet, fmt.Sprintf("%s?page_size=500&page=%d", path, page), nil, &answer); err != nil {
			return err
		}
		pages = answer.Pages
		for _, r := range answer.Data {
			if r.Type == "TXT" && r.Name == name && unquoted(r.Target) == value {
				found = append(found, r.ID)
			}
		}
	}
	for _, id := range found {
		if err := l.call(ctx, http.MethodDelete, fmt.Sprintf("%s/%d", path, id), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

type vultr struct{ *webAPI }

func newVultr(settings map[string]string) (zoneEditor, error) {
	return &vultr{bearer("https://api.vultr.com/v2", settings["api_token"])}, nil
}

func (v *vultr) add(ctx context.Context, zone, name, value string) error {
	if name == "@" {
		name = ""
	}
	return v.call(ctx, http.MethodPost, "/domains/"+escape(zone)+"/records", map[string]any{
		"type": "TXT", "name": name, "data": quoted(value), "ttl": ttlSeconds(2 * time.Minute),
	}, nil)
}

func (v *vultr) remove(ctx context.Context, zone, name, value string) error {
	if name == "@" {
		name = ""
	}
	path := "/domains/" + escape(zone) + "/records"
	var found []string
	cursor := ""
	for range 100 {
		var answer struct {
			Records []struct{ ID, Type, Name, Data string } `json:"records"`
			Meta    struct {
				Links struct{ Next string } `json:"links"`
			} `json:"meta"`
		}
		if err := v.call(ctx, http.MethodGet, path+"?per_page=500&cursor="+url.QueryEscape(cursor), nil, &answer); err != nil {
			return err
		}
		for _, r := range answer.Records {
			if r.Type == "TXT" && r.Name == name && unquoted(r.Data) == value {
				found = append(found, r.ID)
			}
		}
		if cursor = answer.Meta.Links.Next; cursor == "" {
			break
		}
	}
	for _, id := range found {
		if err := v.call(ctx, http.MethodDelete, path+"/"+escape(id), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// porkbun takes its keys in the body of each request.
type porkbun struct {
	*webAPI
	key, secret string
}

func newPorkbun(settings map[string]string) (zoneEditor, error) {
	return &porkbun{&webAPI{
		base: "https://api.porkbun.com/api/json/v3", client: dnsClient(), sign: func(*http.Request, []byte) {},
	}, settings["api_key"], settings["secret_api_key"]}, nil
}

func (p *porkbun) ask(ctx context.Context, path string, in map[string]string, out any) error {
	body := map[string]string{"apikey": p.key, "secretapikey": p.secret}
	for k, v := range in {
		body[k] = v
	}
	return p.call(ctx, http.MethodPost, path, body, out)
}

func (p *porkbun) add(ctx context.Context, zone, name, value string) error {
	if name == "@" {
		name = ""
	}
	return p.ask(ctx, "/dns/create/"+escape(zone), map[string]string{
		"type": "TXT", "name": name, "content": value, "ttl": strconv.Itoa(ttlSeconds(10 * time.Minute)),
	}, nil)
}

func (p *porkbun) remove(ctx context.Context, zone, name, value string) error {
	path := "/dns/retrieveByNameType/" + escape(zone) + "/TXT"
	if name != "@" {
		path += "/" + escape(name)
	}
	var answer struct {
		Records []struct{ ID, Content string } `json:"records"`
	}
	if err := p.ask(ctx, path, nil, &answer); err != nil {
		return err
	}
	for _, r := range answer.Records {
		if unquoted(r.Content) == value {
			if err := p.ask(ctx, "/dns/delete/"+escape(zone)+"/"+escape(r.ID), nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
