package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"tarima/proxy/certs"
	"tarima/proxy/routes"
)

const (
	// maxPairBytes bounds a certificate with its key on its way here.
	maxPairBytes = 1 << 20
	// orderTimeout is how long a command waits for an order: a proof in a
	// slow zone takes minutes.
	orderTimeout = 10 * time.Minute
)

// CertificateProblem is why something could not be done with a certificate.
type CertificateProblem struct {
	// Code is "not-found", "invalid" (what was imported), "conflict" (not
	// possible here or not yet) or "failed".
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Error implements error.
func (p *CertificateProblem) Error() string { return p.Message }

// Codes of a CertificateProblem.
const (
	CodeNotFound = "not-found"
	CodeInvalid  = "invalid"
	CodeConflict = "conflict"
	CodeFailed   = "failed"
)

func (s *server) certificateControl(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/certificates", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.keeper.States())
	})
	mux.HandleFunc("GET /v1/certificates/{name}", func(w http.ResponseWriter, r *http.Request) {
		state, err := s.keeper.State(r.PathValue("name"))
		answerCertificate(w, state, err)
	})
	mux.HandleFunc("GET /v1/certificates/{name}/chain", func(w http.ResponseWriter, r *http.Request) {
		pair, err := s.keeper.Export(r.PathValue("name"))
		answerCertificate(w, routes.CertificatePair{Chain: pair.Chain}, err)
	})
	mux.HandleFunc("POST /v1/certificates/{name}/export", func(w http.ResponseWriter, r *http.Request) {
		s.logger.Info("a certificate is exported with its key", "name", r.PathValue("name"))
		pair, err := s.keeper.Export(r.PathValue("name"))
		answerCertificate(w, pair, err)
	})
	mux.HandleFunc("POST /v1/certificates/{name}/renew", func(w http.ResponseWriter, r *http.Request) {
		state, err := s.keeper.Renew(r.Context(), r.PathValue("name"))
		answerCertificate(w, state, err)
	})
	mux.HandleFunc("POST /v1/certificates/{name}/check", func(w http.ResponseWriter, r *http.Request) {
		findings, err := s.keeper.Check(r.Context(), r.PathValue("name"))
		answerCertificate(w, findings, err)
	})
	mux.HandleFunc("PUT /v1/certificates/{name}", func(w http.ResponseWriter, r *http.Request) {
		var pair routes.CertificatePair
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPairBytes))
		if err == nil {
			err = json.Unmarshal(data, &pair)
		}
		if err != nil {
			answerCertificate(w, nil, fmt.Errorf("%w: it did not arrive whole", certs.ErrImport))
			return
		}
		state, err := s.keeper.Import(r.PathValue("name"), pair)
		answerCertificate(w, state, err)
	})
	mux.HandleFunc("DELETE /v1/certificates/{name}", func(w http.ResponseWriter, r *http.Request) {
		answerCertificate(w, struct{}{}, s.keeper.Forget(r.PathValue("name")))
	})
	mux.HandleFunc("GET /v1/imported", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.keeper.Imported())
	})
}

func answerCertificate(w http.ResponseWriter, value any, err error) {
	if err == nil {
		writeJSON(w, http.StatusOK, value)
		return
	}
	p := CertificateProblem{Code: CodeFailed, Message: certs.Explain(err)}
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, certs.ErrUnknownName):
		p.Code, status = CodeNotFound, http.StatusNotFound
	case errors.Is(err, certs.ErrImport):
		p.Code, status = CodeInvalid, http.StatusUnprocessableEntity
	case errors.Is(err, certs.ErrHeld), errors.Is(err, certs.ErrNotHere):
		p.Code, status = CodeConflict, http.StatusConflict
	}
	writeJSON(w, status, p)
}

// certificate asks the proxy about a certificate. An error is a
// *CertificateProblem, or means that no proxy answered.
func (c *Client) certificate(ctx context.Context, method, name, action string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	path := "/v1/certificates"
	if name != "" {
		path += "/" + url.PathEscape(name) + action
	}
	status, data, err := c.send(ctx, method, path, body)
	if err != nil {
		return fmt.Errorf("the proxy does not answer about certificates: %w", err)
	}
	if status != http.StatusOK {
		p := &CertificateProblem{}
		if json.Unmarshal(data, p) != nil || p.Message == "" {
			return fmt.Errorf("certificates: the proxy answers %d; is it of an older version?", status)
		}
		return p
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("certificates: answer of the proxy: %w", err)
	}
	return nil
}

// Certificates of all names.
func (c *Client) Certificates(ctx context.Context) (states []routes.CertificateState, err error) {
	return states, c.certificate(ctx, http.MethodGet, "", "", nil, &states)
}

// RenewCertificate gets a new certificate now and waits for it.
func (c *Client) RenewCertificate(ctx context.Context, name string) (state routes.CertificateState, err error) {
	return state, c.certificate(ctx, http.MethodPost, name, "/renew", nil, &state)
}

// CheckCertificate looks at what an order for a name needs.
func (c *Client) CheckCertificate(ctx context.Context, name string) (findings []routes.CertificateFinding, err error) {
	return findings, c.certificate(ctx, http.MethodPost, name, "/check", nil, &findings)
}

// ImportCertificate gives the proxy a certificate of one's own.
func (c *Client) ImportCertificate(ctx context.Context, name string, pair routes.CertificatePair) (state routes.CertificateState, err error) {
	return state, c.certificate(ctx, http.MethodPut, name, "", pair, &state)
}

// ForgetCertificate takes an imported certificate away.
func (c *Client) ForgetCertificate(ctx context.Context, name string) error {
	return c.certificate(ctx, http.MethodDelete, name, "", nil, &struct{}{})
}

// ExportCertificate returns what visitors of a name are shown, with its key.
func (c *Client) ExportCertificate(ctx context.Context, name string) (pair routes.CertificatePair, err error) {
	return pair, c.certificate(ctx, http.MethodPost, name, "/export", nil, &pair)
}

// ImportedCertificates are the names with an imported certificate, and whose
// wish each is (routes.OriginImported or routes.OriginFile).
func (c *Client) ImportedCertificates(ctx context.Context) (origins map[string]string, err error) {
	status, err := c.call(ctx, http.MethodGet, "/v1/imported", nil, &origins)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answer %d", status)
	}
	return origins, err
}
