package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// connection is the key of a request's connection in its context.
type connection struct{}

// upstream is a small and quick application server:
//
//	/bytes/N     answers with N bytes
//	/upload      reads the body and answers with its size
//	/worker/N    the same as /bytes/N, counted as a busy worker until the kernel
//	             has taken it, which takes little at a time
//	/workers     how many of those are at work
func upstream(ctx context.Context, args []string) error {
	f := flags("upstream")
	listen := f.String("listen", "127.0.0.1:0", "address")
	_ = f.Parse(args) // it exits itself
	page := bytes.Repeat([]byte("tarima\n"), 1<<20)
	var workers atomic.Int64
	send := func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 0 || n > len(page) {
			http.Error(w, "how many bytes?", http.StatusBadRequest)
			return
		}
		w.Header()["Content-Type"] = []string{"text/plain"}
		w.Header()["Content-Length"] = []string{strconv.Itoa(n)}
		_, _ = w.Write(page[:n]) // the asker is free to go away
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{n}", send)
	mux.HandleFunc("GET /worker/{n}", func(w http.ResponseWriter, r *http.Request) {
		workers.Add(1)
		defer workers.Add(-1)
		if c, ok := r.Context().Value(connection{}).(*net.TCPConn); ok {
			_ = c.SetWriteBuffer(32 << 10) // a larger one would make the worker free earlier
		}
		w.Header()["Connection"] = []string{"close"} // others have the usual
		send(w, r)
	})
	mux.HandleFunc("GET /workers", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strconv.FormatInt(workers.Load(), 10))
	})
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, strconv.FormatInt(n, 10))
	})
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connection{}, c)
	}}
	go func() { <-ctx.Done(); _ = server.Close() }()
	if err := tell(map[string]string{"listen": l.Addr().String()}); err != nil {
		return err
	}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
