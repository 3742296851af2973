package routes

import "time"

// CertificatePhase is how far the certificate of a name is.
type CertificatePhase string

// Phases of a certificate.
const (
	CertificateWaiting   CertificatePhase = "waiting"   // nothing was tried yet
	CertificateObtaining CertificatePhase = "obtaining" // an order is under way and nothing is in place
	CertificateInPlace   CertificatePhase = "valid"
	CertificateFailed    CertificatePhase = "failed" // and tried again by itself
)

// Origins of a certificate.
const (
	OriginLocal    = "local"    // this server's own authority
	OriginACME     = "acme"     // a public authority
	OriginImported = "imported" // the administrator's own, given by a command
	OriginFile     = "file"     // the administrator's own, named by the site file
)

// CertificateState of one name.
type CertificateState struct {
	Name  string           `json:"name"`
	Phase CertificatePhase `json:"phase"`
	// Origin of the certificate that visitors are shown now; "": none.
	Origin string `json:"origin,omitempty"`
	// Wildcard is the name whose certificate serves this one; "": its own.
	Wildcard string `json:"wildcard,omitempty"`
	// Issuer is the common name of who signed it; before there is a
	// certificate, the address of the authority that is asked.
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"` // zero: not made yet
	// RenewAt is when it will be renewed by itself; zero: never.
	RenewAt time.Time `json:"renewAt,omitzero"`
	// Window is what the authority suggested for that (RFC 9773).
	WindowStart time.Time `json:"windowStart,omitzero"`
	WindowEnd   time.Time `json:"windowEnd,omitzero"`

	// Attempts that failed since the last success.
	Attempts    int       `json:"attempts,omitempty"`
	LastAttempt time.Time `json:"lastAttempt,omitzero"`
	NextAttempt time.Time `json:"nextAttempt,omitzero"` // zero: none is due
	LastError   string    `json:"lastError,omitempty"`
	// Problem is the last element of the authority's problem type (RFC 8555
	// section 6.7), such as "dns" or "rateLimited"; "": none, or not of an
	// authority.
	Problem   string `json:"problem,omitempty"`
	Challenge string `json:"challenge,omitempty"` // of the last attempt, such as "http-01"
	// Warning is one sentence about a certificate that is in place.
	Warning string `json:"warning,omitempty"`

	// What was asked of the authority lately, beside its limits; nil: no
	// authority is asked.
	Budget *CertificateBudget `json:"budget,omitempty"`
}

// CertificateBudget is what was used of an authority's limits, and the limits.
type CertificateBudget struct {
	Domain      string `json:"domain"` // the registered domain that the first limit is for
	Week        int    `json:"week"`   // certificates of the registered domain in seven days
	WeekLimit   int    `json:"weekLimit"`
	Same        int    `json:"same"` // certificates of exactly this name in seven days
	SameLimit   int    `json:"sameLimit"`
	Failed      int    `json:"failed"` // failed validations of this name in the last hour
	FailedLimit int    `json:"failedLimit"`
	Orders      int    `json:"orders"` // of all names in the last three hours
	OrdersLimit int    `json:"ordersLimit"`
}

// CertificateFinding is one thing that a check of a name found.
type CertificateFinding struct {
	Name string `json:"name"`
	// Level is "ok", "warning" (it may well work all the same) or "error" (an
	// order would fail).
	Level string `json:"level"`
	// Code tells what was found and never changes its meaning; Args fill the
	// places of its sentence.
	Code string            `json:"code"`
	Args map[string]string `json:"args,omitempty"`
	Text string            `json:"text"` // the sentence, in English
}

// Levels of a finding.
const (
	FindingOK      = "ok"
	FindingWarning = "warning"
	FindingError   = "error"
)

// CertificatePair is a certificate of the administrator's own with its key.
type CertificatePair struct {
	Chain string `json:"chain"` // PEM, the certificate of the name first
	Key   Secret `json:"key"`   // PEM
	// Origin is OriginImported (also "") or OriginFile.
	Origin string `json:"origin,omitempty"`
}
