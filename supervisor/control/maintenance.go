package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Maintenance asks for public hosts to be closed or opened.
type Maintenance struct {
	Close bool      `json:"close"`
	Hosts []string  `json:"hosts,omitempty"` // none: every host
	Until time.Time `json:"until,omitzero"`  // what visitors are told when closing; zero: nothing
}

// Maintained answers /v1/maintenance.
type Maintained struct {
	Hosts []string  `json:"hosts"` // closed now; empty: none
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Passes are links that let a browser in. They are secrets: the path is
	// for root's socket alone.
	Passes []string `json:"passes,omitempty"`
}

const maxRequest = 1 << 20

func (s *Server) maintenanceRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/maintenance", func(w http.ResponseWriter, r *http.Request) {
		m, err := s.backend.Maintenance(r.Context())
		s.answer(w, m, err)
	})
	mux.HandleFunc("POST /v1/maintenance", func(w http.ResponseWriter, r *http.Request) {
		var m Maintenance
		if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&m); err != nil {
			s.answer(w, nil, Invalid(nil, "the request for maintenance cannot be read: %v", err))
			return
		}
		done, err := s.backend.Maintain(r.Context(), m)
		s.answer(w, done, err)
	})
}

// Maintenance asks which hosts are closed.
func (c *Client) Maintenance(ctx context.Context) (m Maintained, err error) {
	return m, c.call(ctx, http.MethodGet, "/v1/maintenance", nil, nil, &m)
}

// Maintain closes hosts or opens them.
func (c *Client) Maintain(ctx context.Context, want Maintenance) (m Maintained, err error) {
	body, err := json.Marshal(want)
	if err != nil {
		return m, fmt.Errorf("write the request: %w", err)
	}
	return m, c.call(ctx, http.MethodPost, "/v1/maintenance", nil, bytes.NewReader(body), &m)
}
