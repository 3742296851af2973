// Package proxyproto reads the header with which a load balancer tells who its
// client is: the PROXY protocol, versions 1 (text) and 2 (binary), as HAProxy's
// doc/proxy-protocol.txt lays it down.
//
// It is a parser of its own because the door has to know the client before it
// counts the connection, wants nothing but the addresses, and must be strict:
// a receiver does not guess whether there is a header.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

var (
	// ErrMissing is a connection that does not begin with a header although
	// it has to.
	ErrMissing = errors.New("no PROXY protocol header")
	// ErrMalformed is a header that breaks the protocol: close the connection.
	ErrMalformed = errors.New("malformed PROXY protocol header")
)

// Sizes of the protocol: section 2.1 and 2.2 of the specification.
const (
	maxV1    = 107 // the longest line, CRLF included
	fixedV2  = 16  // signature, version and command, family, length
	inetV2   = 12  // two IPv4 addresses and ports
	inet6V2  = 36
	unixV2   = 216
	prefixV1 = "PROXY "
)

// signature begins every header of version 2.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// Header says who speaks to the load balancer.
type Header struct {
	// Version is 1 or 2.
	Version int
	// Local is a connection of the load balancer's own, such as a health
	// check, or one whose client it does not tell: the addresses of the
	// connection itself are the right ones.
	Local bool
	// Source is the client, Destination what it connected to. Both are of one
	// family, without zone, and IPv4 is never written as IPv6; zero when Local.
	Source, Destination netip.AddrPort
}

// Begins says whether the first bytes of a connection are those of a header.
// It is for telling the administrator about a sender that nobody trusts;
// neither TLS nor an HTTP method begins like that. Fewer bytes than a
// header's beginning are not one.
func Begins(p []byte) bool {
	return bytes.HasPrefix(p, []byte(prefixV1)) || bytes.HasPrefix(p, []byte(signature))
}

// Read takes the header off the beginning of r, and not one byte more. It
// returns ErrMissing or ErrMalformed, wrapped, or r's error; what was read is
// lost then. A connection that ended without a byte is io.EOF as well: somebody
// tried whether the port is open.
func Read(r io.Reader) (Header, error) {
	// The shortest version 1 is "PROXY UNKNOWN\r\n" with 15 bytes, and both
	// are told apart by the first one.
	var head [fixedV2]byte
	if _, err := io.ReadFull(r, head[:1]); errors.Is(err, io.EOF) {
		return Header{}, fmt.Errorf("%w: %w", ErrMissing, err)
	} else if err != nil {
		return Header{}, err
	}
	switch head[0] {
	case prefixV1[0]:
		return readV1(r)
	case signature[0]:
		if _, err := io.ReadFull(r, head[1:]); err != nil {
			return Header{}, ended(err)
		}
		return readV2(r, head)
	}
	return Header{}, fmt.Errorf("%w: the first byte is %#02x", ErrMissing, head[0])
}

// ended makes the end of a connection in a header into what it means.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the connection ended", ErrMissing)
	}
	return err
}

// readV1 reads byte by byte: what follows the line belongs to the connection.
// It is at most 107 bytes, once per connection.
func readV1(r io.Reader) (Header, error) {
	line := make([]byte, 1, maxV1)
	line[0] = prefixV1[0]
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxV1 {
			return Header{}, fmt.Errorf("%w: a line of more than %d bytes", ErrMalformed, maxV1)
		}
		n := len(line)
		line = line[:n+1]
		if _, err := io.ReadFull(r, line[n:]); err != nil {
			return Header{}, ended(err)
		}
		if n < len(prefixV1) && line[n] != prefixV1[n] {
			return Header{}, fmt.Errorf("%w: it begins with %q", ErrMissing, line)
		}
	}
	return parseV1(string(line[len(prefixV1) : len(line)-2]))
}

func parseV1(line string) (Header, error) {
	h := Header{Version: 1}
	// Whatever follows UNKNOWN is to be ignored.
	if line == "UNKNOWN" || strings.HasPrefix(line, "UNKNOWN ") {
		h.Local = true
		return h, nil
	}
	f := strings.Split(line, " ")
	if len(f) != 5 || f[0] != "TCP4" && f[0] != "TCP6" {
		return Header{}, fmt.Errorf("%w: %q", ErrMalformed, line)
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		a, err := netip.ParseAddr(f[1+i])
		if err != nil || a.Zone() != "" || a.Is4() != (f[0] == "TCP4") {
			return Header{}, fmt.Errorf("%w: address %q of %s", ErrMalformed, f[1+i], f[0])
		}
		port, err := strconv.ParseUint(f[3+i], 10, 16)
		if err != nil || strconv.FormatUint(port, 10) != f[3+i] {
			return Header{}, fmt.Errorf("%w: port %q", ErrMalformed, f[3+i])
		}
		ends[i] = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	h.Source, h.Destination = ends[0], ends[1]
	return h, nil
}

func readV2(r io.Reader, head [fixedV2]byte) (Header, error) {
	if !bytes.HasPrefix(head[:], []byte(signature)) {
		return Header{}, fmt.Errorf("%w: it begins with %q", ErrMissing, head)
	}
	version, command := head[12]>>4, head[12]&0xf
	family, transport := head[13]>>4, head[13]&0xf
	length := int(binary.BigEndian.Uint16(head[14:]))
	if version != 2 || command > 1 {
		return Header{}, fmt.Errorf("%w: version %d, command %d", ErrMalformed, version, command)
	}
	if family > 3 || transport > 2 {
		return Header{}, fmt.Errorf("%w: family %d, transport %d", ErrMalformed, family, transport)
	}
	h := Header{Version: 2}
	want := [...]int{0, inetV2, inet6V2, unixV2}[family]
	if command == 0 {
		// LOCAL: whatever the addresses are, they are to be ignored.
		h.Local, want = true, 0
	}
	if length < want {
		return Header{}, fmt.Errorf("%w: %d bytes of addresses, family %d has %d", ErrMalformed, length, family, want)
	}
	var addresses [inet6V2]byte
	if !h.Local {
		switch family {
		case 1, 2:
			if _, err := io.ReadFull(r, addresses[:want]); err != nil {
				return Header{}, ended(err)
			}
			length -= want
			h.Source, h.Destination = addressesV2(addresses[:want])
		default:
			// UNSPEC and UNIX name nobody that we could count or log.
			h.Local = true
		}
	}
	// TLVs speak of the TLS session and the like; nothing here asks for them.
	if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
		return Header{}, ended(err)
	}
	return h, nil
}

func addressesV2(b []byte) (source, destination netip.AddrPort) {
	size := (len(b) - 4) / 2
	address := func(i int) netip.AddrPort {
		a, _ := netip.AddrFromSlice(b[i*size : (i+1)*size]) // 4 or 16 bytes: it cannot fail
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(b[2*size+2*i:]))
	}
	return address(0), address(1)
}
