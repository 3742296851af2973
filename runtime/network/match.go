package network

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// truth of a rule's condition for a packet of which not everything is known.
type truth int

const (
	no truth = iota
	maybe
	yes
)

func (t truth) not() truth { return yes - t }

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// Connection states as nf_tables compares them and as bits of iptables'
// conntrack match (NF_CT_STATE_BIT, XT_CONNTRACK_STATE_BIT: the same).
const (
	ctEstablished = 1 << 1
	ctNew         = 1 << 3
)

// Bits of a connection's status (linux/netfilter/nf_conntrack_common.h).
const (
	ipsSeenReply = 1 << 1
	ipsAssured   = 1 << 2
	ipsConfirmed = 1 << 3
	ipsSrcNAT    = 1 << 4
)

// Kinds of addresses (linux/rtnetlink.h), as fib and addrtype compare them.
const (
	addressUnicast = unix.RTN_UNICAST
	addressLocal   = unix.RTN_LOCAL
)

// registers is the memory in which a rule compares, byte by byte known or not.
type registers struct {
	value [64]byte
	known [64]bool
}

func registerOffset(r uint32) int {
	if r >= unix.NFT_REG32_00 {
		return int(r-unix.NFT_REG32_00) * 4
	}
	return int(r-unix.NFT_REG_1) * 16
}

// put stores a value, padded as the kernel does; known nil: all of it is.
func (m *registers) put(r uint32, value []byte, known []bool) {
	o := registerOffset(r)
	for i := 0; i < (len(value)+3)/4*4 && o >= 0 && o+i < len(m.value); i++ {
		m.value[o+i], m.known[o+i] = 0, true
		if i < len(value) {
			m.value[o+i], m.known[o+i] = value[i], known == nil || known[i]
		}
	}
}

func (m *registers) get(r uint32, n int) (value []byte, known []bool) {
	o := registerOffset(r)
	if o < 0 || o+n > len(m.value) {
		return make([]byte, n), make([]bool, n)
	}
	return m.value[o : o+n], m.known[o : o+n]
}

func unknown(n int) ([]byte, []bool) { return make([]byte, n), make([]bool, n) }

func equal(value []byte, known []bool, want []byte) truth {
	result := yes
	for i := range want {
		if !known[i] {
			result = maybe
		} else if value[i] != want[i] {
			return no
		}
	}
	return result
}

// judge says whether a rule is for the packet, and what it then does.
func (w *walk) judge(t *nftables.Table, r *nftables.Rule) (matches truth, v verdict, to string) {
	m := &registers{}
	matches = yes
	and := func(c truth) { matches = min(matches, c) }
	for _, e := range r.Exprs {
		if matches == no {
			return no, goesOn, ""
		}
		switch e := e.(type) {
		case *expr.Counter, *expr.Log, *expr.Notrack, *expr.Objref:
		case *expr.Limit:
			and(truthOf(!e.Over)) // a single packet is within any limit
		case *expr.Meta:
			if !e.SourceRegister {
				value, known := w.packet.meta(e.Key)
				m.put(e.Register, value, known)
			}
		case *expr.Ct:
			if !e.SourceRegister {
				value, known := w.packet.connection(e.Key)
				m.put(e.Register, value, known)
			}
		case *expr.Fib:
			value, known := w.packet.addressKind(e)
			m.put(e.Register, value, known)
		case *expr.Payload:
			if e.OperationType == expr.PayloadLoad {
				value, known := w.packet.payload(e)
				m.put(e.DestRegister, value, known)
			}
		case *expr.Bitwise:
			m.bitwise(e)
		case *expr.Cmp:
			and(m.compare(e.Op, e.Register, e.Data))
		case *expr.Range:
			in := min(m.compare(expr.CmpOpGte, e.Register, e.FromData), m.compare(expr.CmpOpLte, e.Register, e.ToData))
			if e.Op == expr.CmpOpNeq {
				in = in.not()
			}
			and(in)
		case *expr.Lookup:
			found, element := w.lookup(t, m, e)
			switch {
			case !e.IsDestRegSet:
				if e.Invert {
					found = found.not()
				}
				and(found)
			case found == maybe:
				return maybe, unclear, ""
			case element == nil:
				return no, goesOn, ""
			case e.DestRegister == unix.NFT_REG_VERDICT:
				v, to = mappedVerdict(element.Val)
			default:
				m.put(e.DestRegister, element.Val, nil)
			}
		case *expr.Match:
			and(w.packet.extension(e))
		case *expr.Exthdr:
			switch {
			case e.Op != expr.ExthdrOpIpv6:
				value, known := unknown(int(e.Len))
				m.put(e.DestRegister, value, known)
			case e.Flags&unix.NFT_EXTHDR_F_PRESENT != 0:
				m.put(e.DestRegister, []byte{0}, nil)
			default:
				and(no) // an ordinary packet has no extension header to compare
			}
		case *expr.Immediate:
			m.put(e.Register, e.Data, nil)
		case *expr.Verdict:
			v, to = verdictOf(e)
		case *expr.Reject:
			v = drops
		case *expr.Target:
			v = targetVerdict(e.Name)
		case *expr.Queue, *expr.TProxy, *expr.SynProxy:
			v = unclear
		default:
			and(maybe)
		}
	}
	return matches, v, to
}

// mappedVerdict reads the value of a verdict map's element: a nested
// NFTA_DATA_VERDICT with its code and, for jumps, its chain.
func mappedVerdict(value []byte) (verdict, string) {
	attributes, err := netlink.NewAttributeDecoder(value)
	if err != nil {
		return unclear, ""
	}
	attributes.ByteOrder = binary.BigEndian
	v, known := expr.Verdict{}, false
	for attributes.Next() {
		switch attributes.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Kind, known = expr.VerdictKind(int32(attributes.Uint32())), true
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = attributes.String()
		}
	}
	if attributes.Err() != nil || !known {
		return unclear, ""
	}
	return verdictOf(&v)
}

// targetVerdict is what an iptables extension does with a packet.
func targetVerdict(name string) verdict {
	switch name {
	case "REJECT":
		return drops
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "SET", "CT", "CLASSIFY", "CONNSECMARK", "SECMARK", "DSCP", "TOS", "TTL", "HL", "AUDIT", "CHECKSUM":
		return goesOn
	default:
		return unclear
	}
}

func (m *registers) bitwise(e *expr.Bitwise) {
	n := int(e.Len)
	value, known := m.get(e.SourceRegister, n)
	value, known = bytes.Clone(value), slices.Clone(known)
	for i := range value {
		if i >= len(e.Mask) || i >= len(e.Xor) {
			known[i] = false // a shift, or what else later kernels add
			continue
		}
		known[i] = known[i] || e.Mask[i] == 0
		value[i] = value[i]&e.Mask[i] ^ e.Xor[i]
	}
	m.put(e.DestRegister, value, known)
}

func (m *registers) compare(op expr.CmpOp, register uint32, data []byte) truth {
	value, known := m.get(register, len(data))
	switch op {
	case expr.CmpOpEq:
		return equal(value, known, data)
	case expr.CmpOpNeq:
		return equal(value, known, data).not()
	}
	if slices.Contains(known, false) {
		return maybe
	}
	order := bytes.Compare(value, data)
	switch op {
	case expr.CmpOpLt:
		return truthOf(order < 0)
	case expr.CmpOpLte:
		return truthOf(order <= 0)
	case expr.CmpOpGt:
		return truthOf(order > 0)
	case expr.CmpOpGte:
		return truthOf(order >= 0)
	default:
		return maybe
	}
}

// lookup finds a key in a set; element is nil unless it surely is there.
func (w *walk) lookup(t *nftables.Table, m *registers, e *expr.Lookup) (truth, *nftables.SetElement) {
	set, elements, err := w.rules.elements(t, e.SetName)
	if err != nil {
		return maybe, nil
	}
	if set.Interval && !set.Concatenation {
		return lookupRange(m, e, elements)
	}
	result := no
	for i := range elements {
		el := &elements[i]
		value, known := m.get(e.SourceRegister, len(el.Key))
		is := equal(value, known, el.Key)
		if len(el.KeyEnd) > 0 && !bytes.Equal(el.Key, el.KeyEnd) {
			is = maybe // ranges of several fields
		}
		if is == yes {
			return yes, el
		}
		result = max(result, is)
	}
	return result, nil
}

// lookupRange: the kernel lists the first key of each range, and as the end of
// it the first one behind.
func lookupRange(m *registers, e *expr.Lookup, elements []nftables.SetElement) (truth, *nftables.SetElement) {
	elements = slices.Clone(elements)
	slices.SortStableFunc(elements, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		// One range ends where the next begins.
		return int(truthOf(b.IntervalEnd)) - int(truthOf(a.IntervalEnd))
	})
	var at *nftables.SetElement
	for i := range elements {
		value, known := m.get(e.SourceRegister, len(elements[i].Key))
		if slices.Contains(known, false) {
			return maybe, nil
		}
		if bytes.Compare(elements[i].Key, value) <= 0 {
			at = &elements[i]
		}
	}
	if at == nil || at.IntervalEnd {
		return no, nil
	}
	return yes, at
}

func (p packet) meta(key expr.MetaKey) ([]byte, []bool) {
	native := binaryutil.NativeEndian
	switch key {
	case expr.MetaKeyIIFNAME:
		if p.in != "" {
			return ifname(p.in), nil
		}
		return unknown(unix.IFNAMSIZ)
	case expr.MetaKeyOIFNAME:
		if p.out != "" {
			return ifname(p.out), nil
		}
		if p.hook == *nftables.ChainHookInput {
			return make([]byte, unix.IFNAMSIZ), nil // there is none
		}
		return unknown(unix.IFNAMSIZ)
	case expr.MetaKeyL4PROTO:
		return []byte{unix.IPPROTO_TCP}, nil
	case expr.MetaKeyNFPROTO:
		if p.dst.Is6() {
			return []byte{unix.NFPROTO_IPV6}, nil
		}
		return []byte{unix.NFPROTO_IPV4}, nil
	case expr.MetaKeyPROTOCOL:
		if p.dst.Is6() {
			return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6), nil
		}
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP), nil
	case expr.MetaKeyMARK:
		return native.PutUint32(0), nil
	default:
		return unknown(16)
	}
}

func (p packet) state() uint32 {
	if p.established {
		return ctEstablished
	}
	return ctNew
}

func (p packet) connection(key expr.CtKey) ([]byte, []bool) {
	native := binaryutil.NativeEndian
	switch key {
	case expr.CtKeySTATE:
		return native.PutUint32(p.state()), nil
	case expr.CtKeySTATUS:
		var status uint32
		if p.established {
			status = ipsSeenReply | ipsAssured | ipsConfirmed
			if p.translatedFrom {
				status |= ipsSrcNAT
			}
		}
		return native.PutUint32(status), nil
	case expr.CtKeyMARK:
		return native.PutUint32(0), nil
	default:
		return unknown(16)
	}
}

func (p packet) targetKind() uint32 {
	if p.toHost {
		return addressLocal
	}
	return addressUnicast
}

func (p packet) addressKind(e *expr.Fib) ([]byte, []bool) {
	if !e.ResultADDRTYPE || e.FlagIIF || e.FlagOIF {
		return unknown(16)
	}
	if e.FlagDADDR {
		return binaryutil.NativeEndian.PutUint32(p.targetKind()), nil
	}
	return binaryutil.NativeEndian.PutUint32(addressUnicast), nil
}

// payload cuts from headers of which only what the packet is about is known.
func (p packet) payload(e *expr.Payload) ([]byte, []bool) {
	value, known := make([]byte, 64), make([]bool, 64)
	set := func(at int, b ...byte) {
		for i := range b {
			value[at+i], known[at+i] = b[i], true
		}
	}
	switch e.Base {
	case expr.PayloadBaseNetworkHeader:
		if p.dst.Is6() {
			set(6, unix.IPPROTO_TCP)
			set(8, p.src.AsSlice()...)
			set(24, p.dst.AsSlice()...)
		} else {
			set(9, unix.IPPROTO_TCP)
			set(12, p.src.AsSlice()...)
			set(16, p.dst.AsSlice()...)
		}
	case expr.PayloadBaseTransportHeader:
		if p.sport != 0 {
			set(0, portBytes(p.sport)...)
		}
		if p.dport != 0 {
			set(2, portBytes(p.dport)...)
		}
		const syn, ack = 0x02, 0x10
		set(13, syn)
		if p.established {
			set(13, ack)
		}
	}
	if int(e.Offset+e.Len) > len(value) {
		return unknown(int(min(e.Len, 16)))
	}
	return value[e.Offset : e.Offset+e.Len], known[e.Offset : e.Offset+e.Len]
}

// extension judges the matches of iptables that its nf_tables variant passes
// on as they are.
func (p packet) extension(e *expr.Match) truth {
	switch info := e.Info.(type) {
	case *xt.Comment:
		return yes
	case *xt.ConntrackMtinfo1:
		return p.stateIs(info.MatchFlags, info.InvertFlags, uint16(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return p.stateIs(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.ConntrackMtinfo3:
		return p.stateIs(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.AddrType:
		return min(kindIs(info.Source, addressUnicast, info.InvertSource), kindIs(info.Dest, p.targetKind(), info.InvertDest))
	case *xt.AddrTypeV1:
		const invertSource, invertDest, limitIn, limitOut = 1, 2, 4, 8
		if info.Flags&(limitIn|limitOut) != 0 {
			return maybe
		}
		return min(kindIs(info.Source, addressUnicast, info.Flags&invertSource != 0), kindIs(info.Dest, p.targetKind(), info.Flags&invertDest != 0))
	case *xt.Tcp:
		if info.Option != 0 || info.FlagsMask != 0 {
			return maybe
		}
		return min(portWithin(p.sport, info.SrcPorts, info.InvFlags&xt.TcpInvSrcPorts != 0),
			portWithin(p.dport, info.DstPorts, info.InvFlags&xt.TcpInvDestPorts != 0))
	case *xt.Udp:
		return no
	case *xt.Unknown:
		switch e.Name {
		case "comment", "limit":
			return yes
		case "rt", "ipv6header", "frag", "hbh", "dst", "ah", "esp":
			// An ordinary packet has no such header.
			return no
		case "multiport":
			return p.multiport(*info)
		}
	}
	return maybe
}

func (p packet) stateIs(flags, inverted, mask uint16) truth {
	if xt.ConntrackFlags(flags)&^(xt.ConntrackState|xt.ConntrackStateAlias) != 0 {
		return maybe
	}
	is := truthOf(uint32(mask)&p.state() != 0)
	if xt.ConntrackFlags(inverted)&xt.ConntrackState != 0 {
		is = is.not()
	}
	return is
}

// kindIs compares with the bits of addrtype; none means any.
func kindIs(mask uint16, kind uint32, inverted bool) truth {
	if mask == 0 {
		return yes
	}
	return truthOf((mask&(1<<kind) != 0) != inverted)
}

func portWithin(port uint16, limits [2]uint16, inverted bool) truth {
	if limits == [2]uint16{0, 0xffff} {
		return truthOf(!inverted)
	}
	if port == 0 {
		return maybe
	}
	return truthOf((port >= limits[0] && port <= limits[1]) != inverted)
}

// multiport reads struct xt_multiport_v1 (linux/netfilter/xt_multiport.h):
// flags, count, 15 ports, 15 marks "range to the next", inverted.
func (p packet) multiport(info []byte) truth {
	const ports, marks, inverted, size = 2, 32, 47, 48
	const source, destination = 0, 1
	if len(info) < size || info[1] > 15 || info[0] > destination {
		return maybe
	}
	port := p.dport
	if info[0] == source {
		port = p.sport
	}
	if port == 0 {
		return maybe
	}
	at := func(i int) uint16 { return binary.NativeEndian.Uint16(info[ports+2*i:]) }
	found := false
	for i := 0; i < int(info[1]); i++ {
		first, last := at(i), at(i)
		if info[marks+i] != 0 && i+1 < int(info[1]) {
			i++
			last = at(i)
		}
		found = found || port >= first && port <= last
	}
	return truthOf(found != (info[inverted] != 0))
}
