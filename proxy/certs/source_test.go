package certs

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"tarima/proxy/routes"
)

func TestCheckSource(t *testing.T) {
	acme := func(change func(*routes.TLS)) routes.TLS {
		s := routes.TLS{Mode: ModeACME, Email: "ana@escuela.test"}
		change(&s)
		return s
	}
	dns := func(name string, settings map[string]routes.Secret) routes.TLS {
		return acme(func(s *routes.TLS) { s.DNS = &routes.DNSProvider{Name: name, Settings: settings} })
	}
	const secret = "s3cr3t-of-the-school"
	for name, c := range map[string]struct {
		source routes.TLS
		want   string // "": good
	}{
		"local":               {routes.TLS{Mode: ModeLocal}, ""},
		"none":                {routes.TLS{Mode: ModeNone}, ""},
		"plain":               {acme(func(*routes.TLS) {}), ""},
		"mode":                {routes.TLS{Mode: "acmee"}, "local, acme or none"},
		"email":               {acme(func(s *routes.TLS) { s.Email = "ana" }), "email"},
		"email with a name":   {acme(func(s *routes.TLS) { s.Email = "Ana <ana@escuela.test>" }), "email"},
		"http directory":      {acme(func(s *routes.TLS) { s.Directory = "http://ca.test/dir" }), "https://"},
		"directory with user": {acme(func(s *routes.TLS) { s.Directory = "https://u:p@ca.test/dir" }), "https://"},
		"key without id":      {acme(func(s *routes.TLS) { s.Account = &routes.ExternalAccount{Key: "AAAA"} }), "both"},
		"key not base64url":   {acme(func(s *routes.TLS) { s.Account = &routes.ExternalAccount{KeyID: "a", Key: secret + "+/"} }), "not base64url"},
		"fallback":            {acme(func(s *routes.TLS) { s.Fallback = []routes.Authority{{Directory: "ca.test"}} }), "https://"},
		"wildcard alone":      {acme(func(s *routes.TLS) { s.Wildcards = []string{"*.learn.test"} }), "name the DNS provider"},
		"no wildcard":         {acme(func(s *routes.TLS) { s.Wildcards = []string{"learn.test"} }), "not like *.learn.example.org"},
		"wildcard of all":     {acme(func(s *routes.TLS) { s.Wildcards = []string{"*.test"} }), "not like"},
		"wildcard in it":      {acme(func(s *routes.TLS) { s.Wildcards = []string{"*.a.*.test"} }), "not like"},
		"provider":            {dns("cloudflare", map[string]routes.Secret{"api_token": secret}), ""},
		"misspelt provider":   {dns("cloudfare", nil), `did you mean "cloudflare"?`},
		"strange provider":    {dns("xyzzy", nil), "there are cloudflare, desec"},
		"setting missing":     {dns("cloudflare", nil), "api_token is missing"},
		"setting misspelt":    {dns("cloudflare", map[string]routes.Secret{"api_token": secret, "api_tokn": secret}), `did you mean "api_token"?`},
		"TSIG key":            {dns("rfc2136", map[string]routes.Secret{"server": "ns.test", "key_name": "k", "key": secret + "!"}), "not base64"},
		"TSIG algorithm":      {dns("rfc2136", map[string]routes.Secret{"server": "ns.test", "key_name": "k", "key": "AAAA", "key_algorithm": "md5"}), "hmac-sha256"},
		"endpoint":            {dns("ovh", map[string]routes.Secret{"application_key": "a", "application_secret": "b", "consumer_key": "c", "endpoint": "ovh-xx"}), "ovh-eu"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckSource(c.source)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.Is(err, ErrSource) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q in it", err, c.want)
			case err != nil && strings.Contains(err.Error(), secret):
				t.Errorf("a secret is told: %v", err)
			}
		})
	}
}

// Every provider that is offered can be made from its required settings alone.
func TestProvidersAndSettingsAgree(t *testing.T) {
	if a, b := slices.Sorted(maps.Keys(zoneEditors)), slices.Sorted(maps.Keys(routes.DNSProviders)); !slices.Equal(a, b) {
		t.Fatalf("%q are made, %q are offered", a, b)
	}
	for name, settings := range routes.DNSProviders {
		p := routes.DNSProvider{Name: name, Settings: map[string]routes.Secret{}}
		for _, s := range settings {
			if s.Help == "" {
				t.Errorf("%s: %s has no help", name, s.Name)
			}
			if s.Required {
				p.Settings[s.Name] = "AAAA"
			}
		}
		if _, err := newProvider(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWildcardOf(t *testing.T) {
	wildcards := []string{"*.learn.test", "*.a.learn.test"}
	for name, want := range map[string]string{
		"learn.test": "", "lms.learn.test": "*.learn.test", "x.a.learn.test": "*.a.learn.test",
		"x.b.learn.test": "", "a.learn.test": "*.learn.test", "10.0.0.1": "", "localhost": "",
	} {
		if got := wildcardOf(name, wildcards); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
