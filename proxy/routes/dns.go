package routes

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrDNS is a DNS provider or a setting of it that is not known or missing.
var ErrDNS = errors.New("DNS provider")

// DNSSetting is one setting of a DNS provider.
type DNSSetting struct {
	Name     string
	Required bool
	Secret   bool
	Help     string // what it is, in a few words
}

// DNSProviders are those that can prove names, with their settings.
var DNSProviders = map[string][]DNSSetting{
	"cloudflare":   {{"api_token", true, true, "an API token with the right Zone.DNS:Edit"}},
	"desec":        {{"token", true, true, "an API token"}},
	"digitalocean": {{"api_token", true, true, "a personal access token with the scope domain"}},
	"duckdns":      {{"token", true, true, "the token of the account"}},
	"gandi":        {{"api_token", true, true, "a personal access token for LiveDNS"}},
	"hetzner":      {{"api_token", true, true, "an API token of the Cloud project that has the zone"}},
	"linode":       {{"api_token", true, true, "a personal access token with the scope Domains"}},
	"ovh": {
		{"application_key", true, true, "of the application"},
		{"application_secret", true, true, "of the application"},
		{"consumer_key", true, true, "with rights on /domain/zone/"},
		{"endpoint", false, false, "ovh-eu (default), ovh-ca or ovh-us"},
	},
	"porkbun": {
		{"api_key", true, true, "pk1_…"},
		{"secret_api_key", true, true, "sk1_…"},
	},
	"rfc2136": {
		{"server", true, false, "address:port of the zone's primary name server; port 53 when none is given"},
		{"key_name", true, false, "name of the TSIG key"},
		{"key", true, true, "the TSIG key, base64"},
		{"key_algorithm", false, false, "hmac-sha256 (default), hmac-sha384, hmac-sha512, hmac-sha224 or hmac-sha1"},
	},
	"vultr": {{"api_token", true, true, "an API key"}},
}

// CheckDNS says what is wrong with a provider's name or settings; nil or an
// ErrDNS that names the nearest right one. No value is in its text.
func CheckDNS(p DNSProvider) error {
	settings, ok := DNSProviders[p.Name]
	if !ok {
		known := slices.Sorted(maps.Keys(DNSProviders))
		return fmt.Errorf("%w %q is not known%s; there are %s", ErrDNS, p.Name, meant(p.Name, known), strings.Join(known, ", "))
	}
	var names []string
	for _, s := range settings {
		names = append(names, s.Name)
		if s.Required && p.Settings[s.Name] == "" {
			return fmt.Errorf("%w %s: the setting %s is missing: %s", ErrDNS, p.Name, s.Name, s.Help)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Settings)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%w %s has no setting %q%s; there are %s", ErrDNS, p.Name, name, meant(name, names), strings.Join(names, ", "))
		}
	}
	return nil
}

// meant suggests the known word nearest to a wrong one.
func meant(wrong string, known []string) string {
	if best := Nearest(wrong, known); best != "" {
		return fmt.Sprintf(", did you mean %q?", best)
	}
	return ""
}
