package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind of what a request asks for.
type Kind string

// The kinds of requests that a fault may be limited to.
const (
	Any      Kind = "any"
	Manifest Kind = "manifest"
	Blob     Kind = "blob"
	Token    Kind = "token"
)

// Fault is one way to misbehave. Its first three fields say which requests it
// meets; the others, what happens to them. Faults are tried in the order in
// which they were added, and the first that matches is the only one.
type Fault struct {
	Kind       Kind   // "": Any
	Repository string // "": every repository
	Digest     string // only requests for this digest; "": every request
	Method     string // "": every method
	Skip       int    // leave this many matching requests alone first
	Times      int    // then meet this many; 0: all

	Delay      time.Duration // before the answer
	Status     int           // answer with this status and no content; 0: serve
	RetryAfter string        // value of the Retry-After header that goes with Status
	CutAfter   int64         // close the connection after this many bytes of content; 0: never, -1: before the first
	StallAfter int64         // send no more after this many bytes, until the client leaves; 0: never
	Rate       int64         // bytes of content per second; 0: as fast as can be
	Corrupt    bool          // serve content whose first byte is inverted
	NoRange    bool          // ignore Range, as some proxies do

	// Reached, when set, is called once at the moment that a stall begins or a
	// cut happens, from the request's goroutine.
	Reached func()

	once sync.Once
	seen int
}

// matches counts a request that the fault is about and says whether it is met.
// The caller holds the server's lock.
func (f *Fault) matches(kind Kind, repository, digest, method string) bool {
	if f.Kind != "" && f.Kind != Any && f.Kind != kind ||
		f.Repository != "" && f.Repository != repository ||
		f.Digest != "" && f.Digest != digest ||
		f.Method != "" && f.Method != method {
		return false
	}
	f.seen++
	return f.seen > f.Skip && (f.Times == 0 || f.seen <= f.Skip+f.Times)
}

func (f *Fault) reached() {
	if f.Reached != nil {
		f.once.Do(f.Reached)
	}
}

// ErrFault is returned for a fault that cannot be read.
var ErrFault = errors.New("wrong fault")

// ParseFault reads a fault as the program takes it on its command line: fields
// parted by commas, such as
//
//	kind=blob,status=429,retry-after=2,times=3
//	kind=blob,cut=65536
//
// Fields: kind, repository, digest, method, skip, times, delay, status,
// retry-after, cut, stall, rate, corrupt, no-range.
func ParseFault(text string) (*Fault, error) {
	fault := &Fault{}
	acts := false
	for field := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		var err error
		switch key {
		case "kind":
			fault.Kind = Kind(value)
			if fault.Kind != Any && fault.Kind != Manifest && fault.Kind != Blob && fault.Kind != Token {
				err = errors.New("want any, manifest, blob or token")
			}
		case "repository":
			fault.Repository = value
		case "digest":
			fault.Digest = value
			if !digestPattern.MatchString(value) {
				err = errors.New("want sha256: and 64 hexadecimal digits")
			}
		case "method":
			fault.Method = value
		case "skip":
			fault.Skip, err = count(value)
		case "times":
			fault.Times, err = count(value)
		case "delay":
			fault.Delay, err = time.ParseDuration(value)
			acts = true
		case "status":
			fault.Status, err = strconv.Atoi(value)
			if err == nil && http.StatusText(fault.Status) == "" {
				err = errors.New("want an HTTP status")
			}
			acts = true
		case "retry-after":
			fault.RetryAfter = value
		case "cut":
			fault.CutAfter, err = size(value)
			acts = true
		case "stall":
			fault.StallAfter, err = size(value)
			acts = true
		case "rate":
			fault.Rate, err = size(value)
			acts = true
		case "corrupt":
			fault.Corrupt, acts = true, true
		case "no-range":
			fault.NoRange, acts = true, true
		default:
			err = errors.New("no such field")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrFault, field, err)
		}
	}
	if !acts {
		return nil, fmt.Errorf("%w: %q does nothing: give delay, status, cut, stall, rate, corrupt or no-range", ErrFault, text)
	}
	return fault, nil
}

func count(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err == nil && n < 0 {
		err = errors.New("want a number that is not negative")
	}
	return n, err
}

func size(value string) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err == nil && n <= 0 {
		err = errors.New("want a number of bytes above 0")
	}
	return n, err
}
