package engine

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxCredentials bounds the credentials file; Docker's own is a few hundred
// bytes per registry.
const maxCredentials = 1 << 20

// login is what a registry is told. With a token, which is an OAuth2 refresh
// token that Docker calls identity token, the user is empty.
type login struct{ user, secret string }

// credentials are the logins of a file in the format of Docker's config.json,
// by registry host.
type credentials struct {
	logins  map[string]login
	helpers map[string]string // host to the credential helper that would know; not supported
	store   string            // credsStore: the helper for all hosts
}

// readCredentials reads the file at path. No message quotes its content.
func readCredentials(path string) (credentials, error) {
	if path == "" {
		return credentials{}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return credentials{}, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	defer func() { _ = file.Close() }() // read only
	raw, err := io.ReadAll(io.LimitReader(file, maxCredentials+1))
	if err != nil {
		return credentials{}, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	if len(raw) > maxCredentials {
		return credentials{}, fmt.Errorf("%w: %s is larger than %d bytes", ErrCredentials, path, maxCredentials)
	}
	parsed, err := parseCredentials(raw)
	if err != nil {
		return credentials{}, fmt.Errorf("%w: %s: %w", ErrCredentials, path, err)
	}
	return parsed, nil
}

func parseCredentials(raw []byte) (credentials, error) {
	var file struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
		CredHelpers map[string]string `json:"credHelpers"`
		CredsStore  string            `json:"credsStore"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		// The package's own words may quote a value of the file.
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return credentials{}, fmt.Errorf("not valid JSON at byte %d", syntax.Offset)
		}
		return credentials{}, errors.New("not in the format of Docker's config.json")
	}
	parsed := credentials{logins: map[string]login{}, helpers: map[string]string{}, store: file.CredsStore}
	for address, entry := range file.Auths {
		host := registryHost(address)
		known := login{entry.Username, entry.Password}
		if entry.Auth != "" {
			decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
			user, secret, ok := strings.Cut(strings.TrimRight(string(decoded), "\x00"), ":")
			if err != nil || !ok {
				return credentials{}, fmt.Errorf("auth of %s is not the base64 of user:password", host)
			}
			known = login{user, secret}
		}
		if entry.IdentityToken != "" {
			known = login{"", entry.IdentityToken}
		}
		if known.secret != "" {
			parsed.logins[host] = known
		}
	}
	for address, helper := range file.CredHelpers {
		parsed.helpers[registryHost(address)] = helper
	}
	return parsed, nil
}

// registryHost reduces a key of the file, which may be an address with scheme
// and path, to the host that requests go to. Docker Hub has three names.
func registryHost(address string) string {
	host := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		return hubHost
	}
	return host
}

// hubHost is where Docker Hub answers; references say docker.io.
const hubHost = "registry-1.docker.io"

// lookup returns the login for a host, empty when there is none. A host whose
// login only a helper program knows is an error: an anonymous pull would fail
// with a message that hides the cause.
func (c credentials) lookup(host string) (user, secret string, err error) {
	host = registryHost(host)
	if known, ok := c.logins[host]; ok {
		return known.user, known.secret, nil
	}
	helper := c.helpers[host]
	if helper == "" {
		helper = c.store
	}
	if helper != "" {
		return "", "", fmt.Errorf("%w: the login of %s is kept by the helper %q, which cannot be asked: write it under \"auths\"", ErrCredentials, host, helper)
	}
	return "", "", nil
}
