package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"tarima/proxy/ratelimit"
	"tarima/proxy/routes"
)

const (
	// knownLife is how long a password that was right is known without
	// another comparison, which takes some 50 ms of a processor.
	knownLife = 10 * time.Minute
	knownMost = 1024
)

// authBudget bounds comparisons of one address.
var authBudget = ratelimit.Limit{Burst: 60, Every: 2 * time.Second}

// passwords compares passwords with their hashes, a few at a time.
type passwords struct {
	key  []byte // of the digests in known; of this process alone
	turn chan struct{}

	mu    sync.Mutex
	known map[[sha256.Size]byte]time.Time // until when
}

func newPasswords() *passwords {
	p := &passwords{
		key: make([]byte, 32), known: map[[sha256.Size]byte]time.Time{},
		// The other half of the machine goes on with the site.
		turn: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	_, _ = rand.Read(p.key) // it never fails, as documented
	return p
}

// auth lets nobody pass without a password (RFC 7617), and answers the others.
func (x *exchange) auth(h *host) (answered bool) {
	if isPreflight(x.r) {
		return false
	}
	user, password, given := x.r.BasicAuth()
	if !given {
		x.unauthorized(h)
		return true
	}
	p := x.s.passwords
	// Someone who is not there takes as long as someone who is.
	hash, exists := h.Auth.Users[user]
	if !exists {
		hash = h.anyHash
	}
	digest := p.digest(user, password, string(hash))
	if !p.remembers(digest, x.start) {
		if ok, wait := x.s.limiter.Allow(x.start, h.authBucket, x.client.addr, authBudget); !ok {
			x.tooOften(wait, "limit of log-ins")
			return true
		}
		select {
		case p.turn <- struct{}{}:
		case <-x.r.Context().Done():
			x.gone()
		}
		right := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
		<-p.turn
		if !right || !exists {
			x.unauthorized(h)
			return true
		}
		p.remember(digest, x.start)
	}
	// The site has log-ins of its own, and no use for this one.
	x.r.Header.Del("Authorization")
	return false
}

func (x *exchange) unauthorized(h *host) {
	realm := h.Auth.Realm
	if realm == "" {
		realm = h.Name
	}
	x.w.Header().Set("WWW-Authenticate", `Basic realm="`+realm+`", charset="UTF-8"`)
	x.page(http.StatusUnauthorized, "password")
}

func (p *passwords) digest(parts ...string) (d [sha256.Size]byte) {
	h := hmac.New(sha256.New, p.key)
	for _, part := range parts {
		sum := sha256.Sum256([]byte(part)) // so that no two lists of parts are one
		_, _ = h.Write(sum[:])             // it cannot fail
	}
	h.Sum(d[:0])
	return d
}

func (p *passwords) remembers(digest [sha256.Size]byte, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Before(p.known[digest])
}

func (p *passwords) remember(digest [sha256.Size]byte, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= knownMost {
		maps.DeleteFunc(p.known, func(_ [sha256.Size]byte, until time.Time) bool { return !now.Before(until) })
		if len(p.known) >= knownMost {
			clear(p.known) // more people than that: they are asked again, once
		}
	}
	p.known[digest] = now.Add(knownLife)
}

// costliest is a hash for names that do not exist: as much work as the most
// that a name which exists takes.
func costliest(users map[string]routes.Secret) routes.Secret {
	var hash routes.Secret
	most := 0
	for _, name := range slices.Sorted(maps.Keys(users)) {
		if c, err := bcrypt.Cost([]byte(users[name])); err == nil && c > most {
			hash, most = users[name], c
		}
	}
	return hash
}
