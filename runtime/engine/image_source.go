package engine

import (
	"log/slog"
	"net/http"
	"path"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// resolver knows where the images of one pull come from: the mirrors of their
// host, then the host itself, each with the credentials of the file as it is
// now.
func (c *imageCache) resolver(logger *slog.Logger) (remotes.Resolver, error) {
	known, err := readCredentials(c.cfg.Credentials)
	if err != nil {
		return nil, err
	}
	client := func(attempts int) *http.Client {
		return &http.Client{Transport: &patient{
			base: c.transport, attempts: attempts,
			backoff: c.cfg.Backoff, maxWait: c.cfg.MaxWait, stall: c.cfg.Stall, logger: logger,
		}}
	}
	// A mirror that fails is passed over at once: the registry is there.
	steady, quick := client(c.cfg.Attempts), client(1)
	authorizer := func(client *http.Client) docker.Authorizer {
		return docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(known.lookup))
	}
	atRegistry, atMirror := authorizer(steady), authorizer(quick)

	hosts := func(host string) ([]docker.RegistryHost, error) {
		var list []docker.RegistryHost
		for _, text := range c.cfg.Mirrors[host] {
			mirror, err := parseMirror(text)
			if err != nil {
				return nil, err
			}
			list = append(list, docker.RegistryHost{
				Client: quick, Authorizer: atMirror, Scheme: mirror.Scheme, Host: mirror.Host,
				Path:         path.Join("/", mirror.Path, "v2"),
				Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			})
		}
		scheme := "https"
		if c.cfg.plainHTTP(host) {
			scheme = "http"
		}
		if host == "docker.io" {
			host = hubHost
		}
		return append(list, docker.RegistryHost{
			Client: steady, Authorizer: atRegistry, Scheme: scheme, Host: host, Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}), nil
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: hosts}), nil
}
