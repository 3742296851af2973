package site

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Load reads and parses the site file at path. A file that is missing is
// reported with what to do about it.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("read the site file: %w; make one with `tarima setup`", err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the site file: %w", err)
	}
	return Parse(path, data)
}

// Parse reads a site file. The name stands before each line number in errors.
//
// The error, if any, is [Problems]: all mistakes at once, in the order of the
// file. (A mistake in the TOML syntax itself hides what comes after it.) The
// returned Config is as written, with names in their normal form; apply
// [Defaults] before using it.
func Parse(name string, data []byte) (Config, error) {
	// Editors on Windows put a byte order mark first, which TOML does not know.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	root, bad := parseTree(data)
	if bad != nil {
		bad.File = name
		return Config{}, Problems{*bad}
	}
	var c Config
	var d decoder
	d.table(root, reflect.ValueOf(&c).Elem(), nil)
	normalise(&c)
	found := append(d.problems, validate(&c, func(path []string) bool { return !d.failed(path) })...)
	more := len(found) - mostProblems
	found = found[:min(len(found), mostProblems)]
	for i := range found {
		locate(&found[i], name, data, root)
	}
	slices.SortStableFunc(found, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if more > 0 {
		found = append(found, Problem{File: name, What: fmt.Sprintf("and %d more; is this a site file?", more)})
	}
	if err := found.err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// mostProblems bounds what is reported: nobody reads more.
const mostProblems = 100

// failed says whether the value at path, or a table around it, could not even
// be decoded, so that a second complaint about it would only confuse.
func (d *decoder) failed(path []string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool {
		return len(p.path) <= len(path) && slices.Equal(p.path, path[:len(p.path)])
	})
}

// locate finds the line and column of a problem: of the value, or of the
// nearest table around a key that is missing.
func locate(p *Problem, name string, data []byte, root *node) {
	p.File = name
	n, at := root, -1
	for i, k := range p.path {
		if n.array {
			item, err := strconv.Atoi(strings.Trim(k, "[]"))
			if err != nil || item >= len(n.items) {
				break
			}
			n = n.items[item]
			at = n.at
			continue
		}
		c := n.child(k)
		if c == nil {
			break
		}
		n = c
		at = n.at
		if p.onKey && i == len(p.path)-1 {
			at = n.key
		}
	}
	if at >= 0 {
		p.Line, p.Column = position(data, at)
	}
}
