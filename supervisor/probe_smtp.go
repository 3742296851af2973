package supervisor

import (
	"bufio"
	"bytes"
	"io"
	"net"
)

// askSMTP waits for the banner and takes its leave. RFC 5321, section 3.1: 220
// opens a session; anything else is an answer of a server that takes no mail.
func askSMTP(conn net.Conn) Answer {
	r := bufio.NewReaderSize(io.LimitReader(conn, maxAnswer), 4<<10)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return Answer{Why: "smtp: no banner: " + plainError(err)}
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) < 3 || line[0] < '2' || line[0] > '5' {
			return Answer{Why: "smtp: not the banner of a mail server: " + quoted(line)}
		}
		if len(line) > 3 && line[3] == '-' {
			continue // more lines follow
		}
		// Kept before the farewell is read into the same buffer.
		greets, said := bytes.HasPrefix(line, []byte("220")), quoted(line)
		// Without QUIT the server logs a lost connection for every question.
		if _, err := io.WriteString(conn, "QUIT\r\n"); err == nil {
			_, _ = r.ReadSlice('\n') // its farewell changes nothing
		}
		if !greets {
			return Answer{Alive: true, Why: "smtp: it takes no mail: " + said}
		}
		return Answer{Alive: true, OK: true}
	}
}
