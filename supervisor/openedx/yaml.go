package openedx

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// yamlKey: keys that no YAML version reads as anything but this text.
var yamlKey = regexp.MustCompile(`^[A-Z][A-Z0-9]*_[A-Z0-9_]+$`)

// encodeYAML writes a value made of maps, slices, strings, numbers, booleans
// and nil as YAML that every version reads the same: strings are always quoted
// (plain "on", "1:20" and "=" are other things to YAML 1.1, which the platform
// reads), and characters that YAML forbids are escaped. Keys are sorted.
func encodeYAML(v map[string]any) ([]byte, error) {
	var b strings.Builder
	if err := yamlMap(&b, v, ""); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}

func yamlMap(b *strings.Builder, v map[string]any, indent string) error {
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b.WriteString(indent)
		if yamlKey.MatchString(k) {
			b.WriteString(k)
		} else {
			yamlString(b, k)
		}
		b.WriteByte(':')
		if err := yamlValue(b, v[k], indent); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	return nil
}

func yamlValue(b *strings.Builder, v any, indent string) error {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			b.WriteString(" {}\n")
			return nil
		}
		b.WriteByte('\n')
		return yamlMap(b, v, indent+"  ")
	case []any:
		if len(v) == 0 {
			b.WriteString(" []\n")
			return nil
		}
		b.WriteByte('\n')
		for _, e := range v {
			b.WriteString(indent + "  -")
			if err := yamlValue(b, e, indent+"  "); err != nil {
				return err
			}
		}
		return nil
	}
	b.WriteByte(' ')
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int:
		b.WriteString(strconv.Itoa(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		s := strconv.FormatFloat(v, 'f', -1, 64)
		switch {
		case s == "NaN":
			s = ".nan"
		case s == "+Inf":
			s = ".inf"
		case s == "-Inf":
			s = "-.inf"
		case !strings.Contains(s, "."):
			s += ".0"
		}
		b.WriteString(s)
	case string:
		yamlString(b, v)
	default:
		return fmt.Errorf("%w: a %T cannot be a setting", ErrConfig, v)
	}
	b.WriteByte('\n')
	return nil
}

// yamlString writes a double-quoted scalar (YAML 1.1, 5.6).
func yamlString(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r >= 0x20 && r <= 0x7e, r >= 0xa1 && r <= 0xd7ff && r != 0x2028 && r != 0x2029, r >= 0xe000 && r <= 0xfffd && r != 0xfeff:
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			fmt.Fprintf(b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
}
