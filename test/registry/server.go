package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Request is one request that was answered, for tests to count.
type Request struct {
	Method     string
	Kind       Kind
	Repository string
	Reference  string // tag or digest
	Namespace  string // the ns query of a mirror request: the host that the client meant
	Range      string // the Range header
	Status     int
	Bytes      int64 // of content, sent
	Authorized bool  // an Authorization header came along
}

// Server serves layouts. Its zero value serves nothing; set the fields before
// the first request. The methods are safe for concurrent use.
type Server struct {
	Dirs []string // folders that are layouts or hold some

	// Authentication: with a user name every request needs it. Scheme "token"
	// sends clients to the server's own /token, as Docker Hub does; anything
	// else is Basic.
	User, Password string
	Scheme         string

	mu       sync.Mutex
	faults   []*Fault
	requests []Request
}

// Inject adds a fault and returns what takes it out again.
func (s *Server) Inject(fault *Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fault)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(f *Fault) bool { return f == fault })
	}
}

// Requests returns what was answered so far, oldest first. A request whose
// answer is still under way is not among it.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Forget empties the list of requests.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// Bytes is the sum of content sent for blobs so far.
func (s *Server) Bytes() int64 {
	var sum int64
	for _, r := range s.Requests() {
		if r.Kind == Blob {
			sum += r.Bytes
		}
	}
	return sum
}

// Names lists what is served as repository:tag, in order.
func (s *Server) Names() ([]string, error) {
	all, err := names(s.Dirs)
	if err != nil {
		return nil, err
	}
	var list []string
	for repository, tags := range all {
		for tag := range tags {
			list = append(list, repository+":"+tag)
		}
	}
	slices.Sort(list)
	return list, nil
}

// Listen opens a listener on a loopback address; any other is refused, since
// the server has no TLS and serves whatever lies in its folders.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen address: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("listen address %q is not a loopback address", address)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}

// Serve answers on listener until ctx ends and all connections are closed. The
// error is nil when ctx was what ended it.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = server.Close() // stalled answers would keep a graceful shutdown waiting
		close(closed)
	})
	err := server.Serve(listener)
	if !stop() {
		<-closed
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	record := Request{
		Method:     r.Method,
		Range:      r.Header.Get("Range"),
		Namespace:  r.URL.Query().Get("ns"),
		Authorized: r.Header.Get("Authorization") != "",
	}
	answer := &answer{ResponseWriter: w, request: r, status: http.StatusOK}
	// Deferred: a cut leaves through a panic, and is a request all the same.
	defer func() {
		record.Status, record.Bytes = answer.status, answer.sent
		s.mu.Lock()
		s.requests = append(s.requests, record)
		s.mu.Unlock()
	}()

	var act string
	record.Kind, record.Repository, act, record.Reference = split(r.URL.Path)
	if fault := s.meet(&record); fault != nil {
		answer.fault = fault
		if !pause(r.Context(), fault.Delay) {
			return
		}
		if fault.Status != 0 {
			if fault.RetryAfter != "" {
				w.Header().Set("Retry-After", fault.RetryAfter)
			}
			fail(answer, fault.Status, "INJECTED", "fault of a test")
			return
		}
	}
	if record.Kind == Token {
		s.serveToken(answer, r)
		return
	}
	if !s.authorized(answer, r, record.Repository) {
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(answer, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
		return
	}
	switch act {
	case "ping":
		answer.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		answer.WriteHeader(http.StatusOK)
	case "manifests":
		s.serveManifest(answer, r, record.Repository, record.Reference)
	case "blobs":
		s.serveBlob(answer, r, record.Reference)
	case "tags":
		s.serveTags(answer, record.Repository)
	default:
		fail(answer, http.StatusNotFound, "UNSUPPORTED", "no such path")
	}
}

// split takes a path of the distribution API apart.
func split(path string) (kind Kind, repository, act, reference string) {
	if path == "/token" {
		return Token, "", "token", ""
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case !ok:
		return Any, "", "", ""
	case rest == "":
		return Any, "", "ping", ""
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return Any, name, "tags", ""
	}
	head, reference, ok := cutLast(rest)
	if !ok {
		return Any, "", "", ""
	}
	repository, act, ok = cutLast(head)
	if !ok {
		return Any, "", "", ""
	}
	switch act {
	case "manifests":
		return Manifest, repository, act, reference
	case "blobs":
		return Blob, repository, act, reference
	}
	return Any, "", "", ""
}

func cutLast(path string) (before, after string, ok bool) {
	at := strings.LastIndexByte(path, '/')
	if at <= 0 {
		return "", "", false
	}
	return path[:at], path[at+1:], true
}

// meet returns the fault that this request runs into, or nil.
func (s *Server) meet(r *Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fault := range s.faults {
		if fault.matches(r.Kind, r.Repository, r.Reference, r.Method) {
			return fault
		}
	}
	return nil
}

func (s *Server) serveManifest(w *answer, r *http.Request, repository, reference string) {
	all, err := names(s.Dirs)
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	tags, known := all[repository]
	if !known {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
		return
	}
	digest, kind := reference, ""
	if !digestPattern.MatchString(reference) {
		found, ok := tags[reference]
		if !ok {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no such tag")
			return
		}
		digest, kind = found.Digest, found.MediaType
	}
	file, err := blob(s.Dirs, digest)
	if err != nil {
		missing(w, err, "MANIFEST_UNKNOWN")
		return
	}
	defer func() { _ = file.Close() }() // read only
	if kind == "" {
		raw, err := io.ReadAll(io.LimitReader(file, 8<<20))
		if err != nil {
			fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
			return
		}
		kind = mediaType(raw)
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Type", kind)
	serveFile(w, r, file)
}

func (s *Server) serveBlob(w *answer, r *http.Request, digest string) {
	file, err := blob(s.Dirs, digest)
	if err != nil {
		missing(w, err, "BLOB_UNKNOWN")
		return
	}
	defer func() { _ = file.Close() }() // read only
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Type", "application/octet-stream")
	serveFile(w, r, file)
}

// serveFile sends content with Range and If-Range as the standard library
// knows them.
func serveFile(w *answer, r *http.Request, file *os.File) {
	if w.fault != nil && w.fault.NoRange {
		r.Header.Del("Range")
	}
	w.faulty = true
	http.ServeContent(w, r, "", time.Time{}, file)
}

func (s *Server) serveTags(w *answer, repository string) {
	all, err := names(s.Dirs)
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	tags, known := all[repository]
	if !known {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"name": repository, "tags": sortedTags(tags)})
}

func missing(w *answer, err error, code string) {
	if errors.Is(err, fs.ErrNotExist) {
		fail(w, http.StatusNotFound, code, "not here")
		return
	}
	fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
}

// fail answers in the error format of the distribution specification.
func fail(w *answer, status int, code, message string) {
	writeJSON(w, status, map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func writeJSON(w *answer, status int, value any) {
	raw, err := json.Marshal(value)
	if err != nil { // maps of strings always marshal
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	if w.request.Method != http.MethodHead {
		_, _ = w.Write(raw) // a client that left needs no answer
	}
}

// pause waits and says whether the client is still there.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
