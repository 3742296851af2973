package certs

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// laterError is a failure that cost nothing at any authority: nothing was sent.
// It is tried again at a time of its own.
type laterError struct {
	at  time.Time
	err error
}

func (e *laterError) Error() string { return e.err.Error() }

func (e *laterError) Unwrap() error { return e.err }

// maxErrorText bounds what an authority says, in bytes: a problem document may
// be of any length.
const maxErrorText = 1000

// explain returns an error in words, and the last element of the type of the
// problem that it holds, "" when it holds none.
func explain(err error) (problem, text string) {
	if err == nil {
		return "", ""
	}
	var p acme.Problem
	if !errors.As(err, &p) {
		if d := (*doubtError)(nil); errors.As(err, &d) {
			problem = d.problem()
		}
		return problem, shorten(err.Error())
	}
	problem = strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace)
	// "compound" says nothing: the reasons are in the subproblems.
	details := []string{p.Detail}
	for _, s := range p.Subproblems {
		if problem == "compound" || problem == "" {
			problem = strings.TrimPrefix(s.Type, acme.ProblemTypeNamespace)
		}
		if s.Detail != "" && s.Detail != p.Detail {
			details = append(details, s.Detail)
		}
	}
	text = strings.Join(details, "; ")
	if strings.TrimSpace(text) == "" {
		text = http.StatusText(p.Status)
	}
	if problem != "" {
		text = problem + ": " + text
	}
	return shorten(problem), shorten(text)
}

// Explain is an error in words for people: the authority's own when it was one
// that refused.
func Explain(err error) string {
	_, text := explain(err)
	return text
}

func shorten(text string) string {
	text = strings.ToValidUTF8(text, "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' ' // an authority must not write into anybody's terminal
		}
		return r
	}, text)
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + " …"
	}
	return text
}

// isProblem says whether an error holds a problem of one of the types.
func isProblem(err error, types ...string) bool {
	var p acme.Problem
	if !errors.As(err, &p) {
		return false
	}
	for _, t := range types {
		if p.Type == t {
			return true
		}
	}
	return false
}

// problemStatus is the HTTP status of the problem in an error; 0: none.
func problemStatus(err error) int {
	var p acme.Problem
	if errors.As(err, &p) {
		return p.Status
	}
	return 0
}
