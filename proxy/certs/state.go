package certs

import "tarima/proxy/routes"

// State of one name's certificate.
type State = routes.CertificateState

// Phase of a name's certificate.
type Phase = routes.CertificatePhase

// Phases of a certificate.
const (
	Waiting   = routes.CertificateWaiting
	Obtaining = routes.CertificateObtaining
	Valid     = routes.CertificateInPlace
	Failed    = routes.CertificateFailed
)
