package proxy

import (
	"context"
	"net"
	"net/http"
	"time"
)

// figuresRetry is the pause between attempts to listen for Prometheus: the
// address is a predecessor's until its own work is over.
const figuresRetry = 2 * time.Second

// serveFigures serves figures on Sight.Metrics until ctx ends. A door without
// figures is better than none: that nobody can listen is told once, and tried
// again.
func (s *server) serveFigures(ctx context.Context) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.sight.meters.Handler())
	tick := time.NewTicker(figuresRetry)
	defer tick.Stop()
	told := false
	for {
		err := s.listenForFigures(ctx, mux)
		if ctx.Err() != nil {
			return
		}
		s.trouble.set("metrics", err)
		if !told {
			s.logger.Warn("figures for Prometheus cannot be served; trying again", "address", s.cfg.Sight.Metrics, "error", err)
			told = true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) listenForFigures(ctx context.Context, h http.Handler) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", s.cfg.Sight.Metrics)
	if err != nil {
		return err
	}
	s.trouble.set("metrics", nil)
	s.logger.Info("figures for Prometheus", "address", l.Addr().String())
	srv := &http.Server{
		Handler: h, ErrorLog: s.proxyLog,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	end := context.AfterFunc(ctx, func() { _ = srv.Close() }) // a scrape is repeated
	defer end()
	return srv.Serve(l)
}
