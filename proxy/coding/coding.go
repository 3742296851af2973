// Package coding reads headers that are lists and knows content codings: which
// of them a client accepts, and what is worth to be encoded.
package coding

import (
	"mime"
	"strings"
)

// Coding is a content coding of RFC 9110 section 8.4.1.
type Coding int

// Codings, those that make files smaller first.
const (
	Brotli   Coding = iota // RFC 7932
	Zstd                   // RFC 8878, with windows of at most 8 MiB as RFC 9659 wants them
	Gzip                   // RFC 1952
	Identity               // none
	Count    = iota
)

var tokens = [Count]string{Brotli: "br", Zstd: "zstd", Gzip: "gzip", Identity: "identity"}

// String is the coding's name as in Content-Encoding; "identity" is not written
// there.
func (c Coding) String() string { return tokens[c] }

// Smallest is the size in bytes below which encoding is not worth it: the
// answer fits into one packet either way.
const Smallest = 1 << 10

// Accept is what a request's Accept-Encoding says: for each coding its weight in
// thousandths, 0 for one that is not acceptable.
type Accept [Count]int

// None is a request that says nothing: any coding would do, but a client that
// does not name one rarely knows it.
var None = Accept{Identity: 1000}

// Parse reads the values of Accept-Encoding (RFC 9110 section 12.5.3). What it
// does not understand counts as not accepted.
func Parse(values []string) Accept {
	if len(values) == 0 {
		return None
	}
	var weights Accept
	var named [Count]bool
	star := -1
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			token, parameters, _ := strings.Cut(item, ";")
			q := weight(parameters)
			token = strings.TrimSpace(token)
			if token == "*" {
				star = q
				continue
			}
			if strings.EqualFold(token, "x-gzip") { // RFC 9110 section 8.4.1.3
				token = "gzip"
			}
			for c, t := range tokens {
				if strings.EqualFold(token, t) {
					weights[c], named[c] = q, true
				}
			}
		}
	}
	for c := range weights {
		switch {
		case named[c]:
		case star >= 0:
			weights[c] = star
		case Coding(c) == Identity:
			weights[c] = 1 // acceptable, and liked less than anything named
		}
	}
	return weights
}

// weight reads ";q=0.5" in thousandths; without a q it is 1, and what is not a
// weight counts as 0.
func weight(parameters string) int {
	parameters = strings.TrimSpace(parameters)
	if parameters == "" {
		return 1000
	}
	name, value, ok := strings.Cut(parameters, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 0
	}
	value = strings.TrimSpace(value)
	whole, fraction, _ := strings.Cut(value, ".")
	if whole != "0" && whole != "1" || len(fraction) > 3 {
		return 0
	}
	q := 0
	for i := range 3 {
		q *= 10
		if i < len(fraction) {
			if fraction[i] < '0' || fraction[i] > '9' {
				return 0
			}
			q += int(fraction[i] - '0')
		}
	}
	if whole == "1" {
		if q != 0 {
			return 0
		}
		return 1000
	}
	return q
}

// Best chooses among what there is: sizes in bytes, negative for what there is
// not. Weights decide, then size, then the order of the codings. It returns
// false when nothing is acceptable.
func (a Accept) Best(sizes [Count]int64) (Coding, bool) {
	best := Coding(-1)
	for c := range Coding(Count) {
		if sizes[c] < 0 || a[c] == 0 {
			continue
		}
		if best < 0 || a[c] > a[best] || a[c] == a[best] && sizes[c] < sizes[best] {
			best = c
		}
	}
	return best, best >= 0
}

// Compressible says whether contents of this media type become smaller:
// text, and what is text under another name. Pictures, films and archives are
// compressed already.
func Compressible(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if strings.HasPrefix(kind, "text/") {
		return kind != "text/event-stream" // a reader waits for each event
	}
	if strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml") {
		return true
	}
	switch kind {
	case "application/json", "application/javascript", "application/x-javascript", "application/xml", "application/wasm",
		"application/x-subrip", "application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/svg+xml", "image/vnd.microsoft.icon", "image/bmp":
		return true
	}
	return false
}

// Text says whether the media type of a page is one to encode on the fly. A
// value that cannot be read is none.
func Text(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	if strings.HasPrefix(kind, "font/") || strings.HasPrefix(kind, "image/") && kind != "image/svg+xml" || kind == "application/wasm" {
		return false
	}
	return Compressible(kind)
}
