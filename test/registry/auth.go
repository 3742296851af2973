package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
)

// authorized checks the request's credentials and answers with a challenge
// when they do not suffice.
func (s *Server) authorized(w *answer, r *http.Request, repository string) bool {
	if s.User == "" {
		return true
	}
	if s.Scheme == "token" {
		scope := fmt.Sprintf("repository:%s:pull", repository)
		if equal(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), s.token(scope)) {
			return true
		}
		w.Header().Set("WWW-Authenticate",
			fmt.Sprintf("Bearer realm=%q,service=%q,scope=%q", "http://"+r.Host+"/token", "test", scope))
	} else {
		if s.knows(r) {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	}
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// serveToken gives a bearer token for a scope to who has the credentials, in
// the way of the distribution project's token specification: GET with Basic,
// or POST with a form.
func (s *Server) serveToken(w *answer, r *http.Request) {
	scope := r.FormValue("scope")
	known := s.knows(r)
	if r.Method == http.MethodPost {
		known = equal(r.PostFormValue("username"), s.User) && equal(r.PostFormValue("password"), s.Password)
	}
	if s.User == "" || !known {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong user or password")
		return
	}
	token := s.token(scope)
	writeJSON(w, http.StatusOK, map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

func (s *Server) knows(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && equal(user, s.User) && equal(password, s.Password)
}

// token is the same for the same scope, so that no list of given tokens is
// needed, and cannot be guessed without the password.
func (s *Server) token(scope string) string {
	mac := hmac.New(sha256.New, []byte(s.Password))
	_, _ = mac.Write([]byte(scope)) // a hash never fails to write
	return hex.EncodeToString(mac.Sum(nil))
}

func equal(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
