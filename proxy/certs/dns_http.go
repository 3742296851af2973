package certs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// webAPI is a provider's service over HTTPS with JSON.
type webAPI struct {
	base   string
	client *http.Client
	// sign adds what proves who asks.
	sign func(r *http.Request, body []byte)
}

// dnsClient follows no redirects: they would carry the token elsewhere.
func dnsClient() *http.Client {
	return &http.Client{
		Timeout:       dnsCallTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func bearer(base, token string) *webAPI {
	return &webAPI{base: base, client: dnsClient(), sign: func(r *http.Request, _ []byte) { r.Header.Set("Authorization", "Bearer "+token) }}
}

// statusError is an answer that is none of success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// call sends in as JSON (nil: nothing) and reads the answer into out (nil: not
// at all). Secrets travel in headers and bodies, and neither is in an error.
func (a *webAPI) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: the address of the request is wrong", method) // it may hold a secret
	}
	r.Header.Set("Accept", "application/json")
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	a.sign(r, body)
	response, err := a.client.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.URL.Host, withoutAddress(err))
	}
	defer func() { _ = response.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", r.URL.Host, withoutAddress(err))
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		text := fmt.Sprintf("%s answers %s to %s", r.URL.Host, response.Status, method)
		if said := said(data); said != "" {
			text += ": " + said
		}
		return &statusError{response.StatusCode, text}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s: the answer cannot be read: %w", r.URL.Host, err)
	}
	return nil
}

// withoutAddress takes the request's address out of an error.
func withoutAddress(err error) error {
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // the outermost one is meant
		return u.Err
	}
	return err
}

// said finds the sentence in an error's body, whatever its shape.
func said(data []byte) string {
	var answer struct {
		Message string          `json:"message"`
		Detail  string          `json:"detail"`
		Error   json.RawMessage `json:"error"`
		Errors  []struct {
			Message string `json:"message"`
			Reason  string `json:"reason"`
		} `json:"errors"`
	}
	if json.Unmarshal(data, &answer) != nil {
		return ""
	}
	texts := []string{answer.Message, answer.Detail}
	var text string
	var object struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(answer.Error, &text) == nil {
		texts = append(texts, text)
	} else if json.Unmarshal(answer.Error, &object) == nil {
		texts = append(texts, object.Message)
	}
	for _, e := range answer.Errors {
		texts = append(texts, e.Message, e.Reason)
	}
	var out []string
	for _, t := range texts {
		if t != "" {
			out = append(out, t)
		}
	}
	text = shorten(strings.Join(out, "; "))
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + " …"
	}
	return text
}

func ttlSeconds(least time.Duration) int { return int(max(dnsTTL, least) / time.Second) }

func escape(s string) string { return url.PathEscape(s) }
