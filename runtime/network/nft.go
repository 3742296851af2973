package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Registers. The kernel's 16-byte register n is the same memory as the 4-byte
// registers 4(n-1)+8 and following; a concatenated key lies in neighbouring
// memory from the first on (linux/netfilter/nf_tables.h, enum nft_registers).
const (
	reg1, reg2, reg3       = unix.NFT_REG_1, unix.NFT_REG_2, unix.NFT_REG_3
	reg32a, reg32b, reg32c = unix.NFT_REG32_00, unix.NFT_REG32_00 + 1, unix.NFT_REG32_00 + 2
)

const (
	rejectReset = 1 // NFT_REJECT_TCP_RST
	rejectICMPX = 2 // NFT_REJECT_ICMPX_UNREACH
	// icmpxAdminProhibited is "communication administratively prohibited" in
	// the family of the packet.
	icmpxAdminProhibited = 3 // NFT_REJECT_ICMPX_ADMIN_PROHIBITED
)

// maxElements bounds the elements of one message: a netlink attribute has a
// 16-bit length, and the largest element here takes about 80 bytes.
const maxElements = 500

const (
	chainRefuse   = "refuse"
	versionPrefix = "policy_" // an empty chain whose name holds the digest
)

// sendBuffer is room for a whole transaction, which is one datagram to the
// kernel: the usual 208 KiB end at some 2,000 edges. It is a limit and is not
// allocated in advance.
const sendBuffer = 16 << 20

// openTables opens nf_tables in this thread's network namespace; the caller
// closes it with CloseLasting.
func openTables() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetWriteBuffer(sendBuffer)
	}))
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", asUnsupported(err))
	}
	return conn, nil
}

// tableWriter collects one table's replacement: it is deleted and made anew
// in one transaction, so that no packet sees half of it.
type tableWriter struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
	err   error
}

func replaceTable(conn *nftables.Conn, name string) *tableWriter {
	t := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	// Adding first makes the deletion valid when there is no such table yet.
	conn.AddTable(t)
	conn.DelTable(t)
	w := &tableWriter{conn: conn, table: conn.AddTable(t), sets: map[string]*nftables.Set{}}
	return w
}

// commit sends the transaction. Either all of it took place or nothing.
func (w *tableWriter) commit() error {
	if w.err != nil {
		return fmt.Errorf("build firewall table %s: %w", w.table.Name, w.err)
	}
	if err := w.conn.Flush(); err != nil {
		return fmt.Errorf("load firewall table inet %s: %w", w.table.Name, asUnsupported(err))
	}
	return nil
}

// asUnsupported marks the errors with which a kernel answers that has no
// nf_tables or lacks one of its parts.
func asUnsupported(err error) error {
	for _, e := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: nf_tables with the inet family, sets, conntrack, reject and nat is needed (kernel 5.2 or later; modules nf_tables, nft_ct, nft_reject_inet, nft_nat, nft_masq): %w", ErrUnsupported, err)
		}
	}
	return err
}

func (w *tableWriter) set(s *nftables.Set, elements []nftables.SetElement) {
	s.Table = w.table
	s.KeyByteOrder = binaryutil.BigEndian
	first := elements
	if len(first) > maxElements {
		first = elements[:maxElements]
	}
	if err := w.conn.AddSet(s, first); err != nil && w.err == nil {
		w.err = err
	}
	for rest := range slices.Chunk(elements[len(first):], maxElements) {
		if err := w.conn.SetAddElements(s, rest); err != nil && w.err == nil {
			w.err = err
		}
	}
	w.sets[s.Name] = s
}

func (w *tableWriter) baseChain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority, policy nftables.ChainPolicy) *nftables.Chain {
	return w.conn.AddChain(&nftables.Chain{
		Name: name, Table: w.table, Type: kind, Hooknum: hook, Priority: &priority, Policy: &policy,
	})
}

func (w *tableWriter) chain(name string) *nftables.Chain {
	return w.conn.AddChain(&nftables.Chain{Name: name, Table: w.table})
}

// rule appends a rule made of the given parts.
func (w *tableWriter) rule(c *nftables.Chain, parts ...[]expr.Any) {
	w.conn.AddRule(&nftables.Rule{Table: w.table, Chain: c, Exprs: slices.Concat(parts...)})
}

// refuseChain answers every packet that is sent into it.
func (w *tableWriter) refuseChain() {
	c := w.chain(chainRefuse)
	w.rule(c, isTCP(), []expr.Any{&expr.Reject{Type: rejectReset}})
	w.rule(c, []expr.Any{&expr.Reject{Type: rejectICMPX, Code: icmpxAdminProhibited}})
}

// in matches the register against one of the table's sets.
func (w *tableWriter) in(set string, register uint32) []expr.Any {
	return w.lookup(set, register, false)
}

// notIn is the opposite of in.
func (w *tableWriter) notIn(set string, register uint32) []expr.Any {
	return w.lookup(set, register, true)
}

func (w *tableWriter) lookup(set string, register uint32, invert bool) []expr.Any {
	s, ok := w.sets[set]
	if !ok {
		w.err = errors.Join(w.err, fmt.Errorf("rule uses set %s before it is made", set))
		return nil
	}
	return []expr.Any{&expr.Lookup{SourceRegister: register, SetName: s.Name, SetID: s.ID, Invert: invert}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func refuse() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chainRefuse}}
}

func masquerade() []expr.Any {
	return []expr.Any{&expr.Masq{}}
}

func isTCP() []expr.Any { return protocol(unix.IPPROTO_TCP) }

func protocol(n byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{n}},
	}
}

func family(f byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{f}},
	}
}

// ifname is a whole interface name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func fromInterface(name string) []expr.Any {
	return matchName(expr.MetaKeyIIFNAME, expr.CmpOpEq, ifname(name))
}

func toInterface(name string) []expr.Any {
	return matchName(expr.MetaKeyOIFNAME, expr.CmpOpEq, ifname(name))
}

func notFromInterface(name string) []expr.Any {
	return matchName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, ifname(name))
}

func notToInterface(name string) []expr.Any {
	return matchName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, ifname(name))
}

func matchName(key expr.MetaKey, op expr.CmpOp, name []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg1},
		&expr.Cmp{Op: op, Register: reg1, Data: name},
	}
}

// established matches replies and what belongs to a connection that was let
// through.
func established() []expr.Any {
	return connectionState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
}

// invalid matches packets that belong to no connection and open none, such as
// segments outside the window. They are dropped and never refused: a reset in
// answer to one would end a connection that is in order.
func invalid() []expr.Any { return connectionState(expr.CtStateBitINVALID) }

func connectionState(bits uint32) []expr.Any {
	mask := make([]byte, 4)
	binary.NativeEndian.PutUint32(mask, bits)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

// ipVersion describes where a family's header has its addresses.
type ipVersion struct {
	suffix         string // of set names
	proto          byte
	addr           nftables.SetDatatype
	size           uint32
	source, target uint32 // offsets in the header
	// reg holds up to three parts of a concatenated key in a row.
	reg [3]uint32
}

var (
	ipv4 = ipVersion{"4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, 4, 12, 16, [3]uint32{reg32a, reg32b, reg32c}}
	ipv6 = ipVersion{"6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 16, 8, 24, [3]uint32{reg1, reg2, reg3}}
)

func (v ipVersion) is() []expr.Any { return family(v.proto) }

func (v ipVersion) has(a netip.Addr) bool { return a.Is4() == (v.proto == unix.NFPROTO_IPV4) }

func (v ipVersion) loadSource(register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: v.source, Len: v.size}}
}

func (v ipVersion) loadTarget(register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: v.target, Len: v.size}}
}

// loadPort loads the destination port of TCP or UDP.
func loadPort(register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

// loadIncomingName loads the name of the interface that a packet came by.
func loadIncomingName(register uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}}
}

func portIs(p uint16) []expr.Any {
	return append(loadPort(reg1), &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: portBytes(p)})
}

// Types of ICMPv6 (RFC 4861).
const (
	icmpv6NeighbourSolicitation  = 135
	icmpv6NeighbourAdvertisement = 136
)

func icmpType(kind byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{kind}},
	}
}

// sourceIs and targetIsNot compare with one address.
func (v ipVersion) sourceIs(a netip.Addr) []expr.Any {
	return append(v.loadSource(reg1), &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: a.AsSlice()})
}

func (v ipVersion) targetIsNot(a netip.Addr) []expr.Any {
	return append(v.loadTarget(reg1), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: a.AsSlice()})
}

// targetWithin compares with a range.
func (v ipVersion) targetWithin(p netip.Prefix) []expr.Any {
	return append(v.loadTarget(reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: v.size, Mask: mask(p), Xor: make([]byte, v.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Masked().Addr().AsSlice()})
}

func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// key joins the parts of a concatenated set key, each padded to a whole
// number of 4-byte registers.
func key(parts ...[]byte) []byte {
	var k []byte
	for _, p := range parts {
		k = append(k, p...)
		for len(k)%4 != 0 {
			k = append(k, 0)
		}
	}
	return k
}

func portBytes(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// rangeElements are the elements of an interval set that holds the ranges.
func rangeElements(ranges []netip.Prefix) []nftables.SetElement {
	var es []nftables.SetElement
	for _, r := range ranges {
		end := lastAddr(r).Next()
		es = append(es, nftables.SetElement{Key: r.Masked().Addr().AsSlice()})
		if end.IsValid() {
			es = append(es, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return es
}

func lastAddr(p netip.Prefix) netip.Addr {
	b, m := p.Masked().Addr().AsSlice(), mask(p)
	for i := range b {
		b[i] |= ^m[i]
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// hasPolicy says whether a table is loaded and carries the digest.
func hasPolicy(conn *nftables.Conn, table, digest string) (bool, error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list firewall chains: %w", asUnsupported(err))
	}
	return slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
		return c.Table != nil && c.Table.Name == table && c.Name == versionPrefix+digest
	}), nil
}

// deleteTable removes a table; one that does not exist is no error.
func deleteTable(conn *nftables.Conn, name string) error {
	t := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	conn.AddTable(t)
	conn.DelTable(t)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete firewall table inet %s: %w", name, asUnsupported(err))
	}
	return nil
}
