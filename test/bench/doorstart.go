package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tarima/proxy/routes"
)

const doorStarts = 11

// starts is the time from the start of the program to the first page, and from
// the wish for a new route to the first request that goes there.
func (d *door) starts(context.Context) error {
	begun := map[string]samples{}
	names := []string{ourName, "nginx", "HAProxy", "Caddy"}
	for range doorStarts {
		for _, name := range names {
			began := time.Now()
			c, err := d.start(name)
			if err != nil {
				return err
			}
			begun[name] = append(begun[name], milliseconds(time.Since(began)))
			if err := c.stop(); err != nil {
				return err
			}
		}
	}
	for i, name := range names[1:] {
		p := pairs{begun[ourName], begun[name]}
		f := p.figure("door, start to first page, beside "+name, "ms", name)
		if i == 0 {
			f.Note = "certificate and routes are remembered from the start before"
		}
		d.add(f)
	}
	return d.reroute()
}

// reroute changes where one path leads to and asks until it does.
func (d *door) reroute() (err error) {
	ours, err := d.startOurs()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	nginx, err := d.startPeer("nginx")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nginx.stop()) }()
	config := filepath.Join(nginx.dir, "config")
	plain, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var p pairs
	for i := range doorStarts {
		path := fmt.Sprintf("/moved/%d", i)
		s := d.snapshot()
		s.Hosts[0].Rules = append(s.Hosts[0].Rules, routes.Rule{Path: path, Redirect: "/bytes/1"})
		mine, err := visible(ours, path, func() error { return d.route(ours.dir, s) })
		if err != nil {
			return err
		}
		text := strings.Replace(string(plain), "location /static/", "location "+path+" { return 302 /bytes/1; }\n    location /static/", 1)
		theirs, err := visible(nginx, path, func() error {
			return errors.Join(write(config, text), nginx.cmd.Process.Signal(syscall.SIGHUP))
		})
		if err != nil {
			return err
		}
		p.add(mine, theirs)
	}
	d.add(p.figure("door, route change to first request", "ms", "nginx reload"))
	return nil
}

// visible is the time from a change to the first redirect.
func visible(c *contender, path string, change func() error) (float64, error) {
	client := visitor(c.https)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	began := time.Now()
	if err := change(); err != nil {
		return 0, err
	}
	for time.Since(began) < 10*time.Second {
		if err := page(client, "https://localhost"+path, http.StatusFound); err == nil {
			return milliseconds(time.Since(began)), nil
		}
	}
	return 0, fmt.Errorf("%s does not follow a change of its routes", c.name)
}

const (
	validationHTTP = "127.0.0.1:8080"
	acmeRounds     = 3
)

const caddyACME = `
{
  admin off
  skip_install_trust
  persist_config off
  http_port 8080
  https_port 8443
  acme_ca DIRECTORY
  acme_ca_root VOUCH
  email ana@escuela.test
  grace_period 1s
}
lms.test, cms.test {
  bind 127.0.0.1
  reverse_proxy UPSTREAM
}
`

// certificates is the time from the wish for two names to both certificates of
// an ACME authority being served.
func (d *door) certificates(ctx context.Context) error {
	var p pairs
	for range acmeRounds {
		ours, err := d.order(ctx, ourAddress, func(authority *contender, directory, vouch string) (*contender, error) {
			// Without what an earlier round left.
			dir := filepath.Join(d.root, "tarima")
			if err := os.RemoveAll(dir); err != nil {
				return nil, err
			}
			c, err := d.startOurs("-http", validationHTTP, "-authorities", vouch)
			if err != nil {
				return nil, err
			}
			s := d.snapshot()
			s.TLS = routes.TLS{Mode: "acme", Email: "ana@escuela.test", Directory: directory}
			lms, cms := s.Hosts[0], s.Hosts[0]
			lms.Name, cms.Name = "lms.test", "cms.test"
			s.Hosts = []routes.Host{lms, cms}
			return c, d.route(dir, s)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", ourName, err)
		}
		theirs, err := d.order(ctx, "127.0.0.1:8443", func(authority *contender, directory, vouch string) (*contender, error) {
			if err := os.RemoveAll(filepath.Join(d.root, "caddyacme")); err != nil {
				return nil, err
			}
			dir, err := d.folder("caddyacme")
			if err != nil {
				return nil, err
			}
			config := filepath.Join(dir, "config")
			if err := write(config, strings.NewReplacer("DIRECTORY", directory, "VOUCH", vouch, "UPSTREAM", doorUpstream).Replace(caddyACME)); err != nil {
				return nil, err
			}
			c, err := program(dir, nil, filepath.Join(d.root, "caddy-program"), "run", "--config", config, "--adapter", "caddyfile")
			if err == nil {
				c.name = "Caddy"
			}
			return c, err
		})
		if err != nil {
			return fmt.Errorf("Caddy: %w", err) //nolint:staticcheck // a name
		}
		p.add(ours, theirs)
	}
	f := p.figure("door, two certificates from Pebble", "s", "Caddy")
	f.Note = "the authority asks for 5 s between two looks at an order"
	d.add(f)
	return nil
}

// order runs an authority and what wants its certificates.
func (d *door) order(ctx context.Context, address string, begin func(authority *contender, directory, vouch string) (*contender, error)) (seconds float64, err error) {
	dir, err := d.folder("authority")
	if err != nil {
		return 0, err
	}
	vouch := filepath.Join(dir, "vouch.pem")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	var said struct{ Directory string }
	authority, err := program(dir, &said, filepath.Join(d.root, "bench-door"), "authority", "-http", "8080", "-tls", port, "-vouch", vouch)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, authority.stop()) }()
	began := time.Now()
	c, err := begin(authority, said.Directory, vouch)
	if c != nil {
		defer func() { err = errors.Join(err, c.stop()) }()
	}
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"lms.test", "cms.test"} {
		if err := poll(time.Minute, "a certificate for "+name, func() error { return issuedByPebble(ctx, address, name) }); err != nil {
			return 0, errors.Join(err, errors.New(lastLines(filepath.Join(c.dir, "log"))))
		}
	}
	return time.Since(began).Seconds(), nil
}

func issuedByPebble(ctx context.Context, address, name string) error {
	dialer := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}} //nolint:gosec // who issued it is looked at below
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	issuer := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Issuer.CommonName
	if err := conn.Close(); err != nil {
		return err
	}
	if !strings.HasPrefix(issuer, "Pebble") {
		return fmt.Errorf("still issued by %q", issuer)
	}
	return nil
}
