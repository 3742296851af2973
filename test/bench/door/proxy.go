package main

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"tarima/proxy"
	"tarima/proxy/accesslog"
)

// runProxy is "tarima proxy" with everything on, whatever the shipped defaults
// are: the access log goes to a file, figures are kept and served, slow requests
// told; limits and filters come with the routes.
func runProxy(ctx context.Context, args []string) error {
	f := flags("proxy")
	root := f.String("root", "", "folder of everything")
	plain := f.String("http", "", "address without TLS")
	secure := f.String("https", "", "address with TLS")
	many := f.Int("connections", 0, "open at a time; 0: as shipped")
	authorities := f.String("authorities", "", "file with the certificates that vouch for an ACME authority")
	profile := f.String("profile", "", "file for a profile of the processor time, written at the end")
	_ = f.Parse(args) // it exits itself
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	cfg := proxy.Config{
		Dir: filepath.Join(*root, "state"), Socket: filepath.Join(*root, "proxy.sock"),
		StaticDir: func(string) string { return filepath.Join(*root, "static") },
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Sight: proxy.Sight{
			Log: accesslog.File{Path: filepath.Join(*root, "access.log"), Size: 1 << 30, Keep: 1}, Slow: 3 * time.Second, Metrics: "127.0.0.1:9460",
		},
		Limits: proxy.Limits{Connections: *many, ConnectionsPerAddr: *many},
		Notify: func(state string) {
			if strings.HasPrefix(state, "READY=1") {
				_ = tell(map[string]bool{"ready": true}) // nobody may be reading
			}
		},
	}
	if *plain != "" {
		cfg.HTTP = []string{*plain}
	}
	if *secure != "" {
		cfg.HTTPS = []string{*secure}
	}
	if *authorities != "" {
		pem, err := os.ReadFile(*authorities)
		if err != nil {
			return err
		}
		cfg.ACMERoots = x509.NewCertPool()
		if !cfg.ACMERoots.AppendCertsFromPEM(pem) {
			return errors.New("no certificate in " + *authorities)
		}
	}
	proxy.TuneMemory(ctx)
	return proxy.Run(ctx, cfg)
}
