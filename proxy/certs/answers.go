package certs

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"
)

// answers follows the requests to one authority. certmagic tells neither the
// Retry-After of a refusal nor which challenges were tried, but it logs both;
// this core of its log reads them.
type answers struct {
	bridge

	seen *seen
}

// seen is what the log told.
type seen struct {
	mu         sync.Mutex
	retryAfter time.Time // of the last refusal that had one
	asked      time.Time // when that was
	challenges map[string]string
	failures   map[string]int // validations, by name
}

func newSeen() *seen {
	return &seen{challenges: map[string]string{}, failures: map[string]int{}}
}

// Enabled serves zapcore.Core: what is looked for is told at debug level.
func (*answers) Enabled(zapcore.Level) bool { return true }

// With serves zapcore.Core.
func (a *answers) With(fields []zapcore.Field) zapcore.Core {
	return &answers{bridge{a.logger, append(append([]zapcore.Field{}, a.fields...), fields...)}, a.seen}
}

// Check serves zapcore.Core.
func (a *answers) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, a)
}

// Write serves zapcore.Core.
func (a *answers) Write(e zapcore.Entry, fields []zapcore.Field) error {
	switch e.Message {
	case "http request":
		a.request(fields)
	case "trying to solve challenge", "challenge failed":
		values := zapcore.NewMapObjectEncoder()
		for _, f := range append(append([]zapcore.Field{}, a.fields...), fields...) {
			f.AddTo(values)
		}
		name, _ := values.Fields["identifier"].(string)
		kind, _ := values.Fields["challenge_type"].(string)
		a.seen.challenge(name, kind, e.Message == "challenge failed")
	}
	if !a.bridge.Enabled(e.Level) {
		return nil
	}
	return a.bridge.Write(e, fields)
}

func (a *answers) request(fields []zapcore.Field) {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		if f.Key == "response_headers" || f.Key == "status_code" {
			f.AddTo(values)
		}
	}
	status, _ := values.Fields["status_code"].(int64)
	header, _ := values.Fields["response_headers"].(http.Header)
	if status >= 400 {
		a.seen.refusal(header.Get("Retry-After"), time.Now())
	}
}

// refusal notes when an authority wants to be asked again (RFC 9110 section
// 10.2.3: seconds or a date).
func (s *seen) refusal(retryAfter string, now time.Time) {
	var at time.Time
	if seconds, err := strconv.ParseUint(retryAfter, 10, 32); err == nil {
		at = now.Add(min(time.Duration(seconds)*time.Second, maxRetryAfter))
	} else if date, err := http.ParseTime(retryAfter); err == nil {
		at = earlier(date, now.Add(maxRetryAfter))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retryAfter, s.asked = at, now
}

func (s *seen) challenge(name, kind string, failed bool) {
	if name == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.challenges[name] = kind
	if failed {
		s.failures[name]++
	}
}

// take what was seen of an order for a name that began at a time.
func (s *seen) take(name string, began time.Time) (challenge string, failures int, retryAfter time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A wildcard is proved through the name below it.
	if len(name) > 2 && name[:2] == "*." {
		if _, ok := s.challenges[name]; !ok {
			name = name[2:]
		}
	}
	challenge, failures = s.challenges[name], s.failures[name]
	delete(s.challenges, name)
	delete(s.failures, name)
	if !s.asked.Before(began) {
		retryAfter = s.retryAfter
	}
	return challenge, failures, retryAfter
}
