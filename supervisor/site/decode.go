package site

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// decoder fills a Config from the tree and gathers problems.
type decoder struct {
	problems Problems
}

func (d *decoder) fail(path []string, format string, args ...any) {
	d.problems = append(d.problems, problem(path, format, args...))
}

var (
	bytesType    = reflect.TypeFor[Bytes]()
	durationType = reflect.TypeFor[time.Duration]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
	tableType    = reflect.TypeFor[Table]()
)

// value decodes one node into v, whose Go type says what is allowed.
func (d *decoder) value(n *node, v reflect.Value, path []string) {
	switch v.Type() {
	case bytesType:
		d.text(n, path, `a string with a size, as in "600MB"`, func(s string) error {
			b, err := ParseBytes(s)
			v.SetInt(int64(b))
			return err
		})
		return
	case durationType:
		d.text(n, path, `a string with a duration, as in "30s" or "2m"`, func(s string) error {
			t, err := time.ParseDuration(s)
			if err != nil {
				return fmt.Errorf(`%q is not a duration: write a number and a unit, as in "30s", "2m" or "1h"`, s)
			}
			v.SetInt(int64(t))
			return nil
		})
		return
	case prefixType:
		d.text(n, path, `a string with an address range, as in "10.213.0.0/24"`, func(s string) error {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return fmt.Errorf(`%q is not an address range: write ADDRESS/BITS, as in "10.213.0.0/24"`, s)
			}
			v.Set(reflect.ValueOf(p))
			return nil
		})
		return
	case tableType:
		if t, ok := d.free(n, path).(Table); ok && n.isTable() {
			v.Set(reflect.ValueOf(t))
		} else {
			d.fail(path, "is %s; a table is wanted: [%s]", kindOf(n), joinKey(path))
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), path)
		v.Set(p)
	case reflect.Struct:
		d.table(n, v, path)
	case reflect.Map:
		d.entries(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.String:
		d.text(n, path, "a string in quotes", func(s string) error { v.SetString(s); return nil })
	case reflect.Bool:
		b, ok := n.value.(bool)
		if !ok {
			d.fail(path, "is %s; true or false is wanted, without quotes", kindOf(n))
			return
		}
		v.SetBool(b)
	default:
		d.number(n, v, path)
	}
}

func (d *decoder) text(n *node, path []string, wanted string, set func(string) error) {
	s, ok := n.value.(string)
	if !ok {
		d.fail(path, "is %s; %s is wanted", kindOf(n), wanted)
		return
	}
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
		d.fail(path, "holds a control character or a line break")
		return
	}
	if err := set(s); err != nil {
		d.fail(path, "%s", err)
	}
}

func (d *decoder) number(n *node, v reflect.Value, path []string) {
	i, ok := n.value.(int64)
	switch {
	case !ok:
		d.fail(path, "is %s; a whole number is wanted, without quotes", kindOf(n))
	case v.CanUint() && (i < 0 || v.OverflowUint(uint64(i))): //nolint:gosec // checked on its left
		d.fail(path, "is %d; a number from 0 to %d is wanted", i, uint64(math.MaxUint64)>>(64-v.Type().Bits()))
	case v.CanUint():
		v.SetUint(uint64(i)) //nolint:gosec // not negative, checked above
	case v.OverflowInt(i):
		d.fail(path, "is %d; that is too large", i)
	default:
		v.SetInt(i)
	}
}

// table decodes a table whose keys are the fields of a struct.
func (d *decoder) table(n *node, v reflect.Value, path []string) {
	if !n.isTable() {
		d.fail(path, "is %s; a table is wanted: [%s]", kindOf(n), joinKey(path))
		return
	}
	names := fieldNames(v.Type())
	for _, k := range n.keys {
		at := append(slices.Clone(path), k)
		i := slices.Index(names, k)
		if i < 0 {
			d.problems = append(d.problems, unknownKey(at, names))
			continue
		}
		d.value(n.child(k), v.Field(i), at)
	}
}

// entries decodes a table whose keys are free.
func (d *decoder) entries(n *node, v reflect.Value, path []string) {
	if !n.isTable() {
		d.fail(path, "is %s; a table is wanted: [%s]", kindOf(n), joinKey(path))
		return
	}
	m := reflect.MakeMapWithSize(v.Type(), len(n.keys))
	for _, k := range n.keys {
		x := reflect.New(v.Type().Elem()).Elem()
		d.value(n.child(k), x, append(slices.Clone(path), k))
		m.SetMapIndex(reflect.ValueOf(k), x)
	}
	v.Set(m)
}

// list decodes an array of strings or of tables; one string alone stands for
// itself.
func (d *decoder) list(n *node, v reflect.Value, path []string) {
	items := n.items
	if elem := v.Type().Elem(); !n.array && elem.Kind() == reflect.Struct && elem != prefixType {
		d.fail(path, "is %s; a list of tables is wanted: [[%s]]", kindOf(n), joinKey(path))
		return
	}
	if !n.array {
		if _, ok := n.value.(string); !ok {
			d.fail(path, "is %s; a list of strings is wanted, as in [\"…\", \"…\"]", kindOf(n))
			return
		}
		items = []*node{n}
	}
	list := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i := range items {
		at := path
		if n.array {
			at = append(slices.Clone(path), index(i))
		}
		d.value(items[i], list.Index(i), at)
	}
	v.Set(list)
}

// free decodes a value of any shape.
func (d *decoder) free(n *node, path []string) any {
	switch {
	case n.isTable():
		t := make(Table, 0, len(n.keys))
		for _, k := range n.keys {
			t = append(t, Entry{Key: k, Value: d.free(n.child(k), append(slices.Clone(path), k))})
		}
		return t
	case n.array:
		list := make([]any, len(n.items))
		for i := range n.items {
			list[i] = d.free(n.items[i], append(slices.Clone(path), index(i)))
		}
		return list
	}
	switch v := n.value.(type) {
	case string, int64, bool:
		return v
	case float64:
		// No JSON and no YAML that Open edX reads could carry them.
		if math.IsNaN(v) || math.IsInf(v, 0) {
			d.fail(path, "is not a finite number")
			return nil
		}
		return v
	default:
		d.fail(path, "is %s; write it as a string in quotes", kindOf(n))
		return nil
	}
}

// index is the path element of an array's item.
func index(i int) string { return fmt.Sprintf("[%d]", i) }

// kindOf names what a node is, with the value left out: it may be a secret.
func kindOf(n *node) string {
	switch {
	case n.isTable():
		return "a table"
	case n.array:
		return "a list"
	}
	switch n.value.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number"
	case bool:
		return "true or false"
	default:
		return "a date or time"
	}
}

// fieldNames are the names of a struct's fields in the file, in their order.
func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("toml")
	}
	return names
}

func unknownKey(path, allowed []string) Problem {
	name := path[len(path)-1]
	p := problem(path, "unknown key")
	p.onKey = true
	p.Nearest = Nearest(name, allowed)
	if len(path) > 1 && slices.Contains(fieldNames(reflect.TypeFor[Config]()), name) {
		p.What += fmt.Sprintf("; [%s] is a table of its own", name)
		return p
	}
	// A key in the wrong table is the more usual mistake: say where it lives.
	if p.Nearest == "" {
		if homes := homesOf(name); len(homes) > 0 {
			p.What += fmt.Sprintf("; %s belongs to %s", quoteKey(name), strings.Join(homes, " or "))
			return p
		}
	}
	p.What += "; allowed here: " + strings.Join(allowed, ", ")
	return p
}

// homesOf are the tables that know a key of this name.
func homesOf(name string) []string {
	var homes []string
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		if t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct {
			t, path = t.Elem(), path+".NAME"
		}
		if t.Kind() == reflect.Slice {
			t, path = t.Elem(), "["+path+"]"
		}
		if t.Kind() != reflect.Struct || t == prefixType {
			return
		}
		names := fieldNames(t)
		for i, n := range names {
			at := strings.TrimPrefix(path+"."+n, ".")
			if n == name && path != "" {
				homes = append(homes, "["+path+"]")
			}
			walk(t.Field(i).Type, at)
		}
	}
	walk(reflect.TypeFor[Config](), "")
	return homes
}
