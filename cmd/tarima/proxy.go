package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"tarima/proxy"
	"tarima/proxy/accesslog"
	"tarima/supervisor/site"
)

func (c *cli) proxyCommand() *cobra.Command {
	var listenHTTP, listenHTTPS string
	cmd := c.verb("proxy", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		log := c.logger()
		config, err := c.proxyConfig(log)
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("http") {
			config.HTTP = addresses(listenHTTP)
		}
		if cmd.Flags().Changed("https") {
			config.HTTPS = addresses(listenHTTPS)
		}
		proxy.TuneMemory(cmd.Context())
		return proxy.Run(cmd.Context(), config)
	})
	cmd.Flags().StringVar(&listenHTTP, "http", "", c.say("flag.listenHTTP"))
	cmd.Flags().StringVar(&listenHTTPS, "https", "", c.say("flag.listenHTTPS"))
	return cmd
}

// addresses to listen on: none for "off".
func addresses(a string) []string {
	if a == "" || a == site.Off {
		return nil
	}
	return []string{a}
}

// proxyConfig reads from the site file where to listen. A file that is missing
// or wrong keeps nobody from serving: the daemon says what is wrong with it.
func (c *cli) proxyConfig(log *slog.Logger) (proxy.Config, error) {
	p := c.paths()
	wanted := site.Defaults(site.Config{}, site.Host{})
	if data, err := os.ReadFile(p.SiteFile); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			log.Warn("site file cannot be read; listening where it is usual", "error", err)
		}
	} else if parsed, err := site.Parse(p.SiteFile, data); err != nil {
		log.Warn("site file is wrong; listening where it is usual", "error", err)
	} else {
		wanted = site.Defaults(parsed, site.Host{})
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return proxy.Config{}, fmt.Errorf("read systemd's watchdog interval: %w", err)
	}
	if err := os.MkdirAll(p.ProxyRun, 0o755); err != nil {
		return proxy.Config{}, fmt.Errorf("folder of the routes' socket: %w", err)
	}
	config := proxy.Config{
		HTTP:      addresses(wanted.Proxy.HTTP),
		HTTPS:     addresses(wanted.Proxy.HTTPS),
		UnixGroup: wanted.Proxy.SocketGroup, ProxyProtocol: wanted.Proxy.ProxyProtocol, HTTP3: wanted.Proxy.HTTP3,
		Dir:       p.ProxyState,
		Socket:    p.proxySocket(),
		StaticDir: func(site string) string { return filepath.Join(p.siteDir(site), "static") },
		Logger:    log,
		Hold:      proxy.Hold{Timeout: holdTime(wanted)},
		// The environment keeps systemd's address: a successor needs it.
		Store:    os.Getenv("NOTIFY_SOCKET"),
		Notify:   notifyAt(os.Getenv("NOTIFY_SOCKET")),
		Watchdog: watchdog,
		Handover: onSignal(syscall.SIGUSR2),
		Sight:    sightOf(wanted.Proxy),
	}
	if err := proxy.Inherit(&config); err != nil {
		return proxy.Config{}, fmt.Errorf("take over sockets: %w", err)
	}
	return config, nil
}

// sightOf says what of the proxy's work is written down. The file of the access
// log is opened anew on SIGUSR1, for whoever moved it away.
func sightOf(p site.Proxy) proxy.Sight {
	s := proxy.Sight{
		Log:       accesslog.File{Path: p.Log.File, Size: int64(p.Log.Size), Keep: p.Log.Keep},
		Fields:    p.Log.Fields,
		Addresses: accesslog.Addresses(p.Log.Addresses),
		Reopen:    onSignal(syscall.SIGUSR1),
	}
	if p.Log.Slow != nil {
		s.Slow = *p.Log.Slow
	}
	if p.Metrics.Address != site.Off {
		s.Metrics = p.Metrics.Address
	}
	return s
}

// onSignal tells each time that a signal comes: systemctl reload sends SIGUSR2
// to ask for a successor. (SIGHUP is the end of a terminal, for this verb as
// for the others.)
func onSignal(s os.Signal) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, s)
	asked := make(chan struct{})
	go func() {
		for range signals {
			asked <- struct{}{}
		}
	}()
	return asked
}

// holdTime of a request. Not to wait at all is the shortest wait there is: to
// the proxy, 0 means that nobody said.
func holdTime(config site.Config) time.Duration {
	if config.Proxy.Hold == nil {
		return site.DefaultHold
	}
	return max(*config.Proxy.Hold, 1)
}
