package main

import (
	"path/filepath"

	"tarima/supervisor/control"
)

// defaultSite is the one site that is run today. Everything is keyed by it.
const defaultSite = "default"

// paths are where files lie: in the file system's own places, or all below one
// folder (--root) for a demo or a test.
type paths struct {
	SiteFile string // the wishes of the administrator
	State    string // the store, the engine's root, certificates
	Sites    string // sites/SITE/{data,config,static}
	Run      string // the daemon's sockets and what dies with a reboot
	Logs     string // SITE/SERVICE.log
	// The proxy is a user of its own and has folders of its own.
	ProxyState string // certificates and its last snapshot of routes
	ProxyRun   string // the socket on which it waits for routes
}

func newPaths(root string) paths {
	if root == "" {
		return paths{
			SiteFile: "/etc/tarima/tarima.toml",
			State:    "/var/lib/tarima",
			Sites:    "/var/lib/tarima/sites",
			Run:      "/run/tarima",
			Logs:     "/var/log/tarima",

			ProxyState: "/var/lib/tarima-proxy",
			ProxyRun:   "/run/tarima-proxy",
		}
	}
	return paths{
		SiteFile: filepath.Join(root, "tarima.toml"),
		State:    filepath.Join(root, "state"),
		Sites:    filepath.Join(root, "sites"),
		Run:      filepath.Join(root, "run"),
		Logs:     filepath.Join(root, "log"),

		ProxyState: filepath.Join(root, "proxy"),
		ProxyRun:   filepath.Join(root, "run", "proxy"),
	}
}

// proxySocket is where the proxy waits for routes.
func (p paths) proxySocket() string { return filepath.Join(p.ProxyRun, "routes.sock") }

// siteDir is the folder of a site: its data, rendered settings and static files.
func (p paths) siteDir(site string) string { return filepath.Join(p.Sites, site) }

func (p paths) client() *control.Client { return control.NewClient(p.Run) }
