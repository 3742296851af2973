package store

import (
	"encoding/binary"
	"encoding/hex"
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

func (l location) checksum(body []byte) [4]byte {
	sum := crc32.Checksum([]byte(l.site+"\x00"+l.bucket+"\x00"), castagnoli)
	sum = crc32.Update(sum, castagnoli, l.key)
	sum = crc32.Update(sum, castagnoli, []byte{0})
	sum = crc32.Update(sum, castagnoli, body)
	return [4]byte(binary.BigEndian.AppendUint32(nil, sum))
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
	sum := l.checksum(body)
	out := make([]byte, 0, prefixLength+len(body))
	out = hex.AppendEncode(out, sum[:])
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
	var want [4]byte
	if _, err := hex.Decode(want[:], raw[:prefixLength-1]); err != nil {
		return nil, errChecksum
	}
	body := raw[prefixLength:]
	if l.checksum(body) != want {
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
