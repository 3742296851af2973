package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// location is where a record lies; the checksum covers it, so that a record in the wrong
// place is as bad as a damaged one.
type location struct {
	site, bucket string
	key          []byte
}

func (l location) String() string {
	if l.bucket == bucketEvents && len(l.key) == 8 {
		return fmt.Sprintf("%s/%s/%d", l.site, l.bucket, binary.BigEndian.Uint64(l.key))
	}
	return fmt.Sprintf("%s/%s/%s", l.site, l.bucket, l.key)
}

// checksum covers path, key and body.
func (l location) checksum(body []byte) uint32 {
	// Byte by byte for the names: they are short, and the library's function
	// would have them copied to the heap, for each record at every start.
	sum := ^uint32(0)
	add := func(b byte) { sum = castagnoli[byte(sum)^b] ^ sum>>8 }
	for i := range len(l.site) {
		add(l.site[i])
	}
	add(0)
	for i := range len(l.bucket) {
		add(l.bucket[i])
	}
	add(0)
	for _, b := range l.key {
		add(b)
	}
	add(0)
	return crc32.Update(^sum, castagnoli, body)
}

// appendSum appends a checksum in eight hexadecimal digits.
func appendSum(b []byte, sum uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[sum>>shift&0xf])
	}
	return b
}

// prefixLength is the checksum's eight digits and the space.
const prefixLength = 9

// encode makes the stored form of a record.
func encode(l location, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", l, err)
	}
	if len(body) > maxRecord {
		return nil, fmt.Errorf("encode %s: %w: %d bytes, at most %d", l, ErrTooLarge, len(body), maxRecord)
	}
	return seal(l, body), nil
}

// seal puts the checksum before a body.
func seal(l location, body []byte) []byte {
	out := make([]byte, 0, prefixLength+len(body))
	out = appendSum(out, l.checksum(body))
	out = append(out, ' ')
	return append(out, body...)
}

var (
	errShort    = errors.New("too short for a record")
	errChecksum = errors.New("does not match its checksum")
)

// unseal checks a stored record and returns its JSON, which lives as long as
// raw does.
func unseal(l location, raw []byte) ([]byte, error) {
	if len(raw) < prefixLength || raw[prefixLength-1] != ' ' {
		return nil, errShort
	}
	body := raw[prefixLength:]
	var buffer [prefixLength]byte
	if want := appendSum(buffer[:0], l.checksum(body)); !bytes.Equal(want, raw[:prefixLength-1]) {
		return nil, errChecksum
	}
	return body, nil
}

// decode reads a stored record into v. The error never shows the content: it may
// be a secret.
func decode(l location, raw []byte, v any) error {
	body, err := unseal(l, raw)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return errors.New("is not JSON of the expected shape")
	}
	return nil
}

// Site names become folder and file names; other names become keys only.
var (
	siteName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	keyName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$`)
)

func checkSite(site string) error {
	if !siteName.MatchString(site) {
		return fmt.Errorf("%w: site %q: lower case letters, digits and hyphens, at most 63", ErrInvalidName, site)
	}
	return nil
}

func checkKey(kind, name string) error {
	if !keyName.MatchString(name) {
		return fmt.Errorf("%w: %s %q: letters, digits, dot, hyphen and underscore, at most 127", ErrInvalidName, kind, name)
	}
	return nil
}

// checkRef is wider than checkKey: image references hold slashes and colons.
func checkRef(ref string) error {
	if ref == "" || len(ref) > 1024 {
		return fmt.Errorf("%w: image reference of %d bytes: 1 to 1024", ErrInvalidName, len(ref))
	}
	for i := range len(ref) {
		if ref[i] <= ' ' || ref[i] > '~' {
			return fmt.Errorf("%w: image reference %q: printable ASCII only", ErrInvalidName, ref)
		}
	}
	return nil
}
