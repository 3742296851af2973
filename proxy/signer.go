package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tarima/store/durable"
)

// signer makes and checks the proxy's own cookies. Its key lies in the proxy's
// folder, so that cookies outlive a restart and a successor knows them.
type signer struct{ key []byte }

const (
	signerFile = "cookie.key"
	signerSize = 32
)

// openSigner reads the key and makes one where there is none. One that is
// damaged is replaced: its cookies are worth no more than a moment's work.
func openSigner(dir string) (*signer, error) {
	key, err := os.ReadFile(filepath.Join(dir, signerFile))
	if err == nil && len(key) == signerSize {
		return &signer{key}, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key of the proxy's cookies: %w", err)
	}
	key = make([]byte, signerSize)
	_, _ = rand.Read(key) // it never fails, as documented
	if err := durable.Write(filepath.Join(dir, signerFile), key, 0o600); err != nil {
		return nil, fmt.Errorf("key of the proxy's cookies: %w", err)
	}
	return &signer{key}, nil
}

// sum is a keyed digest of parts, 22 characters.
func (s *signer) sum(parts ...string) string {
	h := hmac.New(sha256.New, s.key)
	for _, p := range parts {
		_, _ = h.Write([]byte(strconv.Itoa(len(p)) + ":" + p)) // it cannot fail
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// sign makes a text that says "until" for what parts say.
func (s *signer) sign(until time.Time, parts ...string) string {
	end := strconv.FormatInt(until.Unix(), 10)
	return end + "." + s.sum(append(parts, end)...)
}

// valid says whether a text was signed for the same parts and is not over.
func (s *signer) valid(text string, now time.Time, parts ...string) bool {
	end, sum, found := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(end, 10, 64)
	return found && err == nil && now.Unix() < seconds && hmac.Equal([]byte(sum), []byte(s.sum(append(parts, end)...)))
}

// setCookie gives the browser a signed cookie for all hosts of the site.
func (x *exchange) setCookie(h *host, name, value string, life time.Duration) {
	http.SetCookie(x.w, &http.Cookie{
		Name: name, Value: value, Path: "/", Domain: h.cookieDomain, MaxAge: int(life / time.Second),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: x.client.proto == "https",
	})
}

// cookie says whether one of the request's cookies of this name is valid.
func (x *exchange) cookie(name string, parts ...string) bool {
	for _, c := range x.r.CookiesNamed(name) {
		if x.s.signer.valid(c.Value, x.start, parts...) {
			return true
		}
	}
	return false
}

// seeOther leads on after one of the proxy's own forms and links.
func (x *exchange) seeOther(to string) {
	x.w.Header().Set("Cache-Control", "no-store")
	x.w.Header().Set("Referrer-Policy", "no-referrer")
	x.redirect(to, http.StatusSeeOther)
}

// cookieDomain of each host: the shortest host of its site that it is below,
// or itself when others are below it. Micro-frontends ask the LMS under its own
// name, and a cookie for both spares the visitor a second page. "" is a cookie
// for the one host alone.
func cookieDomain(name string, others []string) string {
	domain := ""
	for _, o := range others {
		if strings.HasSuffix(name, "."+o) && (domain == "" || len(o) < len(domain)) {
			domain = o
		}
	}
	if domain != "" {
		return domain
	}
	for _, o := range others {
		if strings.HasSuffix(o, "."+name) {
			return name
		}
	}
	return ""
}
