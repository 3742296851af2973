package site

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile bounds a site file; a real one has a few kilobytes. The library's
// search for keys that are there twice takes the square of their number.
const maxFile = 256 << 10

// maxDepth bounds how deep tables and arrays nest, for the stack's sake.
const maxDepth = 64

// node is a value of the file with its place: what the TOML library decodes,
// plus the order and the positions that it leaves out.
type node struct {
	key, at  int // byte offsets of the key and of the value
	value    any // scalars: as the library decodes them
	keys     []string
	children map[string]*node // tables
	items    []*node          // arrays
	array    bool
}

func newTable(key int) *node {
	return &node{key: key, at: key, children: map[string]*node{}}
}

func (n *node) isTable() bool { return n.children != nil }

func (n *node) child(name string) *node {
	if n == nil || n.children == nil {
		return nil
	}
	return n.children[name]
}

func (n *node) put(name string, c *node) {
	if _, there := n.children[name]; !there {
		n.keys = append(n.keys, name)
	}
	n.children[name] = c
}

// parseTree reads the text. The library's own decoder decides what is TOML;
// its syntax tree then gives order and positions.
func parseTree(data []byte) (*node, *Problem) {
	if len(data) > maxFile {
		return nil, &Problem{What: fmt.Sprintf("the file has %d bytes; a site file has at most %d", len(data), maxFile)}
	}
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		p := Problem{What: "not valid TOML: " + err.Error()}
		var decode *toml.DecodeError
		if errors.As(err, &decode) {
			row, column := decode.Position()
			p.Line, p.Column = row, characters(line(data, row), column-1)+1
			p.Key = joinKey(decode.Key())
		}
		return nil, &p
	}
	root, err := positions(data)
	if err != nil {
		return nil, &Problem{What: "not valid TOML: " + err.Error()}
	}
	if err := zip(root, values, 0); err != nil {
		return nil, &Problem{What: err.Error()}
	}
	return root, nil
}

// positions builds the tree without its values. The text is known to be valid
// TOML, so that no key is defined twice in a way that could lose anything.
func positions(data []byte) (*node, error) {
	root := newTable(0)
	current := root
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			current = header(&p, root, e)
		case unstable.KeyValue:
			keyValue(&p, current, e, 0)
		}
	}
	return root, p.Error()
}

// header goes to the table of a [header] or of a new item of [[header]].
func header(p *unstable.Parser, root *node, e *unstable.Node) *node {
	n := root
	for it := e.Key(); it.Next(); {
		k := it.Node()
		name, at := string(k.Data), offset(k, 0)
		c := n.child(name)
		if it.IsLast() && e.Kind == unstable.ArrayTable {
			if c == nil {
				c = &node{key: at, at: at, array: true}
				n.put(name, c)
			}
			item := newTable(at)
			c.items = append(c.items, item)
			return item
		}
		switch {
		case c == nil:
			c = newTable(at)
			n.put(name, c)
		case c.array && len(c.items) > 0:
			// A header below [[x]] speaks of the newest item.
			c = c.items[len(c.items)-1]
		case it.IsLast():
			c.key, c.at = at, at
		}
		n = c
	}
	return n
}

func keyValue(p *unstable.Parser, n *node, e *unstable.Node, depth int) {
	at := 0
	for it := e.Key(); it.Next(); {
		k := it.Node()
		name := string(k.Data)
		at = offset(k, at)
		if it.IsLast() {
			c := value(p, e.Value(), at, depth)
			c.key = at
			n.put(name, c)
			return
		}
		c := n.child(name)
		if c == nil {
			c = newTable(at)
			n.put(name, c)
		}
		n = c
	}
}

func value(p *unstable.Parser, v *unstable.Node, key, depth int) *node {
	at := offset(v, key)
	if depth > maxDepth {
		return &node{at: at}
	}
	switch v.Kind {
	case unstable.InlineTable:
		t := newTable(at)
		for it := v.Children(); it.Next(); {
			keyValue(p, t, it.Node(), depth+1)
		}
		return t
	case unstable.Array:
		a := &node{at: at, array: true}
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			a.items = append(a.items, value(p, it.Node(), at, depth+1))
		}
		return a
	default:
		return &node{at: at}
	}
}

// offset of a node in the text, or the fallback where the parser keeps none.
func offset(n *unstable.Node, fallback int) int {
	if n.Raw.Length == 0 {
		return fallback
	}
	return int(n.Raw.Offset)
}

// zip puts the decoded values into the tree.
func zip(n *node, v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("tables and arrays nest deeper than %d", maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		if !n.isTable() || len(v) != len(n.children) {
			return errors.New("the file cannot be understood: its keys contradict each other")
		}
		for k, x := range v {
			c := n.child(k)
			if c == nil {
				return fmt.Errorf("the file cannot be understood near key %q", k)
			}
			if err := zip(c, x, depth+1); err != nil {
				return err
			}
		}
	case []any:
		if !n.array || len(v) != len(n.items) {
			return errors.New("the file cannot be understood: its arrays contradict each other")
		}
		for i, x := range v {
			if err := zip(n.items[i], x, depth+1); err != nil {
				return err
			}
		}
	default:
		n.value = v
	}
	return nil
}

// position turns a byte offset into line and column, both from 1; columns
// count characters, as editors do.
func position(data []byte, offset int) (row, column int) {
	offset = min(max(offset, 0), len(data))
	before := data[:offset]
	row = bytes.Count(before, []byte("\n")) + 1
	start := bytes.LastIndexByte(before, '\n') + 1
	return row, utf8.RuneCount(before[start:]) + 1
}

func line(data []byte, row int) []byte {
	for ; row > 1; row-- {
		at := bytes.IndexByte(data, '\n')
		if at < 0 {
			return nil
		}
		data = data[at+1:]
	}
	return data
}

func characters(line []byte, n int) int {
	return utf8.RuneCount(line[:min(max(n, 0), len(line))])
}
