package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"tarima/runtime/container"
)

// maxSiteFile bounds a site file that is sent in, in bytes.
const maxSiteFile = 1 << 20

// maxWait bounds how long a request for events may wait.
const maxWait = time.Minute

// Server answers the control API on both sockets.
type Server struct {
	backend Backend
	log     *slog.Logger
	full    *http.Server
	read    *http.Server
	paths   []string
	sockets []net.Listener
}

// Listen opens the two sockets in dir and begins to answer. A socket file left
// by a process that is gone is replaced: the daemon holds the lock of its
// store before it comes here, so there is no second owner.
func Listen(dir, group string, backend Backend, log *slog.Logger) (*Server, error) {
	s := &Server{backend: backend, log: log}
	all := http.NewServeMux()
	reading := http.NewServeMux()
	s.readRoutes(all)
	s.readRoutes(reading)
	s.changeRoutes(all)

	control, err := listen(filepath.Join(dir, ControlSocket), 0o600, -1)
	if err != nil {
		return nil, err
	}
	gid := -1
	if g, err := user.LookupGroup(group); err == nil {
		gid, _ = strconv.Atoi(g.Gid)
	}
	reader, err := listen(filepath.Join(dir, ReadSocket), 0o660, gid)
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	s.full = newHTTP(all, log)
	s.read = newHTTP(reading, log)
	s.paths = []string{filepath.Join(dir, ControlSocket), filepath.Join(dir, ReadSocket)}
	s.sockets = []net.Listener{control, reader}
	go s.serve(s.full, control)
	go s.serve(s.read, reader)
	return s, nil
}

func newHTTP(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

func (s *Server) serve(h *http.Server, l net.Listener) {
	if err := h.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("control socket stopped answering", "socket", l.Addr().String(), "error", err)
	}
}

func listen(path string, mode os.FileMode, gid int) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	// Bound under another name and renamed when its mode is right, so that
	// there is no moment in which others could connect.
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on control socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(temporary, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of control socket: %w", err), l.Close())
	}
	if gid >= 0 {
		if err := os.Chown(temporary, 0, gid); err != nil {
			return nil, errors.Join(fmt.Errorf("set group of control socket: %w", err), l.Close())
		}
	}
	if err := os.Rename(temporary, path); err != nil {
		return nil, errors.Join(fmt.Errorf("place control socket: %w", err), l.Close())
	}
	return l, nil
}

// Close ends running requests after at most the context's time and removes
// the sockets.
func (s *Server) Close(ctx context.Context) error {
	err := errors.Join(s.full.Shutdown(ctx), s.read.Shutdown(ctx))
	if err != nil {
		err = errors.Join(s.full.Close(), s.read.Close())
	}
	for _, p := range s.paths {
		if e := os.Remove(p); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (s *Server) readRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, s.backend.About(), nil)
	})
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		status, err := s.backend.Status(r.Context())
		s.answer(w, status, err)
	})
	mux.HandleFunc("GET /v1/plan", func(w http.ResponseWriter, r *http.Request) {
		plan, err := s.backend.Plan(r.Context(), nil)
		s.answer(w, plan, err)
	})
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, r *http.Request) {
		usage, err := s.backend.Usage(r.Context())
		s.answer(w, usage, err)
	})
	mux.HandleFunc("GET /v1/requests", func(w http.ResponseWriter, r *http.Request) {
		requests, err := s.backend.Requests(r.Context())
		s.answer(w, requests, err)
	})
	mux.HandleFunc("GET /v1/events", s.events)
	s.certificateReading(mux)
}

func (s *Server) changeRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/plan", func(w http.ResponseWriter, r *http.Request) {
		file, err := siteFile(r)
		if err != nil {
			s.answer(w, nil, err)
			return
		}
		plan, err := s.backend.Plan(r.Context(), file)
		s.answer(w, plan, err)
	})
	mux.HandleFunc("POST /v1/apply", func(w http.ResponseWriter, r *http.Request) {
		file, err := siteFile(r)
		if err != nil {
			s.answer(w, nil, err)
			return
		}
		applied, err := s.backend.Apply(r.Context(), file)
		s.answer(w, applied, err)
	})
	mux.HandleFunc("POST /v1/services/{service}/{action}", func(w http.ResponseWriter, r *http.Request) {
		action := Action(r.PathValue("action"))
		switch action {
		case Start, Stop, Restart:
			s.answer(w, struct{}{}, s.backend.Act(r.Context(), r.PathValue("service"), action))
		default:
			s.answer(w, nil, NotFound("no action %q: start, stop or restart", action))
		}
	})
	mux.HandleFunc("POST /v1/site/stop", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, struct{}{}, s.backend.StopSite(r.Context()))
	})
	mux.HandleFunc("POST /v1/site/start", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, struct{}{}, s.backend.StartSite(r.Context()))
	})
	mux.HandleFunc("GET /v1/logs", s.logs)
	mux.HandleFunc("POST /v1/exec/{service}", s.exec)
	mux.HandleFunc("GET /v1/images", func(w http.ResponseWriter, r *http.Request) {
		images, err := s.backend.Images(r.Context())
		s.answer(w, images, err)
	})
	mux.HandleFunc("POST /v1/images/pull", s.pull)
	mux.HandleFunc("POST /v1/images/load", func(w http.ResponseWriter, r *http.Request) {
		images, err := s.backend.LoadImages(r.Context(), r.Body)
		s.answer(w, images, err)
	})
	mux.HandleFunc("POST /v1/images/prune", func(w http.ResponseWriter, r *http.Request) {
		pruned, err := s.backend.PruneImages(r.Context())
		s.answer(w, pruned, err)
	})
	s.maintenanceRoutes(mux)
	s.certificateChanges(mux)
	mux.HandleFunc("GET /v1/doctor", func(w http.ResponseWriter, r *http.Request) {
		findings, err := s.backend.Doctor(r.Context())
		s.answer(w, findings, err)
	})
}

// answer writes a value or an error as JSON.
func (s *Server) answer(w http.ResponseWriter, value any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		p := problem(err)
		w.WriteHeader(p.Code.status())
		value = map[string]*Problem{"error": p}
	}
	if err := json.NewEncoder(w).Encode(value); err != nil {
		s.log.Debug("control client went away", "error", err)
	}
}

// siteFile reads the site file that a request carries; nil when it has none.
func siteFile(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxSiteFile+1))
	switch {
	case err != nil:
		return nil, Invalid(nil, "the site file did not arrive whole: %v", err)
	case len(body) > maxSiteFile:
		return nil, Invalid(nil, "the site file is larger than %d bytes", maxSiteFile)
	case len(body) == 0:
		return nil, nil
	}
	return body, nil
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after, err := number(q.Get("after"), 0)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	limit, err := number(q.Get("limit"), 100)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	var wait time.Duration
	if text := q.Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 {
			s.answer(w, nil, Invalid(nil, "wait=%q is no duration like 30s", text))
			return
		}
	}
	events, err := s.backend.Events(r.Context(), after, int(min(limit, 10_000)), min(wait, maxWait))
	s.answer(w, events, err)
}

func number(text string, otherwise uint64) (uint64, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, Invalid(nil, "%q is no number", text)
	}
	return n, nil
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	query := LogQuery{Services: q["service"], Follow: q.Get("follow") == "1"}
	if text := q.Get("since"); text != "" {
		since, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			s.answer(w, nil, Invalid(nil, "since=%q is no RFC 3339 time", text))
			return
		}
		query.Since = since
	}
	tail, err := number(q.Get("tail"), 0)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	query.Tail = int(min(tail, 1_000_000))
	out := newLines(w)
	err = s.backend.Logs(r.Context(), query, func(l LogLine) error { return out.write(l) })
	switch {
	case err == nil || r.Context().Err() != nil:
	case !out.begun:
		s.answer(w, nil, err)
	default:
		s.log.Warn("log stream broke", "error", err)
		panic(http.ErrAbortHandler) // the client must not take a cut stream for a whole one
	}
}

func (s *Server) pull(w http.ResponseWriter, r *http.Request) {
	ref := r.URL.Query().Get("ref")
	if ref == "" {
		s.answer(w, nil, Invalid(nil, "ref is missing: the image to pull"))
		return
	}
	out := newLines(w)
	image, err := s.backend.PullImage(r.Context(), ref, func(p container.Progress) {
		// A client that went away ends the pull by its context.
		_ = out.write(PullLine{Progress: &p})
	})
	last := PullLine{Images: []container.Image{image}}
	if err != nil {
		last = PullLine{Error: problem(err)}
	}
	if err := out.write(last); err != nil {
		s.log.Debug("control client went away", "error", err)
	}
}

// lines writes a stream of JSON values, one per line, each flushed.
type lines struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	begun bool
}

func newLines(w http.ResponseWriter) *lines {
	return &lines{w: w, flush: http.NewResponseController(w)}
}

func (l *lines) write(value any) error {
	if !l.begun {
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.begun = true
	}
	if err := json.NewEncoder(l.w).Encode(value); err != nil {
		return err
	}
	return l.flush.Flush()
}
