package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"tarima/store/record"
)

// idsPerService is how many host ids a service's user namespace takes.
const idsPerService = 1 << 16

// lastID bounds assigned ids: programs that hold an id in a signed number
// read the upper half as negative.
const lastID = math.MaxInt32

// assignment is the stored form of an address.
type assignment struct {
	record.Address
	// Released says since when nobody has it; zero while it is in use.
	Released time.Time `json:"released,omitzero"`
}

// Address returns the fixed place of a service within the site's prefixes,
// and assigns one when it has none. v6 may be the zero prefix: then V6 is the
// zero address. The first address goes to the network itself and is never
// assigned. An address that was released is given to another service only
// when no other is left. Where a prefix has changed the service moves and
// keeps its ids.
func (s *Store) Address(site, service string, v4, v6 netip.Prefix) (record.Address, error) {
	if err := checkNames(site, "service", service); err != nil {
		return record.Address{}, err
	}
	if !v4.IsValid() || !v4.Addr().Is4() || v4.Bits() > 30 {
		return record.Address{}, fmt.Errorf("assign an address to %s: %q is not an IPv4 prefix of at most /30", service, v4)
	}
	if v6.IsValid() && (!v6.Addr().Is6() || v6.Addr().Is4In6() || v6.Bits() > 96) {
		return record.Address{}, fmt.Errorf("assign an address to %s: %q is not an IPv6 prefix of at most /96", service, v6)
	}
	v4, v6 = v4.Masked(), v6.Masked()
	l := location{site, bucketAddresses, []byte(service)}
	// Damaged records go into quarantine first, or come back from a copy: it
	// cannot be done under the lock.
	known, err := s.Sites()
	if err != nil {
		return record.Address{}, err
	}
	for _, each := range known {
		if _, err := list[assignment](s, each, bucketAddresses); err != nil {
			return record.Address{}, err
		}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	sites, err := s.allAssignments()
	if err != nil {
		return record.Address{}, err
	}
	mine := sites[site]
	a, had := mine[service]
	before := a
	if !had || a.IDBase == 0 {
		if a.IDBase, err = s.freeIDs(sites); err != nil {
			return record.Address{}, fmt.Errorf("assign ids to %s: %w", service, err)
		}
	}
	a.Service, a.Released = service, time.Time{}
	reused := ""
	host := hostNumber(a.V4, v4)
	if host == 0 {
		if host, reused = freeHost(mine, service, v4); host == 0 {
			return record.Address{}, fmt.Errorf("assign an address to %s: %w: all of %s are in use; give the site a larger range", service, ErrExhausted, v4)
		}
	}
	a.V4, a.V6 = nth(v4, host), netip.Addr{}
	if v6.IsValid() {
		a.V6 = nth(v6, host)
	}
	if had && a == before {
		return a.Address, nil
	}
	value, err := encode(l, a)
	if err != nil {
		return record.Address{}, err
	}
	err = s.update(func(tx *bbolt.Tx) error {
		b, err := siteBucket(tx, site, bucketAddresses)
		if err != nil {
			return err
		}
		if reused != "" {
			if err := b.Delete([]byte(reused)); err != nil {
				return err
			}
		}
		return b.Put(l.key, value)
	})
	if err != nil {
		return record.Address{}, fmt.Errorf("store %s: %w", l, err)
	}
	s.copier.wake()
	return a.Address, nil
}

// ReleaseAddress says that a service is gone for good. It gets the same place
// when it comes back, unless that had to be given away.
func (s *Store) ReleaseAddress(site, service string) error {
	if err := checkNames(site, "service", service); err != nil {
		return err
	}
	l := location{site, bucketAddresses, []byte(service)}
	var a assignment
	found, err := s.get(l, &a)
	if err != nil || !found || !a.Released.IsZero() {
		return err
	}
	a.Released = time.Now().UTC().Round(0)
	return s.put(l, a)
}

// allAssignments reads the addresses of every site.
func (s *Store) allAssignments() (map[string]map[string]assignment, error) {
	sites, err := s.Sites()
	if err != nil {
		return nil, err
	}
	all := make(map[string]map[string]assignment, len(sites))
	for _, site := range sites {
		// Not list: to put a damaged record into quarantine it would wait for
		// the lock that the caller holds.
		if all[site], err = s.assignments(site); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *Store) assignments(site string) (map[string]assignment, error) {
	out := map[string]assignment{}
	err := s.view(func(tx *bbolt.Tx) error {
		clear(out)
		b := findBucket(tx, site, bucketAddresses)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, raw []byte) error {
			var a assignment
			l := location{site, bucketAddresses, bytes.Clone(k)}
			if err := decode(l, raw, &a); err != nil {
				return fmt.Errorf("read %s: %w", l, err)
			}
			out[string(k)] = a
			return nil
		})
	})
	return out, err
}

// hostNumber is an address's place in a prefix, from 2 on; 0 when it has none
// there: outside, the network, its first address, or the broadcast address.
func hostNumber(a netip.Addr, prefix netip.Prefix) uint32 {
	if !a.Is4() || !prefix.Contains(a) {
		return 0
	}
	n := number(a) - number(prefix.Addr())
	if n < 2 || n > lastHost(prefix) {
		return 0
	}
	return n
}

func lastHost(prefix netip.Prefix) uint32 { return 1<<(32-prefix.Bits()) - 2 }

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// nth is the address at place n of a prefix.
func nth(prefix netip.Prefix, n uint32) netip.Addr {
	b := prefix.Addr().AsSlice()
	tail := b[len(b)-4:]
	binary.BigEndian.PutUint32(tail, binary.BigEndian.Uint32(tail)|n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// freeHost finds a place in the prefix that nobody ever had, or else the one
// that was released first, with the service that had it.
func freeHost(taken map[string]assignment, service string, prefix netip.Prefix) (host uint32, reused string) {
	used := map[uint32]bool{}
	var oldest assignment
	for name, a := range taken {
		n := hostNumber(a.V4, prefix)
		if name == service || n == 0 {
			continue
		}
		used[n] = true
		if !a.Released.IsZero() && (reused == "" || a.Released.Before(oldest.Released)) {
			oldest, reused, host = a, name, n
		}
	}
	for n := uint32(2); n <= lastHost(prefix); n++ {
		if !used[n] {
			return n, ""
		}
	}
	return host, reused
}

// idRange is a range of host ids, both ends within.
type idRange struct{ first, last uint64 }

// freeIDs finds the lowest range of ids that no service of any site has and
// no user may map.
func (s *Store) freeIDs(sites map[string]map[string]assignment) (uint32, error) {
	taken, err := reservedIDs(s.config.SubIDFiles)
	if err != nil {
		return 0, err
	}
	for _, services := range sites {
		for _, a := range services {
			if a.IDBase != 0 {
				taken = append(taken, idRange{uint64(a.IDBase), uint64(a.IDBase) + idsPerService - 1})
			}
		}
	}
	slices.SortFunc(taken, func(a, b idRange) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	base := roundUp(uint64(s.config.FirstID))
	for _, r := range taken {
		if r.last < base {
			continue
		}
		if r.first > base+idsPerService-1 {
			break
		}
		base = roundUp(r.last + 1)
	}
	if base+idsPerService-1 > lastID {
		return 0, fmt.Errorf("%w: no 65,536 ids in a row are free from %d on; look at %s", ErrExhausted, s.config.FirstID, strings.Join(s.config.SubIDFiles, " and "))
	}
	return uint32(base), nil //nolint:gosec // at most lastID
}

func roundUp(id uint64) uint64 { return (id + idsPerService - 1) / idsPerService * idsPerService }

// reservedIDs reads files in the form of subuid(5). Lines that are no ranges
// reserve nothing, as for the programs that the files belong to.
func reservedIDs(files []string) ([]idRange, error) {
	var out []idRange
	for _, f := range files {
		data, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the ids reserved for users: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) != 3 {
				continue
			}
			first, err1 := strconv.ParseUint(fields[1], 10, 32)
			count, err2 := strconv.ParseUint(fields[2], 10, 32)
			if err1 == nil && err2 == nil && count > 0 {
				out = append(out, idRange{first, first + count - 1})
			}
		}
	}
	return out, nil
}
