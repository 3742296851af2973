package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// key lets its bearer do some actions on some indexes. The secret itself is not
// kept: it is derived from the master key and the uid.
type key struct {
	Name        *string    `json:"name"`
	Description *string    `json:"description"`
	UID         string     `json:"uid"`
	Actions     []string   `json:"actions"`
	Indexes     []string   `json:"indexes"`
	ExpiresAt   *time.Time `json:"expiresAt"`
	CreatedAt   time.Time  `json:"createdAt"`
	UpdatedAt   time.Time  `json:"updatedAt"`
}

// secret is the hexadecimal HMAC-SHA256 of the uid under the master key.
func (s *service) secret(uid string) string {
	mac := hmac.New(sha256.New, []byte(s.master))
	mac.Write([]byte(uid))
	return hex.EncodeToString(mac.Sum(nil))
}

func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (s *service) makeDefaultKeys() error {
	now := time.Now().UTC()
	for _, k := range []struct{ name, description, action string }{
		{"Default Search API Key", "Use it to search from the frontend", "search"},
		{"Default Admin API Key", "Use it for anything that is not a search operation. Caution! Do not expose it on a public frontend", "*"},
	} {
		s.keys = append(s.keys, &key{
			Name: &k.name, Description: &k.description, UID: newUID(), Actions: []string{k.action}, Indexes: []string{"*"},
			CreatedAt: now, UpdatedAt: now,
		})
	}
	return s.saveState()
}

// allow says whether the request may do the action on the index ("" when it is
// about none).
func (s *service) allow(r *http.Request, action, uid string) *apiError {
	if s.master == "" {
		return nil
	}
	head := r.Header.Get("Authorization")
	if head == "" {
		return problem(http.StatusUnauthorized, "auth", "missing_authorization_header", "The Authorization header is missing. It must use the bearer authorization method.")
	}
	token, ok := strings.CutPrefix(head, "Bearer ")
	if ok && hmac.Equal([]byte(token), []byte(s.master)) {
		return nil
	}
	denied := problem(http.StatusForbidden, "auth", "invalid_api_key", "The provided API key is invalid.")
	if !ok {
		return denied
	}
	if s.keyActs(token, action, uid) || action == "search" && s.tenantToken(token, uid) {
		return nil
	}
	return denied
}

func (s *service) keyActs(token, action, uid string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.keys {
		if hmac.Equal([]byte(s.secret(k.UID)), []byte(token)) {
			return k.allows(action, uid)
		}
	}
	return false
}

func (k *key) allows(action, uid string) bool {
	if k.ExpiresAt != nil && time.Now().After(*k.ExpiresAt) {
		return false
	}
	acts := slices.ContainsFunc(k.Actions, func(a string) bool { return matches(a, action) })
	return acts && (uid == "" || slices.ContainsFunc(k.Indexes, func(i string) bool { return matches(i, uid) }))
}

// matches compares a name with a pattern that may hold stars.
func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// tenantToken accepts a token that a backend made from one of its keys for one
// visitor: a JWT that names the key and the indexes.
func (s *service) tenantToken(token, uid string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims struct {
		APIKeyUID   string          `json:"apiKeyUid"`
		SearchRules json.RawMessage `json:"searchRules"`
		Exp         *float64        `json:"exp"`
	}
	if json.Unmarshal(raw, &claims) != nil {
		return false
	}
	if claims.Exp != nil && float64(time.Now().Unix()) > *claims.Exp {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, []byte(s.secret(claims.APIKeyUID)))
	mac.Write([]byte(parts[0] + "." + parts[1]))
	if !hmac.Equal(mac.Sum(nil), signature) {
		return false
	}
	var rules map[string]any
	if json.Unmarshal(claims.SearchRules, &rules) != nil {
		var list []string
		if json.Unmarshal(claims.SearchRules, &list) != nil {
			return false
		}
		rules = map[string]any{}
		for _, name := range list {
			rules[name] = nil
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.keys {
		if k.UID == claims.APIKeyUID {
			for name := range rules {
				if matches(name, uid) {
					return k.allows("search", uid)
				}
			}
		}
	}
	return false
}

// keyAnswer is a key as the API shows it, with its secret.
type keyAnswer struct {
	*key
	Key string `json:"key"`
}

func (s *service) listKeys(_ *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := []keyAnswer{}
	for _, k := range s.keys {
		all = append(all, keyAnswer{k, s.secret(k.UID)})
	}
	return http.StatusOK, map[string]any{"results": all, "offset": 0, "limit": 20, "total": len(all)}, nil
}

// findKey looks a key up by uid or secret; the lock is held.
func (s *service) findKey(name string) (int, *apiError) {
	for i, k := range s.keys {
		if k.UID == name || s.secret(k.UID) == name {
			return i, nil
		}
	}
	return 0, problem(http.StatusNotFound, "invalid_request", "api_key_not_found", fmt.Sprintf("API key `%s` not found.", name))
}

func (s *service) getKey(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.findKey(r.PathValue("key"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, keyAnswer{s.keys[i], s.secret(s.keys[i].UID)}, nil
}

func (s *service) createKey(r *http.Request) (int, any, *apiError) {
	var body struct {
		Name, Description, UID *string
		Actions, Indexes       []string
		ExpiresAt              *time.Time
	}
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	if len(body.Actions) == 0 || len(body.Indexes) == 0 {
		return 0, nil, problem(http.StatusBadRequest, "invalid_request", "missing_api_key_actions", "Missing field `actions` or `indexes`")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().UTC()
	k := &key{
		Name: body.Name, Description: body.Description, UID: newUID(), Actions: body.Actions, Indexes: body.Indexes,
		ExpiresAt: body.ExpiresAt, CreatedAt: now, UpdatedAt: now,
	}
	if body.UID != nil {
		k.UID = *body.UID
		if _, err := s.findKey(k.UID); err == nil {
			return 0, nil, problem(http.StatusConflict, "invalid_request", "api_key_already_exists", fmt.Sprintf("`uid` field value `%s` is already an existing API key.", k.UID))
		}
	}
	s.keys = append(s.keys, k)
	if err := s.saveState(); err != nil {
		s.keys = s.keys[:len(s.keys)-1]
		return 0, nil, internal(err)
	}
	return http.StatusCreated, keyAnswer{k, s.secret(k.UID)}, nil
}

func (s *service) deleteKey(r *http.Request) (int, any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.findKey(r.PathValue("key"))
	if err != nil {
		return 0, nil, err
	}
	s.keys = slices.Delete(s.keys, i, i+1)
	if err := s.saveState(); err != nil {
		return 0, nil, internal(err)
	}
	return http.StatusNoContent, nil, nil
}
