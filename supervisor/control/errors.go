package control

import (
	"errors"
	"fmt"
	"net/http"
)

// ErrNotRunning says that no daemon answers on the socket.
var ErrNotRunning = errors.New("tarima is not running")

// ErrNoPermission says that the socket is there and this user may not use it.
var ErrNoPermission = errors.New("no permission to use the control socket")

// Code of a problem. Codes are stable and never translated.
type Code string

// The codes that the API answers with.
const (
	CodeNotFound Code = "not-found" // no such service, image or path
	CodeInvalid  Code = "invalid"   // the request or the site file is wrong
	CodeConflict Code = "conflict"  // not possible in the present state
	CodeInternal Code = "internal"
)

// Problem is an error that crosses the socket: a sentence for people and a
// code for programs. Details holds one line per wrong place of a site file.
type Problem struct {
	Code    Code     `json:"code"`
	Message string   `json:"message"`
	Details []string `json:"details,omitempty"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Message }

// Is lets errors.Is compare problems by code.
func (p *Problem) Is(target error) bool {
	var other *Problem
	return errors.As(target, &other) && other.Message == "" && other.Code == p.Code
}

// NotFound makes a problem of code not-found.
func NotFound(format string, args ...any) error {
	return &Problem{Code: CodeNotFound, Message: fmt.Sprintf(format, args...)}
}

// Invalid makes a problem of code invalid.
func Invalid(details []string, format string, args ...any) error {
	return &Problem{Code: CodeInvalid, Message: fmt.Sprintf(format, args...), Details: details}
}

// Conflict makes a problem of code conflict.
func Conflict(format string, args ...any) error {
	return &Problem{Code: CodeConflict, Message: fmt.Sprintf(format, args...)}
}

// problem turns any error into one that can cross the socket.
func problem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return &Problem{Code: CodeInternal, Message: err.Error()}
}

// status is the HTTP status that goes with a code.
func (c Code) status() int {
	switch c {
	case CodeNotFound:
		return http.StatusNotFound
	case CodeInvalid:
		return http.StatusUnprocessableEntity
	case CodeConflict:
		return http.StatusConflict
	default:
		return http.StatusInternalServerError
	}
}
