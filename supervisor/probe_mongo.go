package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
)

// MongoDB wire protocol, OP_MSG:
// https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/
const (
	mongoOpMsg   = 2013
	mongoHeader  = 16
	mongoRequest = 1
)

var errMongo = errors.New("not the answer of a MongoDB server")

// askMongo sends hello, which needs no login. An answer of any kind is life;
// ready is a server that takes writes (one that stands alone, or the primary).
func askMongo(conn net.Conn) Answer {
	if _, err := conn.Write(mongoHello()); err != nil {
		return Answer{Why: "mongodb: " + plainError(err)}
	}
	doc, err := mongoReply(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return Answer{Why: "mongodb: " + plainError(err)}
	}
	fields, err := bsonScalars(doc)
	if err != nil {
		return Answer{Why: "mongodb: " + err.Error()}
	}
	switch {
	case fields["ok"] != 1:
		return Answer{Alive: true, Why: "mongodb: hello was refused"}
	case fields["isWritablePrimary"] != 1 && fields["ismaster"] != 1:
		return Answer{Alive: true, Why: "mongodb: it takes no writes yet (no primary)"}
	}
	return Answer{Alive: true, OK: true}
}

// mongoHello is the message {hello: 1, $db: "admin"}.
func mongoHello() []byte {
	var doc bytes.Buffer
	doc.WriteString("\x10hello\x00\x01\x00\x00\x00")
	doc.WriteString("\x02$db\x00\x06\x00\x00\x00admin\x00")
	doc.WriteByte(0)
	le := binary.LittleEndian
	b := make([]byte, 0, 64)
	b = le.AppendUint32(b, uint32(mongoHeader+4+1+4+doc.Len())) //nolint:gosec // a few dozen bytes
	b = le.AppendUint32(b, mongoRequest)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, mongoOpMsg)
	b = le.AppendUint32(b, 0)                   // flags
	b = append(b, 0)                            // section: body
	b = le.AppendUint32(b, uint32(4+doc.Len())) //nolint:gosec // as above
	return append(b, doc.Bytes()...)
}

// mongoReply reads one OP_MSG and returns its body document.
func mongoReply(r io.Reader) ([]byte, error) {
	var head [mongoHeader + 5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	le := binary.LittleEndian
	length := le.Uint32(head[0:])
	switch {
	case le.Uint32(head[12:]) != mongoOpMsg, le.Uint32(head[8:]) != mongoRequest, head[mongoHeader+4] != 0:
		return nil, errMongo
	case length < mongoHeader+5+5 || length > maxAnswer:
		return nil, errMongo
	}
	body := make([]byte, length-mongoHeader-5)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("half an answer: %w", err)
	}
	n := le.Uint32(body)
	if n < 5 || uint64(n) > uint64(len(body)) {
		return nil, errMongo
	}
	return body[:n], nil
}

// bsonScalars returns the numbers and booleans of a document's first level.
// https://bsonspec.org/spec.html
func bsonScalars(doc []byte) (map[string]float64, error) {
	le := binary.LittleEndian
	out := map[string]float64{}
	rest := doc[4:]
	for len(rest) > 0 && rest[0] != 0 {
		kind := rest[0]
		end := bytes.IndexByte(rest[1:], 0)
		if end < 0 {
			return nil, errMongo
		}
		name := string(rest[1 : 1+end])
		rest = rest[2+end:]
		size, err := bsonSize(kind, rest)
		if err != nil || size > len(rest) {
			return nil, errMongo
		}
		value := rest[:size]
		switch kind {
		case 0x01:
			out[name] = math.Float64frombits(le.Uint64(value))
		case 0x08:
			out[name] = float64(value[0])
		case 0x10:
			out[name] = float64(int32(le.Uint32(value))) //nolint:gosec // the bits are a signed number
		case 0x12:
			out[name] = float64(int64(le.Uint64(value))) //nolint:gosec // the bits are a signed number
		}
		rest = rest[size:]
	}
	return out, nil
}

// bsonSize is the length of a value of that kind at the beginning of b.
func bsonSize(kind byte, b []byte) (int, error) {
	counted := func(extra int) (int, error) {
		if len(b) < 4 {
			return 0, errMongo
		}
		n := int64(binary.LittleEndian.Uint32(b)) + int64(extra)
		if n > maxAnswer {
			return 0, errMongo
		}
		return int(n), nil
	}
	switch kind {
	case 0x01, 0x09, 0x11, 0x12: // double, date, timestamp, int64
		return 8, nil
	case 0x08:
		return 1, nil
	case 0x10:
		return 4, nil
	case 0x07: // object id
		return 12, nil
	case 0x13: // decimal
		return 16, nil
	case 0x06, 0x0a, 0x7f, 0xff: // nothing
		return 0, nil
	case 0x02, 0x0d, 0x0e: // string, code, symbol
		return counted(4)
	case 0x03, 0x04: // document, array: the count holds itself
		n, err := counted(0)
		if n < 4 {
			return 0, errMongo
		}
		return n, err
	case 0x05: // binary: count, subtype
		return counted(5)
	default:
		return 0, errMongo
	}
}
