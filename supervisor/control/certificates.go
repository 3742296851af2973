package control

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"tarima/proxy/routes"
)

// maxPair bounds a certificate with its key on its way here, in bytes.
const maxPair = 1 << 20

// Certificates is the part of a Backend that knows of certificates.
type Certificates interface {
	Certificates(ctx context.Context) ([]routes.CertificateState, error)
	// RenewCertificate gets a new one now and returns when it is in place.
	RenewCertificate(ctx context.Context, name string) (routes.CertificateState, error)
	CheckCertificate(ctx context.Context, name string) ([]routes.CertificateFinding, error)
	ImportCertificate(ctx context.Context, name string, pair routes.CertificatePair) (routes.CertificateState, error)
	ForgetCertificate(ctx context.Context, name string) error
	ExportCertificate(ctx context.Context, name string) (routes.CertificatePair, error)
}

func (s *Server) certificateReading(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/certificates", func(w http.ResponseWriter, r *http.Request) {
		states, err := s.backend.Certificates(r.Context())
		s.answer(w, states, err)
	})
}

func (s *Server) certificateChanges(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/certificates/{name}/renew", func(w http.ResponseWriter, r *http.Request) {
		state, err := s.backend.RenewCertificate(r.Context(), r.PathValue("name"))
		s.answer(w, state, err)
	})
	mux.HandleFunc("POST /v1/certificates/{name}/check", func(w http.ResponseWriter, r *http.Request) {
		findings, err := s.backend.CheckCertificate(r.Context(), r.PathValue("name"))
		s.answer(w, findings, err)
	})
	mux.HandleFunc("PUT /v1/certificates/{name}", func(w http.ResponseWriter, r *http.Request) {
		var pair routes.CertificatePair
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPair))
		if err == nil {
			err = json.Unmarshal(data, &pair)
		}
		if err != nil {
			s.answer(w, nil, Invalid(nil, "the certificate did not arrive whole")) // the error might quote the key
			return
		}
		pair.Origin = routes.OriginImported
		state, err := s.backend.ImportCertificate(r.Context(), r.PathValue("name"), pair)
		s.answer(w, state, err)
	})
	mux.HandleFunc("DELETE /v1/certificates/{name}", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, struct{}{}, s.backend.ForgetCertificate(r.Context(), r.PathValue("name")))
	})
	mux.HandleFunc("POST /v1/certificates/{name}/export", func(w http.ResponseWriter, r *http.Request) {
		pair, err := s.backend.ExportCertificate(r.Context(), r.PathValue("name"))
		s.answer(w, pair, err)
	})
}

func certificatePath(name, action string) string {
	return "/v1/certificates/" + url.PathEscape(name) + action
}

// Certificates of all names.
func (c *Client) Certificates(ctx context.Context) (states []routes.CertificateState, err error) {
	return states, c.call(ctx, http.MethodGet, "/v1/certificates", nil, nil, &states)
}

// RenewCertificate gets a new certificate for a name now and waits for it.
func (c *Client) RenewCertificate(ctx context.Context, name string) (state routes.CertificateState, err error) {
	return state, c.call(ctx, http.MethodPost, certificatePath(name, "/renew"), nil, nil, &state)
}

// CheckCertificate looks at what an order for a name needs.
func (c *Client) CheckCertificate(ctx context.Context, name string) (findings []routes.CertificateFinding, err error) {
	return findings, c.call(ctx, http.MethodPost, certificatePath(name, "/check"), nil, nil, &findings)
}

// ImportCertificate puts a certificate of one's own in place.
func (c *Client) ImportCertificate(ctx context.Context, name string, pair routes.CertificatePair) (state routes.CertificateState, err error) {
	body, err := json.Marshal(pair)
	if err != nil {
		return state, err
	}
	return state, c.call(ctx, http.MethodPut, certificatePath(name, ""), nil, bytes.NewReader(body), &state)
}

// ForgetCertificate takes an imported certificate away.
func (c *Client) ForgetCertificate(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, certificatePath(name, ""), nil, nil, new(struct{}))
}

// ExportCertificate returns what visitors of a name are shown, with its key.
func (c *Client) ExportCertificate(ctx context.Context, name string) (pair routes.CertificatePair, err error) {
	return pair, c.call(ctx, http.MethodPost, certificatePath(name, "/export"), nil, nil, &pair)
}
