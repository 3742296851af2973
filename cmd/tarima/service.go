package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"reflect"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"

	"tarima/store/record"
	"tarima/supervisor/site"
)

// logger writes for the journal under systemd, as lines of JSON that
// journalctl -o cat | jq can take apart, and as text for people elsewhere.
func (c *cli) logger() *slog.Logger {
	if ok, err := journal.StderrIsJournalStream(); err == nil && ok {
		return slog.New(slog.NewJSONHandler(c.err, nil))
	}
	return slog.New(slog.NewTextHandler(c.err, nil))
}

// notifier speaks to the service manager (sd_notify(3)). The address is taken
// out of the environment at once: containers and shims must not inherit it.
func notifier() func(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			slog.Warn("environment keeps a variable of systemd's", "name", name, "error", err)
		}
	}
	return notifyAt(address)
}

// notifyAt speaks to the service manager at an address; "" is nobody.
func notifyAt(address string) func(state string) {
	if address == "" {
		return func(string) {}
	}
	return func(state string) {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
		if err != nil {
			slog.Warn("systemd's notify socket", "error", err)
			return
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(state)); err != nil {
			slog.Warn("systemd's notify socket", "error", err)
		}
	}
}

// proxyDiffers says whether the proxy was started with something else than what
// is wanted now: where to listen, say, is not part of its routes.
func (a *appliance) proxyDiffers(before record.Applied, known bool, config site.Config) bool {
	old := site.Defaults(site.Config{}, site.Host{})
	if known {
		parsed, err := site.Parse("the last applied site file", before.SiteFile)
		if err != nil {
			return true
		}
		old = site.Defaults(parsed, site.Host{})
	}
	return !reflect.DeepEqual(readByProxy(old), readByProxy(config))
}

// readByProxy is the part of the site file that the proxy reads itself, once.
func readByProxy(c site.Config) site.Proxy {
	return site.Proxy{
		HTTP: c.Proxy.HTTP, HTTPS: c.Proxy.HTTPS, HTTP3: c.Proxy.HTTP3, SocketGroup: c.Proxy.SocketGroup,
		ProxyProtocol: c.Proxy.ProxyProtocol, Hold: c.Proxy.Hold, Log: c.Proxy.Log, Metrics: c.Proxy.Metrics,
	}
}

// reloadProxy has the proxy replaced by one that reads the site file anew and
// takes over its sockets.
func (a *appliance) reloadProxy(ctx context.Context) {
	const next = "[proxy] takes effect when the proxy is started the next time"
	if _, err := os.Stat("/run/systemd/system"); err != nil || a.paths != newPaths("") {
		a.log.Warn(next)
		return
	}
	// Without waiting: this may be part of a job of systemd's.
	out, err := exec.CommandContext(ctx, "systemctl", "--no-block", "try-reload-or-restart", "tarima-proxy.service").CombinedOutput()
	if err != nil {
		a.log.Warn(next, "error", err, "systemctl", strings.TrimSpace(string(out)))
	}
}
