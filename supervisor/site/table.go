package site

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Table is a free part of the site file: keys with values of any shape, in
// the order of the file.
type Table []Entry

// Entry is one key of a [Table]. Value is a string, int64, float64, bool,
// []any of such values, or a Table.
type Entry struct {
	Key   string
	Value any
}

// Get returns the value of key.
func (t Table) Get(key string) (any, bool) {
	for _, e := range t {
		if e.Key == key {
			return e.Value, true
		}
	}
	return nil, false
}

// Map returns the table as maps and slices, order lost.
func (t Table) Map() map[string]any {
	m := make(map[string]any, len(t))
	for _, e := range t {
		m[e.Key] = plain(e.Value)
	}
	return m
}

func plain(v any) any {
	switch v := v.(type) {
	case Table:
		return v.Map()
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	default:
		return v
	}
}

// MarshalJSON writes the table as an object, keys in their order.
func (t Table) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range t {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(e.Key)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(e.Value)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Merge returns t with the entries of over put in: an existing key keeps its
// place and takes over's value, tables within tables are merged the same way.
func (t Table) Merge(over Table) Table {
	out := slices.Clone(t)
	for _, e := range over {
		i := slices.IndexFunc(out, func(x Entry) bool { return x.Key == e.Key })
		if i < 0 {
			out = append(out, e)
			continue
		}
		below, isTable := out[i].Value.(Table)
		above, overTable := e.Value.(Table)
		if isTable && overTable {
			out[i].Value = below.Merge(above)
		} else {
			out[i].Value = e.Value
		}
	}
	return out
}
