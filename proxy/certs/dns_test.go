package certs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libdns/libdns"

	"tarima/proxy/routes"
)

// record is a TXT record of the imitated services.
type record struct {
	id          int
	name, value string // value without quotes
}

// service imitates the providers' own interfaces as far as proofs need them,
// after their public descriptions. One zone, school.test.
type service struct {
	t  *testing.T
	mu sync.Mutex

	records []record
	last    int
	auth    []string
	fail    bool
}

const imitated = "school.test"

func (s *service) put(name, value string) record {
	s.last++
	r := record{s.last, name, value}
	s.records = append(s.records, r)
	return r
}

func (s *service) of(name string) []string {
	var all []string
	for _, r := range s.records {
		if r.name == name {
			all = append(all, r.value)
		}
	}
	return all
}

func (s *service) drop(match func(record) bool) { s.records = slices.DeleteFunc(s.records, match) }

func text(v any) string { t, _ := v.(string); return t }

// relative name of one within the zone.
func relative(name string) string {
	if name == imitated || name == "" {
		return "@"
	}
	return strings.TrimSuffix(name, "."+imitated)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	data, _ := io.ReadAll(r.Body)
	var body map[string]any
	_ = json.Unmarshal(data, &body)
	if s.fail {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"message":"the token may not do that","errors":[{"message":"more"}]}`)
		return
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	service, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	path = "/" + path
	id := 0
	if i := strings.LastIndex(path, "/"); i >= 0 {
		_, _ = fmt.Sscan(path[i+1:], &id)
	}
	query := r.URL.Query()
	remove := func() { s.drop(func(r record) bool { return r.id == id }); w.WriteHeader(http.StatusNoContent) }
	switch service + " " + r.Method {
	case "cloudflare GET":
		if path == "/zones" {
			answer(map[string]any{"result": []any{map[string]any{"id": "z1"}}})
			return
		}
		var found []any
		for _, rec := range s.records {
			if rec.name == relative(query.Get("name")) {
				found = append(found, map[string]any{"id": fmt.Sprint(rec.id), "content": quoted(rec.value)})
			}
		}
		answer(map[string]any{"result": found})
	case "cloudflare POST":
		s.put(relative(text(body["name"])), unquoted(text(body["content"])))
		answer(body)
	case "cloudflare DELETE", "digitalocean DELETE", "linode DELETE", "vultr DELETE", "ovh DELETE":
		remove()
	case "digitalocean GET":
		var found []any
		for _, rec := range s.records {
			if rec.name == relative(query.Get("name")) {
				found = append(found, map[string]any{"id": rec.id, "type": "TXT", "data": rec.value})
			}
		}
		answer(map[string]any{"domain_records": found})
	case "digitalocean POST":
		s.put(text(body["name"]), text(body["data"]))
		answer(body)
	case "linode GET":
		if path == "/domains" {
			answer(map[string]any{"pages": 1, "data": []any{map[string]any{"id": 5, "domain": "other.test"}, map[string]any{"id": 7, "domain": imitated}}})
			return
		}
		if path != "/domains/7/records" {
			s.t.Errorf("path %s", path)
		}
		var found []any
		for _, rec := range s.records {
			found = append(found, map[string]any{"id": rec.id, "type": "TXT", "name": strings.Replace(rec.name, "@", "", 1), "target": rec.value})
		}
		answer(map[string]any{"pages": 1, "data": found})
	case "linode POST":
		s.put(relative(text(body["name"])), text(body["target"]))
		answer(body)
	case "vultr GET":
		// One record a page, to see that all pages are read.
		next := 0
		_, _ = fmt.Sscan(query.Get("cursor"), &next)
		var found []any
		more := ""
		if next < len(s.records) {
			rec := s.records[next]
			found = append(found, map[string]any{"id": fmt.Sprint(rec.id), "type": "TXT", "name": strings.Replace(rec.name, "@", "", 1), "data": quoted(rec.value)})
			if next+1 < len(s.records) {
				more = fmt.Sprint(next + 1)
			}
		}
		answer(map[string]any{"records": found, "meta": map[string]any{"links": map[string]any{"next": more}}})
	case "vultr POST":
		s.put(relative(text(body["name"])), unquoted(text(body["data"])))
		answer(body)
	case "porkbun POST":
		if body["apikey"] != "token" || body["secretapikey"] != "token" {
			s.t.Errorf("keys %v", body)
		}
		switch {
		case strings.HasPrefix(path, "/dns/create/"):
			s.put(relative(text(body["name"])), text(body["content"]))
		case strings.HasPrefix(path, "/dns/delete/"):
			s.drop(func(r record) bool { return r.id == id })
		default:
			name := "@"
			if parts := strings.Split(path, "/"); len(parts) == 6 {
				name = parts[5]
			}
			var found []any
			for _, rec := range s.records {
				if rec.name == name {
					found = append(found, map[string]any{"id": fmt.Sprint(rec.id), "content": rec.value})
				}
			}
			answer(map[string]any{"status": "SUCCESS", "records": found})
			return
		}
		answer(map[string]any{"status": "SUCCESS"})
	case "hetzner POST":
		parts := strings.Split(path, "/") // /zones/Z/rrsets/NAME/TXT/actions/ACTION
		records, _ := body["records"].([]any)
		for _, one := range records {
			m, _ := one.(map[string]any)
			value := unquoted(text(m["value"]))
			if parts[7] == "add_records" {
				s.put(parts[4], value)
			} else {
				s.drop(func(r record) bool { return r.name == parts[4] && r.value == value })
			}
		}
		answer(map[string]any{})
	case "gandi GET", "desec GET":
		name := strings.Split(path, "/")[4]
		values := s.of(name)
		if len(values) == 0 {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"detail":"Not found."}`)
			return
		}
		for i := range values {
			values[i] = quoted(values[i])
		}
		answer(map[string]any{"rrset_values": values, "records": values})
	case "gandi PUT", "gandi DELETE":
		name := strings.Split(path, "/")[4]
		s.drop(func(r record) bool { return r.name == name })
		values, _ := body["rrset_values"].([]any)
		for _, v := range values {
			s.put(name, unquoted(text(v)))
		}
		answer(map[string]any{})
	case "desec PUT":
		var sets []map[string]any
		_ = json.Unmarshal(data, &sets)
		for _, set := range sets {
			name := relative(text(set["subname"]))
			s.drop(func(r record) bool { return r.name == name })
			values, _ := set["records"].([]any)
			for _, v := range values {
				s.put(name, unquoted(text(v)))
			}
		}
		answer(map[string]any{})
	case "ovh GET":
		if id != 0 {
			for _, rec := range s.records {
				if rec.id == id {
					answer(map[string]any{"target": quoted(rec.value)})
				}
			}
			return
		}
		ids := []int{}
		for _, rec := range s.records {
			if rec.name == relative(query.Get("subDomain")) {
				ids = append(ids, rec.id)
			}
		}
		answer(ids)
	case "ovh POST":
		if !strings.HasPrefix(r.Header.Get("X-Ovh-Signature"), "$1$") || r.Header.Get("X-Ovh-Timestamp") == "" {
			s.t.Errorf("not signed: %v", r.Header)
		}
		if !strings.HasSuffix(path, "/refresh") {
			s.put(relative(text(body["subDomain"])), unquoted(text(body["target"])))
		}
		answer(nil)
	default:
		s.t.Errorf("%s %s", r.Method, r.URL.Path)
		w.WriteHeader(http.StatusTeapot)
	}
}

// base points an editor at another address.
func base(t *testing.T, e zoneEditor, address string) {
	t.Helper()
	switch e := e.(type) {
	case interface{ at(address string) }:
		e.at(address)
	default:
		t.Fatalf("%T has no address", e)
	}
}

func (a *webAPI) at(address string) { a.base = address }

// Each provider adds a proof, and takes that one away and no other.
func TestProviders(t *testing.T) {
	for name := range zoneEditors {
		if name == "rfc2136" || name == "duckdns" {
			continue // tried with a real server, and below
		}
		t.Run(name, func(t *testing.T) {
			s := &service{t: t}
			server := httptest.NewServer(s)
			defer server.Close()
			settings := map[string]routes.Secret{}
			for _, known := range routes.DNSProviders[name] {
				if known.Required {
					settings[known.Name] = "token"
				}
			}
			p, err := newProvider(routes.DNSProvider{Name: name, Settings: settings})
			if err != nil {
				t.Fatal(err)
			}
			base(t, p.editor, server.URL+"/"+name)
			txt := func(host, value string) []libdns.Record {
				return []libdns.Record{libdns.RR{Type: "TXT", Name: host, Data: value, TTL: time.Minute}}
			}
			for _, host := range []string{"_acme-challenge", "_acme-challenge.learn", "@"} {
				s.records = nil
				s.put(host, "of somebody else")
				s.put("www", "unrelated")
				for _, value := range []string{"proof-one", "proof-two"} {
					if _, err := p.AppendRecords(t.Context(), imitated+".", txt(host, value)); err != nil {
						t.Fatal(err)
					}
				}
				if got := s.of(host); !slices.Equal(got, []string{"of somebody else", "proof-one", "proof-two"}) {
					t.Fatalf("%s: %q", host, got)
				}
				if _, err := p.DeleteRecords(t.Context(), imitated+".", txt(host, "proof-one")); err != nil {
					t.Fatal(err)
				}
				if got := s.of(host); !slices.Equal(got, []string{"of somebody else", "proof-two"}) {
					t.Errorf("%s: left %q", host, got)
				}
				// What is gone already is no error.
				if _, err := p.DeleteRecords(t.Context(), imitated+".", txt(host, "proof-one")); err != nil {
					t.Errorf("twice: %v", err)
				}
				if _, err := p.DeleteRecords(t.Context(), imitated+".", txt(host, "proof-two")); err != nil {
					t.Error(err)
				}
				if got := s.of("www"); len(got) != 1 {
					t.Errorf("another name: %q", got)
				}
			}
			s.fail = true
			_, err = p.AppendRecords(t.Context(), imitated+".", txt("_acme-challenge", "x"))
			if err == nil || !strings.Contains(err.Error(), "may not do that") || !strings.Contains(err.Error(), name) {
				t.Errorf("a refusal: %v", err)
			}
			server.Close()
			if _, err = p.AppendRecords(t.Context(), imitated+".", txt("_acme-challenge", "x")); err == nil {
				t.Error("nobody is there, and no error")
			}
		})
	}
}

func TestDuckDNS(t *testing.T) {
	const token = "0123-secret"
	var mu sync.Mutex
	var asked []url.Values
	says := "OK"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Query())
		_, _ = io.WriteString(w, says)
	}))
	defer server.Close()
	p, err := newProvider(routes.DNSProvider{Name: "duckdns", Settings: map[string]routes.Secret{"token": token}})
	if err != nil {
		t.Fatal(err)
	}
	base(t, p.editor, server.URL)
	change := p.editor
	ctx := context.Background()
	if err := change.add(ctx, "duckdns.org", "_acme-challenge.school", "one"); err != nil {
		t.Fatal(err)
	}
	if q := asked[0]; q.Get("domains") != "school" || q.Get("txt") != "one" || q.Get("token") != token {
		t.Errorf("asked %v", q)
	}
	if err := change.add(ctx, "duckdns.org", "_acme-challenge.lms.school", "two"); err == nil {
		t.Error("a second proof at a time")
	}
	if err := change.remove(ctx, "duckdns.org", "_acme-challenge.school", "two"); err != nil || len(asked) != 1 {
		t.Errorf("another value is taken away: %v", err)
	}
	if err := change.remove(ctx, "duckdns.org", "_acme-challenge.school", "one"); err != nil || asked[1].Get("clear") != "true" {
		t.Errorf("%v, %v", err, asked)
	}
	mu.Lock()
	says = "KO"
	mu.Unlock()
	if err := change.add(ctx, "duckdns.org", "_acme-challenge.school", "one"); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("refused: %v", err)
	}
	server.Close()
	if err := change.add(ctx, "duckdns.org", "_acme-challenge.school", "one"); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("nobody there: %v", err)
	}
}
