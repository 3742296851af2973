package certs

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tarima/store/durable"
)

const (
	// ticketEvery is how often a new key seals the session tickets, ticketKeys
	// how many open them: a visitor's session is resumed for a day at least.
	ticketEvery = 12 * time.Hour
	ticketKeys  = 3
	ticketFile  = "tickets.json"
)

// Tickets seals TLS session tickets (RFC 5077, RFC 8446 section 4.6.1) with
// keys that change, and that outlive the process: visitors resume their
// sessions with the next one, and with a successor.
type Tickets struct {
	file   string
	logger *slog.Logger
	sealer tls.Config // its keys alone are used

	mu   sync.Mutex
	keys []ticketKey // newest first

	stop chan struct{}
	done sync.WaitGroup
}

type ticketKey struct {
	Made time.Time `json:"made"`
	Key  []byte    `json:"key"`
}

// OpenTickets reads the keys in a folder, and makes new ones when there are
// none or they cannot be read: visitors then begin new sessions, no more.
func OpenTickets(dir string, logger *slog.Logger) *Tickets {
	t := &Tickets{file: filepath.Join(dir, ticketFile), logger: logger, stop: make(chan struct{})}
	data, err := os.ReadFile(t.file)
	if err == nil {
		err = json.Unmarshal(data, &t.keys)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		logger.Warn("the keys of TLS sessions cannot be read; there will be new ones", "error", err)
	}
	t.rotate(time.Now())
	t.done.Go(t.run)
	return t
}

// Wrap serves crypto/tls.
func (t *Tickets) Wrap(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
	return t.sealer.EncryptTicket(state, session)
}

// Unwrap serves crypto/tls.
func (t *Tickets) Unwrap(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
	return t.sealer.DecryptTicket(ticket, state)
}

func (t *Tickets) run() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.rotate(time.Now())
		case <-t.stop:
			return
		}
	}
}

// rotate drops keys that are too old or not keys, and makes a new one when it
// is time.
func (t *Tickets) rotate(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var good []ticketKey
	for _, k := range t.keys {
		// One from the future is of a clock that was wrong: nobody knows how
		// old it is.
		if age := now.Sub(k.Made); len(k.Key) == 32 && age >= 0 && age < ticketKeys*ticketEvery && len(good) < ticketKeys {
			good = append(good, k)
		}
	}
	fresh := len(good) == 0 || now.Sub(good[0].Made) >= ticketEvery
	if fresh {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // it does not return on failure
		good = append([]ticketKey{{now, key}}, good[:min(len(good), ticketKeys-1)]...)
	}
	changed := fresh || len(good) != len(t.keys)
	t.keys = good
	all := make([][32]byte, len(good))
	for i, k := range good {
		all[i] = [32]byte(k.Key)
	}
	t.sealer.SetSessionTicketKeys(all)
	if !changed {
		return
	}
	data, err := json.Marshal(good)
	if err == nil {
		err = durable.Write(t.file, data, 0o600)
	}
	if err != nil {
		t.logger.Warn("the keys of TLS sessions are not on disk: visitors begin new sessions after a restart", "error", err)
	}
}

// Close ends the rotation.
func (t *Tickets) Close() {
	close(t.stop)
	t.done.Wait()
}
