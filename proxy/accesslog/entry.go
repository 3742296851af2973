package accesslog

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// Entry is what is known of one request.
type Entry struct {
	Time   time.Time  // when it began
	Client netip.Addr // invalid: somebody behind a unix socket
	Method string
	Host   string
	Path   string // decoded, without query; see [RedactPath]
	Proto  string
	Status int
	Bytes  int64 // of the answer's body
	Took   time.Duration

	// Fields below are left out when they are empty.

	Upstream     string // address that was asked last
	UpstreamTook time.Duration
	Held         time.Duration // that it waited for a service
	Agent        string
	Referer      string // its query is not written
	Trace        string // trace-id of W3C Trace Context
	Request      string // X-Request-Id
	Note         string // why it ended as it did
}

// Addresses says what is written of clients' addresses.
type Addresses string

// What is written of an address.
const (
	Full  Addresses = "full"
	Short Addresses = "short" // the network alone: /24 of IPv4, /48 of IPv6
	None  Addresses = "none"
)

// Bounds of texts that visitors choose, in bytes.
const (
	maxPath = 2048
	maxText = 512
	maxName = 256
)

type field uint

const (
	fieldTime field = iota
	fieldClient
	fieldMethod
	fieldHost
	fieldPath
	fieldProto
	fieldStatus
	fieldBytes
	fieldTook
	fieldUpstream
	fieldUpstreamTook
	fieldHeld
	fieldAgent
	fieldReferer
	fieldTrace
	fieldRequest
	fieldNote
)

var fieldNames = []string{
	"time", "client", "method", "host", "path", "proto", "status", "bytes", "took",
	"upstream", "upstream_took", "held", "agent", "referer", "trace", "request", "note",
}

// Fields are the names of all fields, in the order of a line. Those of time
// are in seconds.
func Fields() []string { return slices.Clone(fieldNames) }

// format is how an entry becomes a line.
type format struct {
	fields    uint // a bit for each
	addresses Addresses
}

func newFormat(fields []string, a Addresses) (format, error) {
	f := format{addresses: a}
	for _, name := range fields {
		i := slices.Index(fieldNames, name)
		if i < 0 {
			return f, fmt.Errorf("%w: no field %q", ErrConfig, name)
		}
		f.fields |= 1 << i
	}
	if len(fields) == 0 {
		f.fields = 1<<len(fieldNames) - 1
	}
	switch a {
	case Full, Short, None:
	case "":
		f.addresses = Full
	default:
		return f, fmt.Errorf("%w: addresses %q: full, short or none", ErrConfig, a)
	}
	return f, nil
}

func (f format) has(x field) bool { return f.fields&(1<<x) != 0 }

// append writes e as one line.
func (f format) append(b []byte, e *Entry) []byte {
	text := func(x field, s string, limit int) {
		if s != "" && f.has(x) {
			b = appendString(f.key(b, x), s, limit)
		}
	}
	b = append(b, '{')
	if f.has(fieldTime) {
		b = append(f.key(b, fieldTime), '"')
		b = append(e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z"), '"')
	}
	if f.addresses != None && f.has(fieldClient) {
		b = append(f.appendAddress(append(f.key(b, fieldClient), '"'), e.Client), '"')
	}
	text(fieldMethod, e.Method, maxName)
	text(fieldHost, e.Host, maxName)
	text(fieldPath, RedactPath(e.Path), maxPath)
	text(fieldProto, e.Proto, maxName)
	if f.has(fieldStatus) {
		b = strconv.AppendInt(f.key(b, fieldStatus), int64(e.Status), 10)
	}
	if f.has(fieldBytes) {
		b = strconv.AppendInt(f.key(b, fieldBytes), e.Bytes, 10)
	}
	if f.has(fieldTook) {
		b = appendSeconds(f.key(b, fieldTook), e.Took)
	}
	text(fieldUpstream, e.Upstream, maxName)
	if e.Upstream != "" && f.has(fieldUpstreamTook) {
		b = appendSeconds(f.key(b, fieldUpstreamTook), e.UpstreamTook)
	}
	if e.Held > 0 && f.has(fieldHeld) {
		b = appendSeconds(f.key(b, fieldHeld), e.Held)
	}
	text(fieldAgent, e.Agent, maxText)
	if e.Referer != "" && f.has(fieldReferer) {
		text(fieldReferer, redactURL(e.Referer), maxText)
	}
	text(fieldTrace, e.Trace, maxName)
	text(fieldRequest, e.Request, maxName)
	text(fieldNote, e.Note, maxText)
	return append(b, '}', '\n')
}

// key begins a field.
func (f format) key(b []byte, x field) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, fieldNames[x]...)
	return append(b, '"', ':')
}

func (f format) appendAddress(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(b, "local"...)
	}
	a = a.Unmap().WithZone("")
	if f.addresses != Short {
		return a.AppendTo(b)
	}
	bits := 48
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked().AppendTo(b)
}

// appendLoss is the line that tells of lines that are missing before it.
func appendLoss(b []byte, at time.Time, lines uint64) []byte {
	b = append(b, `{"time":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","lost":`...)
	b = strconv.AppendUint(b, lines, 10)
	return append(b, '}', '\n')
}

// appendSeconds with six decimals.
func appendSeconds(b []byte, d time.Duration) []byte {
	us := max(d.Microseconds(), 0)
	b = strconv.AppendInt(b, us/1e6, 10)
	b = append(b, '.')
	for rest, digit := us%1e6, int64(1e5); digit > 0; digit /= 10 {
		b = append(b, byte('0'+rest/digit%10))
	}
	return b
}

const hex = "0123456789abcdef"

// appendString writes s as a JSON string of at most limit bytes of s. What is
// not printed as itself is escaped: no terminal and no reader of lines takes
// it for something else.
func appendString(b []byte, s string, limit int) []byte {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	b = append(b, '"')
	begin := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[begin:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			begin = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			b = append(b, s[begin:i]...)
			b = appendEscaped(b, r)
			begin = i + size
		}
		i += size
	}
	b = append(b, s[begin:]...)
	if cut {
		b = append(b, "…"...)
	}
	return append(b, '"')
}

func appendEscaped(b []byte, r rune) []byte {
	if r > 0xffff {
		r -= 0x10000
		return appendUnit(appendUnit(b, 0xd800|r>>10), 0xdc00|r&0x3ff)
	}
	return appendUnit(b, r)
}

func appendUnit(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
