package main

import (
	"fmt"

	"tarima/proxy/certs"
	"tarima/proxy/routes"
	"tarima/supervisor/openedx"
	"tarima/supervisor/site"
)

// doorSecrets reads the files of secrets that [proxy] names, and has the proxy's
// own rules say whether certificates can come from there: a DNS provider that
// is not known, a setting that it does not have. It is for root: `tarima check`
// of another user says what it cannot read.
func doorSecrets(config site.Config) (openedx.DoorSecrets, error) {
	secrets, err := readDoorSecrets(config)
	if err != nil {
		return secrets, err
	}
	tls, err := openedx.TLS(config.Proxy, secrets)
	if err == nil {
		err = certs.CheckSource(tls)
	}
	return secrets, err
}

func readDoorSecrets(config site.Config) (openedx.DoorSecrets, error) {
	var out openedx.DoorSecrets
	p := config.Proxy
	var err error
	if p.TLS == site.TLSACME {
		if p.ACME.KeyFile != "" {
			if out.ACMEKey, err = site.ReadKey(p.ACME.KeyFile); err != nil {
				return out, fmt.Errorf("proxy.acme.key_file: %w", err)
			}
		}
		for i, f := range p.ACME.Fallback {
			key := ""
			if f.KeyFile != "" {
				if key, err = site.ReadKey(f.KeyFile); err != nil {
					return out, fmt.Errorf("proxy.acme.fallback[%d].key_file: %w", i, err)
				}
			}
			out.FallbackKeys = append(out.FallbackKeys, key)
		}
		if p.DNS.SettingsFile != "" {
			if out.DNS, err = site.ReadSettings(p.DNS.SettingsFile); err != nil {
				return out, fmt.Errorf("proxy.dns.settings_file: %w", err)
			}
			if err := routes.CheckDNS(dnsProvider(p.DNS.Provider, out.DNS)); err != nil {
				return out, fmt.Errorf("proxy.dns: %w", err)
			}
		}
	}
	for host, a := range p.Auth {
		users, err := site.ReadUsers(a.Users)
		if err != nil {
			return out, fmt.Errorf("proxy.auth.%q.users: %w", host, err)
		}
		if out.Users == nil {
			out.Users = map[string]map[string]string{}
		}
		out.Users[host] = users
	}
	return out, nil
}

func dnsProvider(name string, settings map[string]string) routes.DNSProvider {
	p := routes.DNSProvider{Name: name, Settings: map[string]routes.Secret{}}
	for k, v := range settings {
		p.Settings[k] = routes.Secret(v)
	}
	return p
}
