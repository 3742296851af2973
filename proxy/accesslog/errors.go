package accesslog

import "errors"

// ErrConfig is a configuration that cannot be meant: the text says which part.
var ErrConfig = errors.New("access log")
