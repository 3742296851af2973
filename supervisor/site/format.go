package site

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Format writes the Config as a site file, without comments, leaving out what
// it does not say. Parse reads it back to the same Config.
func Format(c Config) []byte {
	var b strings.Builder
	writeTable(&b, nil, reflect.ValueOf(c), false)
	return []byte(strings.TrimLeft(b.String(), "\n"))
}

// writeTable writes a table's own keys, then the tables within it. One that is
// named by the file is worth a line even when it is empty.
func writeTable(b *strings.Builder, path []string, v reflect.Value, named bool) {
	var inner []member
	header := len(path) == 0
	for _, m := range members(v) {
		// Within a free table all is written inline, which keeps its order.
		if isTable(m.value) && v.Type() != tableType {
			inner = append(inner, m)
			continue
		}
		var text string
		said := true
		if v.Type() == tableType {
			text = freeValue(m.value.Interface())
		} else {
			text, said = scalar(m.value)
		}
		if v.Kind() == reflect.Map {
			said = true // also an empty string is an entry of a free map
		}
		if !said {
			continue
		}
		if !header {
			b.WriteString("\n[" + joinKey(path) + "]\n")
			header = true
		}
		b.WriteString(quoteKey(m.name) + " = " + text + "\n")
	}
	if !header && (named || v.Type() == tableType && !v.IsNil()) {
		b.WriteString("\n[" + joinKey(path) + "]\n")
	}
	for _, m := range inner {
		writeTable(b, append(slices.Clone(path), m.name), m.value, v.Kind() == reflect.Map)
	}
}

// member is a key of a table with its value.
type member struct {
	name  string
	value reflect.Value
}

// members are the keys of a struct, a map or a Table.
func members(v reflect.Value) []member {
	var out []member
	switch {
	case v.Type() == tableType:
		for _, e := range v.Interface().(Table) {
			out = append(out, member{e.Key, reflect.ValueOf(e.Value)})
		}
	case v.Kind() == reflect.Map:
		keys := make([]string, 0, v.Len())
		for _, k := range v.MapKeys() {
			keys = append(keys, k.String())
		}
		slices.Sort(keys)
		for _, k := range keys {
			out = append(out, member{k, v.MapIndex(reflect.ValueOf(k))})
		}
	default:
		for i, name := range fieldNames(v.Type()) {
			out = append(out, member{name, v.Field(i)})
		}
	}
	return out
}

// isTable says whether a value has keys of its own.
func isTable(v reflect.Value) bool {
	if !v.IsValid() || v.Type() == prefixType {
		return false
	}
	return v.Type() == tableType || v.Kind() == reflect.Struct || v.Kind() == reflect.Map
}

// scalar writes a value as TOML does. It says no for what means that the file
// does not say.
func scalar(v reflect.Value) (text string, said bool) {
	switch x := v.Interface().(type) {
	case Bytes:
		return quoteString(x.String()), x != 0
	case time.Duration:
		return quoteString(x.String()), x != 0
	case netip.Prefix:
		return quoteString(x.String()), x.IsValid()
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return "", false
		}
		if d, ok := v.Interface().(*time.Duration); ok {
			return quoteString(d.String()), true
		}
		text, _ = scalar(v.Elem())
		return text, true
	case reflect.String:
		return quoteString(v.String()), v.String() != ""
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = element(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]", v.Len() > 0
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), v.Bool()
	case reflect.Uint16, reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10), v.Uint() != 0
	default:
		return strconv.FormatInt(v.Int(), 10), v.Int() != 0
	}
}

// element writes an item of a list: a table in one line.
func element(v reflect.Value) string {
	if !isTable(v) {
		text, _ := scalar(v)
		return text
	}
	var parts []string
	for _, m := range members(v) {
		if text, said := scalar(m.value); said {
			parts = append(parts, quoteKey(m.name)+" = "+text)
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// freeValue writes a value of a free table.
func freeValue(v any) string {
	switch v := v.(type) {
	case Table:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = quoteKey(e.Key) + " = " + freeValue(e.Value)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = freeValue(x)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		return quoteString(v)
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(s, ".e") {
			s += ".0"
		}
		return s
	default:
		return `""`
	}
}

// quoteString writes a TOML basic string.
func quoteString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			hex := strconv.FormatInt(int64(r), 16)
			b.WriteString(`\u` + strings.Repeat("0", 4-len(hex)) + hex)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// leaf is one value of a Config, as the file would write it.
type leaf struct {
	path []string
	text string
}

// leaves are all that a Config says, by key.
func leaves(c Config) map[string]leaf {
	out := map[string]leaf{}
	var walk func(path []string, v reflect.Value)
	walk = func(path []string, v reflect.Value) {
		for _, m := range members(v) {
			at := append(slices.Clone(path), m.name)
			switch {
			case v.Type() == tableType && (!isTable(m.value) || m.value.Len() == 0):
				out[joinKey(at)] = leaf{at, freeValue(m.value.Interface())}
			case isTable(m.value):
				walk(at, m.value)
			default:
				if text, said := scalar(m.value); said || v.Kind() == reflect.Map {
					out[joinKey(at)] = leaf{at, text}
				}
			}
		}
	}
	walk(nil, reflect.ValueOf(c))
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
