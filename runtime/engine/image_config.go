package engine

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ImagesConfig says where images come from. The zero value of a field means
// its default. Proxies are taken from the environment at Open (HTTP_PROXY,
// HTTPS_PROXY, NO_PROXY, in both spellings); loopback never goes through one.
type ImagesConfig struct {
	// Credentials is the path of a file in the format of Docker's config.json;
	// only "auths" is read, at each pull. "": every pull is anonymous.
	Credentials string
	// Mirrors are asked before the registry itself, in order: registry host, as
	// references name it (docker.io), to base addresses such as
	// https://mirror.example/cache. A mirror that fails is passed over.
	Mirrors map[string][]string
	// PlainHTTP are registry hosts (host or host:port) that are spoken to
	// without TLS. Loopback hosts always are, other hosts never.
	PlainHTTP []string
	// Attempts at a request, and at a transfer that brings no bytes, before a
	// pull fails. Default 6; a mirror gets one.
	Attempts int
	// Backoff is the wait before the second attempt. It doubles with each
	// further one, up to MaxWait, and varies by a fifth. Default 1 s.
	Backoff time.Duration
	// MaxWait bounds one wait. A registry that asks for a longer one with
	// Retry-After ends the pull with ErrRateLimited or ErrRegistry at once.
	// Default 60 s.
	MaxWait time.Duration
	// Stall is how long a connection may bring nothing before it is taken for
	// dead. Default 30 s.
	Stall time.Duration
	// Parallel is how many layers are downloaded at once. Default 3.
	Parallel int
	// Reserve is what a pull leaves free on the engine's file system, in bytes:
	// databases often share it. Default 256 MiB; -1 none.
	Reserve int64
}

func (c ImagesConfig) withDefaults() (ImagesConfig, error) {
	if c.Credentials != "" && !filepath.IsAbs(c.Credentials) {
		return c, fmt.Errorf("credentials file %q is not an absolute path", c.Credentials)
	}
	for host, mirrors := range c.Mirrors {
		if host == "" || strings.ContainsAny(host, "/@ ") {
			return c, fmt.Errorf("mirrors of %q: want a registry host such as docker.io", host)
		}
		for _, mirror := range mirrors {
			if _, err := parseMirror(mirror); err != nil {
				return c, fmt.Errorf("mirror of %s: %w", host, err)
			}
		}
	}
	for _, setting := range []struct {
		name  string
		value int64
	}{
		{"attempts", int64(c.Attempts)},
		{"backoff", int64(c.Backoff)},
		{"longest wait", int64(c.MaxWait)},
		{"stall time", int64(c.Stall)},
		{"parallel layers", int64(c.Parallel)},
	} {
		if setting.value < 0 {
			return c, fmt.Errorf("images: %s must not be negative", setting.name)
		}
	}
	c.Attempts = orDefault(c.Attempts, 6)
	c.Backoff = orDefault(c.Backoff, time.Second)
	c.MaxWait = orDefault(c.MaxWait, time.Minute)
	c.Stall = orDefault(c.Stall, 30*time.Second)
	c.Parallel = orDefault(c.Parallel, 3)
	c.Reserve = max(orDefault(c.Reserve, 256<<20), 0)
	return c, nil
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// parseMirror reads a mirror's base address. It may not carry credentials: they
// would appear in logs and errors.
func parseMirror(text string) (*url.URL, error) {
	mirror, err := url.Parse(text)
	switch {
	case err != nil: // the parser's error quotes the address, and with it a password
		return nil, fmt.Errorf("address cannot be read: want https://host or https://host/path")
	case mirror.User != nil:
		return nil, fmt.Errorf("address of %s has a user in it: put credentials into the credentials file", mirror.Host)
	case mirror.Scheme != "https" && mirror.Scheme != "http" || mirror.Host == "" || mirror.RawQuery != "" || mirror.Fragment != "":
		return nil, fmt.Errorf("%q: want https://host or https://host/path", text)
	}
	return mirror, nil
}

// plainHTTP says whether a registry host is spoken to without TLS.
func (c ImagesConfig) plainHTTP(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return name == "localhost" || ip != nil && ip.IsLoopback() ||
		slices.Contains(c.PlainHTTP, host) || slices.Contains(c.PlainHTTP, name)
}
