package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// v2 puts a header of version 2 together.
func v2(command, family byte, body string) string {
	var b bytes.Buffer
	b.WriteString(signature)
	b.WriteByte(0x20 | command)
	b.WriteByte(family)
	_ = binary.Write(&b, binary.BigEndian, uint16(len(body)))
	b.WriteString(body)
	return b.String()
}

const (
	four = "\xc0\x00\x02\x07" + "\xc6\x33\x64\x01" + "\xd4\x31" + "\x01\xbb"
	six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\xd4\x31" + "\x01\xbb"
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x07" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc6\x33\x64\x01" + "\xd4\x31" + "\x01\xbb"
)

var cases = []struct {
	name, in    string
	source      string // "": local
	destination string
	err         error
}{
	{name: "v1 TCP4", in: "PROXY TCP4 192.0.2.7 198.51.100.1 54321 443\r\n", source: "192.0.2.7:54321", destination: "198.51.100.1:443"},
	{name: "v1 TCP6", in: "PROXY TCP6 2001:db8::7 2001:db8::1 54321 443\r\n", source: "[2001:db8::7]:54321", destination: "[2001:db8::1]:443"},
	{name: "v1 TCP6 of IPv4", in: "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1 2\r\n", source: "192.0.2.7:1", destination: "198.51.100.1:2"},
	{name: "v1 longest", in: "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", source: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", destination: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
	{name: "v1 unknown", in: "PROXY UNKNOWN\r\n"},
	{name: "v1 unknown with more", in: "PROXY UNKNOWN ffff:: ffff:: 1 2 and what not\r\n"},
	{name: "v1 UNKNOWNX", in: "PROXY UNKNOWNX\r\n", err: ErrMalformed},
	{name: "v1 too long", in: "PROXY UNKNOWN " + strings.Repeat("x", 100) + "\r\n", err: ErrMalformed},
	{name: "v1 lone LF", in: "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\nGET / HTTP/1.1\r\n", err: ErrMalformed},
	{name: "v1 family of the other", in: "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", err: ErrMalformed},
	{name: "v1 IPv4 as TCP6", in: "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n", err: ErrMalformed},
	{name: "v1 zone", in: "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", err: ErrMalformed},
	{name: "v1 port with zero", in: "PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n", err: ErrMalformed},
	{name: "v1 port too great", in: "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n", err: ErrMalformed},
	{name: "v1 port negative", in: "PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n", err: ErrMalformed},
	{name: "v1 two spaces", in: "PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n", err: ErrMalformed},
	{name: "v1 one field less", in: "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n", err: ErrMalformed},
	{name: "v1 one field more", in: "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n", err: ErrMalformed},
	{name: "v1 lower case", in: "proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n", err: ErrMissing},
	{name: "v1 cut", in: "PROXY TCP4 192.0", err: ErrMissing},
	{name: "POST is no PROXY", in: "POST / HTTP/1.1\r\n", err: ErrMissing},
	{name: "GET", in: "GET / HTTP/1.1\r\n", err: ErrMissing},
	{name: "TLS", in: "\x16\x03\x01\x02\x00", err: ErrMissing},
	{name: "nothing", in: "", err: ErrMissing},

	{name: "v2 TCP4", in: v2(1, 0x11, four), source: "192.0.2.7:54321", destination: "198.51.100.1:443"},
	{name: "v2 UDP4", in: v2(1, 0x12, four), source: "192.0.2.7:54321", destination: "198.51.100.1:443"},
	{name: "v2 TCP6", in: v2(1, 0x21, six), source: "[2001:db8::7]:54321", destination: "[2001:db8::1]:443"},
	{name: "v2 IPv4 as IPv6", in: v2(1, 0x21, mapped), source: "192.0.2.7:54321", destination: "198.51.100.1:443"},
	{name: "v2 with TLVs", in: v2(1, 0x11, four+"\x02\x00\x05learn\x03\x00\x04\x00\x00\x00\x00"), source: "192.0.2.7:54321", destination: "198.51.100.1:443"},
	{name: "v2 longest", in: v2(1, 0x11, four+strings.Repeat("x", 65535-len(four))), source: "192.0.2.7:54321", destination: "198.51.100.1:443"},
	{name: "v2 health check", in: v2(0, 0x00, "")},
	{name: "v2 health check with addresses", in: v2(0, 0x11, four)},
	{name: "v2 health check with half addresses", in: v2(0, 0x11, "abc")},
	{name: "v2 unspecified", in: v2(1, 0x00, "abc")},
	{name: "v2 unix", in: v2(1, 0x31, strings.Repeat("\x00", 216))},
	{name: "v2 unix, too short", in: v2(1, 0x31, strings.Repeat("\x00", 215)), err: ErrMalformed},
	{name: "v2 TCP4, too short", in: v2(1, 0x11, four[:11]), err: ErrMalformed},
	{name: "v2 TCP6, too short", in: v2(1, 0x21, six[:35]), err: ErrMalformed},
	{name: "v2 command", in: v2(2, 0x11, four), err: ErrMalformed},
	{name: "v2 family", in: v2(1, 0x41, four), err: ErrMalformed},
	{name: "v2 transport", in: v2(1, 0x13, four), err: ErrMalformed},
	{name: "v2 version", in: strings.Replace(v2(1, 0x11, four), "\x21\x11", "\x31\x11", 1), err: ErrMalformed},
	{name: "v2 signature", in: "\r\n\r\n\x00\r\nQUIX\n\x21\x11\x00\x00", err: ErrMissing},
	{name: "v2 cut", in: v2(1, 0x11, four)[:20], err: ErrMissing},
	{name: "v2 cut in its TLVs", in: v2(1, 0x11, four+"TLV")[:29], err: ErrMissing},
}

func TestRead(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// Byte by byte, as a network may bring it, and with what follows.
			for _, one := range []bool{false, true} {
				rest := strings.NewReader(c.in + "rest")
				if c.err != nil {
					rest = strings.NewReader(c.in)
				}
				var in io.Reader = rest
				if one {
					in = iotest.OneByteReader(rest)
				}
				h, err := Read(in)
				if !errors.Is(err, c.err) {
					t.Fatalf("error %v, want %v", err, c.err)
				}
				if errors.Is(err, io.EOF) != (c.in == "") {
					t.Errorf("%v for %q", err, c.in)
				}
				if err != nil {
					if h != (Header{}) {
						t.Errorf("with an error came %+v", h)
					}
					continue
				}
				if left, _ := io.ReadAll(rest); string(left) != "rest" {
					t.Errorf("%q is left", left)
				}
				if h.Local != (c.source == "") || !h.Local && (h.Source.String() != c.source || h.Destination.String() != c.destination) {
					t.Errorf("%+v", h)
				}
			}
		})
	}
}

func TestBegins(t *testing.T) {
	for in, want := range map[string]bool{
		"PROXY TCP4": true, signature: true, signature + "x": true,
		"": false, "PROXY": false, "PROPFIND / HTTP/1.1": false, "\r\n\r\n": false, "\x16\x03\x01": false,
	} {
		if Begins([]byte(in)) != want {
			t.Errorf("%q: want %v", in, want)
		}
	}
}

// A broken connection is not taken for a sender without a header.
func TestReadKeepsTheConnectionsError(t *testing.T) {
	broken := errors.New("broken")
	for _, in := range []string{"", "PROXY TC", signature, v2(1, 0x11, four+"TLV")[:29]} {
		if _, err := Read(io.MultiReader(strings.NewReader(in), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("after %q: %v", in, err)
		}
	}
}

func TestReadWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		is4 := rapid.Bool().Draw(t, "IPv4")
		size := 16
		if is4 {
			size = 4
		}
		address := func(label string) netip.AddrPort {
			b := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, label)
			a, _ := netip.AddrFromSlice(b)
			return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, label+" port"))
		}
		from, to := address("from"), address("to")
		var in string
		version := rapid.IntRange(1, 2).Draw(t, "version")
		if version == 1 {
			family := "TCP6"
			if is4 {
				family = "TCP4"
			}
			in = fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, from.Addr(), to.Addr(), from.Port(), to.Port())
		} else {
			body := string(from.Addr().AsSlice()) + string(to.Addr().AsSlice())
			body = string(binary.BigEndian.AppendUint16([]byte(body), from.Port()))
			body = string(binary.BigEndian.AppendUint16([]byte(body), to.Port()))
			family := byte(0x21)
			if is4 {
				family = 0x11
			}
			in = v2(1, family, body+string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "TLVs")))
		}
		rest := string(rapid.SliceOf(rapid.Byte()).Draw(t, "rest"))
		r := strings.NewReader(in + rest)
		h, err := Read(r)
		plain := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
		if err != nil || h.Version != version || h.Local || h.Source != plain(from) || h.Destination != plain(to) {
			t.Fatalf("%q: %+v, %v", in, h, err)
		}
		if left, _ := io.ReadAll(r); string(left) != rest {
			t.Fatalf("%q is left of %q", left, rest)
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, c := range cases {
		f.Add([]byte(c.in + "rest"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		h, err := Read(r)
		if err != nil {
			if !errors.Is(err, ErrMissing) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v", err)
			}
			return
		}
		if !Begins(data) {
			t.Fatalf("read %+v from what does not begin as a header", h)
		}
		taken := len(data) - r.Len()
		if taken > fixedV2+65535 || h.Version == 1 && taken > maxV1 {
			t.Fatalf("%d bytes taken", taken)
		}
		if h.Local != (h.Source == netip.AddrPort{}) && h.Local {
			t.Fatalf("local with an address: %+v", h)
		}
		if !h.Local && (!h.Source.IsValid() || !h.Destination.IsValid() || h.Source.Addr().Is4In6() || h.Source.Addr().Zone() != "") {
			t.Fatalf("%+v", h)
		}
		// The same bytes alone say the same.
		if again, err := Read(bytes.NewReader(data[:taken])); err != nil || again != h {
			t.Fatalf("again: %+v, %v", again, err)
		}
	})
}
