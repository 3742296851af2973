package files

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// verdict of the preconditions of a request.
type verdict int

const (
	proceed     verdict = iota
	notModified         // 304
	failed              // 412
)

// evaluate follows the order of RFC 9110 section 13.2.2. The method is GET or
// HEAD. modified is zero when it is unknown.
func evaluate(h http.Header, etag string, modified time.Time) verdict {
	if values := h["If-Match"]; len(values) > 0 {
		if !matches(values, etag, true) {
			return failed
		}
	} else if date, ok := dateOf(h, "If-Unmodified-Since"); ok && !modified.IsZero() && modified.After(date) {
		return failed
	}
	if values := h["If-None-Match"]; len(values) > 0 {
		if matches(values, etag, false) {
			return notModified
		}
	} else if date, ok := dateOf(h, "If-Modified-Since"); ok && !modified.IsZero() && !modified.After(date) {
		return notModified
	}
	return proceed
}

// dateOf a header; one that is no single HTTP date is ignored.
func dateOf(h http.Header, name string) (time.Time, bool) {
	values := h[name]
	if len(values) != 1 {
		return time.Time{}, false
	}
	date, err := http.ParseTime(values[0])
	return date, err == nil
}

// matches says whether a list of entity tags has this one, or is "*". A list is
// read up to its first mistake.
func matches(values []string, etag string, strong bool) bool {
	for _, list := range values {
		if strings.TrimSpace(list) == "*" {
			return true
		}
		for {
			list = strings.TrimLeft(list, ", \t")
			weak := strings.HasPrefix(list, "W/")
			tag, rest, ok := cutTag(strings.TrimPrefix(list, "W/"))
			if !ok {
				break
			}
			if tag == etag && !(weak && strong) {
				return true
			}
			list = strings.TrimLeft(rest, " \t")
			if list != "" && list[0] != ',' {
				break
			}
		}
	}
	return false
}

// cutTag takes a quoted entity tag from the beginning of a text.
func cutTag(s string) (tag, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[:i+1], s[i+1:], true
		case c < 0x21 || c == 0x7f:
			return "", "", false
		}
	}
	return "", "", false
}

// A date is a strong validator when the file was not changed again within its
// second, which is sure after another one (RFC 9110 section 8.8.2.2).
const dateIsStrong = 2 * time.Second

// rangeStands says whether If-Range lets a range be answered (RFC 9110 section
// 13.1.5): only for exactly this file in this encoding.
func rangeStands(h http.Header, etag string, modified, now time.Time) bool {
	values := h["If-Range"]
	if len(values) == 0 {
		return true
	}
	if len(values) > 1 {
		return false
	}
	value := strings.TrimSpace(values[0])
	if tag, rest, ok := cutTag(value); ok {
		return rest == "" && tag == etag
	}
	date, err := http.ParseTime(value)
	return err == nil && !modified.IsZero() && date.Equal(modified) && now.Sub(modified) >= dateIsStrong
}

// span is a part of a file: length bytes from start.
type span struct{ start, length int64 }

// spanOf reads a Range header of a single range (RFC 9110 section 14.1.2) over
// size bytes. ok is false for a header to ignore: another unit, a mistake, or
// several ranges. A range without a byte in the file has length 0.
func spanOf(values []string, size int64) (s span, ok bool) {
	if len(values) != 1 {
		return s, false
	}
	unit, set, found := strings.Cut(values[0], "=")
	if !found || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return s, false
	}
	first, last, found := strings.Cut(strings.TrimSpace(set), "-")
	if !found {
		return s, false
	}
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	if first == "" { // the last bytes
		n, ok := number(last)
		if !ok {
			return s, false
		}
		n = min(n, size)
		return span{size - n, n}, true
	}
	start, ok := number(first)
	if !ok {
		return s, false
	}
	end := size - 1
	if last != "" {
		if end, ok = number(last); !ok || end < start {
			return s, false
		}
		end = min(end, size-1)
	}
	if start >= size {
		return span{start: start}, true
	}
	return span{start, end - start + 1}, true
}

// Parts that one answer may have; a reader of a document asks for a few.
const maxParts = 16

// partsOf reads a Range header of several ranges and returns those that have
// bytes in the file, as a header again. ok is false for a header to ignore: with
// a mistake, or with more than is sensible (RFC 9110 section 14.2).
func partsOf(values []string, size int64) (header string, ok bool) {
	if len(values) != 1 {
		return "", false
	}
	unit, set, _ := strings.Cut(values[0], "=")
	var parts []string
	var sum int64
	for item := range strings.SplitSeq(set, ",") {
		if strings.TrimSpace(item) == "" {
			continue // RFC 9110 section 5.6.1.2
		}
		s, ok := spanOf([]string{unit + "=" + item}, size)
		if !ok || len(parts) == maxParts {
			return "", false
		}
		if s.length == 0 {
			continue
		}
		if sum += s.length; sum > size {
			return "", false
		}
		parts = append(parts, strconv.FormatInt(s.start, 10)+"-"+strconv.FormatInt(s.start+s.length-1, 10))
	}
	if parts == nil {
		return "", strings.Trim(set, ", \t") != ""
	}
	return "bytes=" + strings.Join(parts, ","), true
}

// number reads digits alone; more than an int64 holds counts as its largest.
func number(s string) (int64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	if s == "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = 1<<63 - 1
	}
	return n, true
}
