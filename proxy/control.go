package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"tarima/proxy/certs"
	"tarima/proxy/routes"
)

// instanceHeader names the process that answers: the numbers of events start
// again with each.
const instanceHeader = "Tarima-Instance"

// A line this often shows both sides of an event stream that the other lives.
const streamBeat = 10 * time.Second

// State is the answer to GET /v1/state.
type State struct {
	Instance     string         `json:"instance"`
	PID          int            `json:"pid"`
	Since        time.Time      `json:"since"`
	Schema       int            `json:"schema"`
	Generation   uint64         `json:"generation"` // 0: no routes yet
	Services     []serviceState `json:"services"`
	Certificates []certs.State  `json:"certificates"`
	Trouble      []string       `json:"trouble,omitempty"` // one sentence each
	Buffered     BufferedState  `json:"buffered"`
}

// BufferedState is what is kept for clients that take their answers slowly.
type BufferedState struct {
	Reading int64 `json:"reading"` // answers whose rest is read ahead at the moment
	Memory  int64 `json:"memory"`  // bytes
	Disk    int64 `json:"disk"`    // bytes
}

// listenControl opens the control socket. A socket that a dead process left
// is replaced; a living one is ErrInUse.
func listenControl(path string, mode fs.FileMode) (*net.UnixListener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close() // it answered
		return nil, fmt.Errorf("%w: %s", ErrInUse, path)
	}
	// Made beside its place and renamed, so that it never stands there with
	// another mode.
	beside := path + ".new" + strconv.Itoa(os.Getpid())
	_ = os.Remove(beside) // of a process of the same number, long ago
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: beside, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(beside, mode); err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		_ = l.Close() // the first error is told
		_ = os.Remove(beside)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

func (s *server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/routes", s.putRoutes)
	mux.HandleFunc("GET /v1/events", s.streamEvents)
	mux.HandleFunc("GET /v1/state", s.getState)
	s.certificateControl(mux)
	mux.HandleFunc("GET /v1/requests", s.getRequests)
	mux.Handle("GET /metrics", s.sight.meters.Handler())
	mux.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n")) // the asker is free to go away
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(instanceHeader, s.instance)
		mux.ServeHTTP(w, r)
	})
}

func (s *server) putRoutes(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSnapshotBytes))
	if err != nil {
		s.ack(w, http.StatusBadRequest, fmt.Errorf("%w: read: %w", routes.ErrInvalid, err))
		return
	}
	snapshot, err := decodeSnapshot(data)
	if err != nil {
		s.ack(w, http.StatusUnprocessableEntity, err)
		return
	}
	applied, err := s.board.apply(snapshot)
	if err != nil {
		s.ack(w, http.StatusConflict, err)
		return
	}
	if applied {
		s.remember(snapshot)
		s.cfg.Notify("STATUS=" + s.summary())
	}
	s.ack(w, http.StatusOK, nil)
}

// remember keeps the snapshot for a start without a supervisor. A full disk
// must not keep routes from changing: it is trouble, not an error.
func (s *server) remember(snapshot routes.Snapshot) {
	s.remembering.Lock()
	defer s.remembering.Unlock()
	// Two puts at once: the later one has been applied, so it is the one to
	// keep.
	if s.board.current.Load().snapshot.Generation != snapshot.Generation {
		return
	}
	err := saveSnapshot(s.cfg.Dir, snapshot)
	if err != nil {
		s.logger.Error("the routes are served but could not be written down", "generation", snapshot.Generation, "error", err)
	}
	s.trouble.set("remember", err)
}

func (s *server) ack(w http.ResponseWriter, status int, err error) {
	a := routes.Ack{Generation: s.board.current.Load().snapshot.Generation}
	if err != nil {
		a.Error = err.Error()
		s.logger.Warn("routes refused", "serving", a.Generation, "error", err)
	} else {
		s.logger.Debug("routes applied", "generation", a.Generation)
	}
	writeJSON(w, status, a)
}

func (s *server) getState(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, State{
		Instance: s.instance, PID: os.Getpid(), Since: s.since, Schema: routes.Schema,
		Generation: s.board.current.Load().snapshot.Generation,
		Services:   s.board.states(), Certificates: s.keeper.States(), Trouble: s.trouble.list(),
		Buffered: BufferedState{Reading: s.spools.open.Load(), Memory: s.spools.memory.used.Load(), Disk: s.spools.disk.used.Load()},
	})
}

// streamEvents sends JSON lines until the client goes or the proxy ends. An
// empty line is a sign of life.
func (s *server) streamEvents(w http.ResponseWriter, r *http.Request) {
	var seq uint64
	if v := r.URL.Query().Get("after"); v != "" {
		var err error
		if seq, err = strconv.ParseUint(v, 10, 64); err != nil {
			writeJSON(w, http.StatusBadRequest, routes.Ack{Error: "after: not a number"})
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	if control.Flush() != nil {
		return
	}
	for {
		ctx, cancel := context.WithTimeout(r.Context(), streamBeat)
		events, open := s.events.after(ctx, seq)
		cancel()
		if !open || r.Context().Err() != nil {
			return
		}
		var out bytes.Buffer
		encode := json.NewEncoder(&out)
		for _, e := range events {
			seq = e.Seq
			// Plain data into memory: it cannot fail.
			_ = encode.Encode(e)
		}
		if out.Len() == 0 {
			out.WriteByte('\n')
		}
		// A supervisor that hangs must not hold this for ever.
		_ = control.SetWriteDeadline(time.Now().Add(streamBeat))
		if _, err := w.Write(out.Bytes()); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the asker is free to go away
}

// isClosed says that a server ended because it was told to.
func isClosed(err error) bool {
	return errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed)
}
