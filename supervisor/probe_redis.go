package supervisor

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

// askRedis sends PING (after AUTH when a password file is given). An error
// reply is an answer of the application too: LOADING while it reads its file
// is life without readiness, and a demand for a password that nobody gave the
// probe comes from a server that works.
// https://redis.io/docs/latest/develop/reference/protocol-spec/
func askRedis(conn net.Conn, p *Probe) Answer {
	r := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	if p.PasswordFile != "" {
		data, err := os.ReadFile(p.PasswordFile)
		if err != nil {
			return Answer{Why: "redis: its password file cannot be read: " + plainError(err)}
		}
		line, err := redisCall(conn, r, "AUTH", string(bytes.TrimRight(data, "\r\n")))
		if err != nil {
			return Answer{Why: "redis: " + plainError(err)}
		}
		if !bytes.HasPrefix(line, []byte("+OK")) && !bytes.HasPrefix(line, []byte("-LOADING")) {
			// The reply names no password, so it may be shown.
			return Answer{Alive: isRESP(line), Why: "redis: AUTH was answered with " + quoted(line)}
		}
	}
	line, err := redisCall(conn, r, "PING")
	switch {
	case err != nil:
		return Answer{Why: "redis: " + plainError(err)}
	case bytes.Equal(line, []byte("+PONG")):
		return Answer{Alive: true, OK: true}
	case bytes.HasPrefix(line, []byte("-NOAUTH")) && p.PasswordFile == "":
		return Answer{Alive: true, OK: true}
	case bytes.HasPrefix(line, []byte("-LOADING")):
		return Answer{Alive: true, Why: "redis: it is still loading its data"}
	case bytes.HasPrefix(line, []byte("-")):
		return Answer{Alive: true, Why: "redis: PING was answered with " + quoted(line)}
	default:
		return Answer{Why: "redis: not the answer of a Redis: " + quoted(line)}
	}
}

func isRESP(line []byte) bool { return len(line) > 0 && (line[0] == '+' || line[0] == '-') }

// redisCall sends a command and returns the first line of the reply.
func redisCall(conn net.Conn, r *bufio.Reader, args ...string) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		b.WriteString("$" + strconv.Itoa(len(a)) + "\r\n" + a + "\r\n")
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		return nil, fmt.Errorf("send %s: %w", args[0], err)
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", args[0], err)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}
