package site

import (
	"cmp"
	"slices"
)

// Change is one difference between two site files.
type Change struct {
	Key string `json:"key"`
	// From and To are the values as the file writes them; "" where the file
	// does not say. Both are left out for settings and environment variables,
	// which may be secrets: see Hidden.
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Kind   Kind   `json:"kind"`
	Hidden bool   `json:"hidden,omitempty"` // the values are not told
}

// Kind of a change.
type Kind string

// The kinds.
const (
	Added   Kind = "added"
	Removed Kind = "removed"
	Changed Kind = "changed"
)

// String writes the change in English words.
func (c Change) String() string {
	switch {
	case c.Kind == Added && c.Hidden:
		return c.Key + ": set"
	case c.Kind == Added:
		return c.Key + ": set to " + c.To
	case c.Kind == Removed && c.Hidden:
		return c.Key + ": removed"
	case c.Kind == Removed:
		return c.Key + ": removed (was " + c.From + ")"
	case c.Hidden:
		return c.Key + ": changed"
	default:
		return c.Key + ": " + c.From + " becomes " + c.To
	}
}

// Diff tells what b says otherwise than a, in the order of keys. Give it two
// Configs as parsed to compare what files say, or two with their defaults to
// compare what they mean.
func Diff(a, b Config) []Change {
	before, after := leaves(a), leaves(b)
	var out []Change
	for _, key := range sortedKeys(before) {
		was := before[key]
		now, still := after[key]
		switch {
		case !still:
			out = append(out, change(was, Change{Key: key, Kind: Removed, From: was.text}))
		case was.text != now.text:
			out = append(out, change(was, Change{Key: key, Kind: Changed, From: was.text, To: now.text}))
		}
	}
	for _, key := range sortedKeys(after) {
		if _, there := before[key]; !there {
			out = append(out, change(after[key], Change{Key: key, Kind: Added, To: after[key].text}))
		}
	}
	slices.SortFunc(out, func(x, y Change) int { return cmp.Compare(x.Key, y.Key) })
	return out
}

// change hides values that may be secrets.
func change(l leaf, c Change) Change {
	free := l.path[0] == "settings" || l.path[0] == "mfe"
	env := len(l.path) > 2 && l.path[0] == "services" && l.path[2] == "env"
	if free || env {
		c.From, c.To, c.Hidden = "", "", true
	}
	return c
}
