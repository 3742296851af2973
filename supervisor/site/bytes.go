package site

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size. In the file it is a string with a unit: B, or kB, MB, GB, TB
// as powers of 1000, KiB, MiB, GiB, TiB as powers of 1024.
type Bytes int64

// The units of [Bytes].
const (
	KB  Bytes = 1000
	MB  Bytes = 1000 * KB
	GB  Bytes = 1000 * MB
	TB  Bytes = 1000 * GB
	KiB Bytes = 1024
	MiB Bytes = 1024 * KiB
	GiB Bytes = 1024 * MiB
	TiB Bytes = 1024 * GiB
)

var byteUnits = []struct {
	name string
	size Bytes
}{
	{"TiB", TiB},
	{"TB", TB},
	{"GiB", GiB},
	{"GB", GB},
	{"MiB", MiB},
	{"MB", MB},
	{"KiB", KiB},
	{"kB", KB},
	{"B", 1},
}

var errBytes = errors.New(`not a size: write a number and a unit, as in "600MB" or "1.5GiB"; units are kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024)`)

// ParseBytes reads a size such as "600MB", "1.5 GB" or "512MiB". The unit is
// required, its letters may have any case; the result is positive.
func ParseBytes(s string) (Bytes, error) {
	s = strings.TrimSpace(s)
	at := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if at <= 0 {
		return 0, errBytes
	}
	number, unit := s[:at], strings.TrimSpace(s[at:])
	for _, u := range byteUnits {
		if !strings.EqualFold(u.name, unit) {
			continue
		}
		// Whole numbers are exact; a float would round above 2^53.
		if n, err := strconv.ParseInt(number, 10, 64); err == nil && n > 0 && n <= math.MaxInt64/int64(u.size) {
			return Bytes(n) * u.size, nil
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, errBytes
		}
		v := math.Round(n * float64(u.size))
		switch {
		case v < 1:
			return 0, errors.New("a size is more than 0")
		case v >= math.MaxInt64:
			return 0, fmt.Errorf("a size is less than %d TiB", math.MaxInt64/int64(TiB))
		}
		return Bytes(v), nil
	}
	return 0, errBytes
}

// String writes the size exactly, in the largest unit that divides it.
func (b Bytes) String() string {
	best, name := Bytes(1), "B"
	for _, u := range byteUnits {
		if b != 0 && b%u.size == 0 && u.size > best {
			best, name = u.size, u.name
		}
	}
	return strconv.FormatInt(int64(b/best), 10) + name
}
