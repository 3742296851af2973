package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// MySQL client/server protocol, version 10:
// https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html
const (
	mysqlProtocol = 10
	mysqlOK       = 0x00
	mysqlSwitch   = 0xfe // authentication method switch
	mysqlERR      = 0xff
	mysqlQuit     = 0x01

	// Long passwords, protocol 4.1, secure connection, named methods.
	mysqlCapabilities = 0x00000001 | 0x00000200 | 0x00008000 | 0x00080000

	mysqlTooMany  = 1040 // ER_CON_COUNT_ERROR
	mysqlShutdown = 1053 // ER_SERVER_SHUTDOWN
	// mysqlUser has no account anywhere.
	mysqlUser = "tarima-probe"
)

// askMySQL reads the server's greeting and ends the connection in the one way
// that the server does not hold against this host. A client that closes after
// the greeting is counted as a handshake error, and after max_connect_errors
// (100) of them the server refuses the host altogether; a login that is denied
// is not counted (performance_schema.host_cache: SUM_CONNECT_ERRORS holds
// handshake errors only). So the probe introduces itself with a name that has
// no account and no password, and takes the refusal for the answer: it comes
// from a thread of the server that works.
func askMySQL(conn net.Conn) Answer {
	r := io.LimitReader(conn, maxAnswer)
	greeting, seq, err := mysqlPacket(r)
	if err != nil {
		return Answer{Why: "mysql: " + plainError(err)}
	}
	if len(greeting) > 0 && greeting[0] == mysqlERR {
		return mysqlError(greeting)
	}
	if len(greeting) < 2 || greeting[0] != mysqlProtocol || bytes.IndexByte(greeting[1:], 0) < 0 {
		return Answer{Why: "mysql: not the greeting of a MySQL server: " + quoted(greeting)}
	}
	var hello bytes.Buffer
	_ = binary.Write(&hello, binary.LittleEndian, uint32(mysqlCapabilities)) // a buffer never fails
	_ = binary.Write(&hello, binary.LittleEndian, uint32(1<<24))
	hello.WriteByte(33)            // utf8
	hello.Write(make([]byte, 23))  // reserved
	hello.WriteString(mysqlUser)   // user
	hello.Write([]byte{0, 0})      // end of user; empty answer to the challenge
	hello.WriteString(mysqlMethod) // method of that answer
	hello.WriteByte(0)
	if err := mysqlSend(conn, seq+1, hello.Bytes()); err != nil {
		return Answer{Why: "mysql: " + plainError(err)}
	}
	for range 4 { // a server may ask to switch the method, or for more
		reply, seq, err := mysqlPacket(r)
		if err != nil {
			return Answer{Why: "mysql: it greeted and fell silent: " + plainError(err)}
		}
		if len(reply) == 0 {
			return Answer{Why: "mysql: an empty answer"}
		}
		switch reply[0] {
		case mysqlERR:
			return mysqlError(reply)
		case mysqlOK: // an account without name and password exists
			_ = mysqlSend(conn, 0, []byte{mysqlQuit}) // only a courtesy
			return Answer{Alive: true, OK: true}
		}
		if err := mysqlSend(conn, seq+1, nil); err != nil {
			return Answer{Why: "mysql: " + plainError(err)}
		}
	}
	return Answer{Alive: true, OK: true}
}

const mysqlMethod = "mysql_native_password"

// mysqlError judges an error packet. Nearly all show a server that works: that
// this host or this user has no right to log in is no matter of its health.
func mysqlError(packet []byte) Answer {
	if len(packet) < 3 {
		return Answer{Why: "mysql: an error packet without a code"}
	}
	switch code := binary.LittleEndian.Uint16(packet[1:3]); code {
	case mysqlTooMany:
		return Answer{Alive: true, Why: "mysql: too many connections"}
	case mysqlShutdown:
		return Answer{Alive: true, Why: "mysql: it is shutting down"}
	default:
		return Answer{Alive: true, OK: true}
	}
}

var errMySQLPacket = errors.New("a packet longer than any greeting")

// mysqlPacket reads one packet: three bytes of length, one of sequence.
func mysqlPacket(r io.Reader) (payload []byte, seq byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, 0, fmt.Errorf("no packet came: %w", err)
	}
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if n > 8<<10 {
		return nil, 0, errMySQLPacket
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, 0, fmt.Errorf("half a packet: %w", err)
	}
	return payload, head[3], nil
}

func mysqlSend(w io.Writer, seq byte, payload []byte) error {
	n := len(payload)
	packet := append([]byte{byte(n), byte(n >> 8), byte(n >> 16), seq}, payload...)
	if _, err := w.Write(packet); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}
