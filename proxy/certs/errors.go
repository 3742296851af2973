package certs

import "errors"

var (
	// ErrDamaged is an authority whose files on disk cannot be used: not PEM,
	// or a key that does not fit its certificate.
	ErrDamaged = errors.New("damaged certificate authority")
	// ErrSource is a wrong description of where certificates come from: an
	// unknown DNS provider or setting, a bad address, a wildcard without DNS.
	ErrSource = errors.New("source of certificates")
	// ErrUnknownName is a name that this server does not serve.
	ErrUnknownName = errors.New("unknown name")
	// ErrNotHere is what the present source of certificates does not offer,
	// such as the renewal of an imported certificate.
	ErrNotHere = errors.New("not possible here")
	// ErrHeld is an order that the limits of an authority do not allow yet.
	ErrHeld = errors.New("held back")
	// ErrImport is a certificate or key that cannot be used for the name.
	ErrImport = errors.New("certificate refused")
)
