package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	proofCookie = "tarima_proof"
	proofLife   = 12 * time.Hour
	// proofBits leading zero bits are 260,000 attempts on average: some tenths
	// of a second in a browser, on a cheap phone a few seconds.
	proofBits = 18
	// A challenge is good for the slot of time in which it was made and the
	// one after.
	proofSlot = 10 * time.Minute
	proofBody = 8 << 10
	// proofWait is for programs and search engines: come back after the attack.
	proofWait = 10 * time.Minute
)

// challenge is what the work of a page is about.
type challenge struct {
	Text string
	Bits int
	Path string // where to go on
}

// proof answers the requests of those who have not worked yet.
func (x *exchange) proof(h *host) (answered bool) {
	from := neighbourhood(x.client.addr)
	switch {
	case isPreflight(x.r):
		return false
	case x.r.URL.Path == proofPath:
		x.judge(h, from)
		return true
	case x.cookie(proofCookie, "proof", h.Site, from):
		return false
	}
	x.retryAfter(proofWait)
	if wantsHTML(x.r) {
		x.challenge = &challenge{Text: x.s.challengeOf(h, from, x.start), Bits: proofBits, Path: "/"}
		if x.r.Method == http.MethodGet || x.r.Method == http.MethodHead {
			x.challenge.Path = x.r.URL.RequestURI()
		}
	}
	x.page(http.StatusServiceUnavailable, "proof")
	return true
}

// judge takes the result of the work.
func (x *exchange) judge(h *host, from string) {
	if x.r.Method != http.MethodPost || x.body == nil {
		x.seeOther("/")
		return
	}
	x.body.limit = proofBody
	data, err := io.ReadAll(x.r.Body)
	if errors.Is(err, errTooLarge) {
		x.page(http.StatusRequestEntityTooLarge, "body")
		return
	}
	form, formErr := url.ParseQuery(string(data))
	if err != nil || formErr != nil {
		x.page(http.StatusBadRequest, "malformed")
		return
	}
	text, nonce := form.Get("challenge"), form.Get("nonce")
	if !x.s.challenged(h, from, x.start, text) || !worked(text+nonce) {
		// Another challenge: the address may have changed on the way.
		x.challenge = &challenge{Text: x.s.challengeOf(h, from, x.start), Bits: proofBits, Path: ownPath(form.Get("path"))}
		x.retryAfter(proofWait)
		x.page(http.StatusServiceUnavailable, "proof")
		return
	}
	x.setCookie(h, proofCookie, x.s.signer.sign(x.start.Add(proofLife), "proof", h.Site, from), proofLife)
	x.seeOther(ownPath(form.Get("path")))
}

// challengeOf a neighbourhood at a time: nothing has to be remembered.
func (s *server) challengeOf(h *host, from string, at time.Time) string {
	slot := strconv.FormatInt(at.Unix()/int64(proofSlot/time.Second), 36)
	return s.signer.sum("challenge", h.Name, from, slot) + "." + slot
}

func (s *server) challenged(h *host, from string, now time.Time, text string) bool {
	return equalSecret(text, s.challengeOf(h, from, now)) || equalSecret(text, s.challengeOf(h, from, now.Add(-proofSlot)))
}

// worked says whether the SHA-256 of a text begins with enough zero bits.
func worked(text string) bool { return zeroBits(text) >= proofBits }

// zeroBits at the beginning of the SHA-256 of a text, at most 32.
func zeroBits(text string) int {
	sum := sha256.Sum256([]byte(text))
	return bits.LeadingZeros32(binary.BigEndian.Uint32(sum[:]))
}

// neighbourhood binds a proof to where it was made: a visitor's address changes
// within it, and a swarm has to work in each of its own.
func neighbourhood(a netip.Addr) string {
	length := 24
	if a.Is6() {
		length = 48
	}
	p, err := a.Prefix(length)
	if err != nil {
		return "local" // a unix socket has no address
	}
	return p.String()
}

// ownPath is a path and query of this host, or its root: what the form says
// may come from anybody.
func ownPath(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(to, "/") ||
		strings.HasPrefix(to, "//") || strings.ContainsFunc(to, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return "/"
	}
	return to
}
