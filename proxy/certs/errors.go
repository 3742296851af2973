package certs

import "errors"

// ErrDamaged is an authority whose files on disk cannot be used: not PEM,
// a key that does not fit its certificate, expired.
var ErrDamaged = errors.New("damaged certificate authority")
