package site

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Problem is one mistake in a site file.
type Problem struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`   // from 1; 0: the problem is not in the text, as for a key that is missing
	Column int    `json:"column,omitempty"` // from 1, in characters
	Key    string `json:"key,omitempty"`    // dotted, as in services.lms.memory
	What   string `json:"what"`             // what is wrong and what is allowed
	// Nearest is the right name that the wrong one resembles most.
	Nearest string `json:"nearest,omitempty"`

	path []string
	// onKey points at the key rather than at its value.
	onKey bool
}

// String writes the problem in one line: FILE:LINE:COLUMN: KEY: WHAT.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.What)
	if p.Nearest != "" {
		fmt.Fprintf(&b, "; did you mean %q?", p.Nearest)
	}
	return b.String()
}

// Problems are all the mistakes of a site file, in the order of the file. It
// is the error of [Parse] and [Validate], and matches [ErrInvalid].
type Problems []Problem

// ErrInvalid is matched by every error that says that a site file is wrong.
var ErrInvalid = errors.New("the site file is wrong")

// Error writes one problem per line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Is makes errors.Is(err, ErrInvalid) true.
func (p Problems) Is(target error) bool { return target == ErrInvalid }

// err is nil when there is no problem, so that callers never hold a non-nil
// error of no problems.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// problem of the value at path.
func problem(path []string, format string, args ...any) Problem {
	return Problem{Key: joinKey(path), What: fmt.Sprintf(format, args...), path: slices.Clone(path)}
}

// joinKey writes a path as TOML would, quoting what needs it, with the items
// of lists as [0], [1] and so on.
func joinKey(path []string) string {
	var b strings.Builder
	for i, k := range path {
		if itemIndex.MatchString(k) {
			b.WriteString(k)
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(quoteKey(k))
	}
	return b.String()
}

var itemIndex = regexp.MustCompile(`^\[[0-9]+\]$`)

func quoteKey(k string) string {
	bare := k != "" && strings.IndexFunc(k, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
	if bare {
		return k
	}
	return quoteString(k)
}

// choices writes names for people: "a", "b" or "c".
func choices(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}
