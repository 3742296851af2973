package supervisor

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
)

// askHTTP sends one GET on a connection of its own. Redirects are not
// followed: one says that the path is wrong, or that the application thinks of
// another host. Every answer below 500 shows that the application lives; only
// 2xx means that it can work.
func askHTTP(conn net.Conn, p *Probe) Answer {
	host := p.Host
	if host == "" {
		host = conn.RemoteAddr().String()
	}
	request := "GET " + p.Path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: tarima-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return Answer{Why: "http: " + plainError(err)}
	}
	r := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	for range 5 { // interim answers (1xx) come before the real one
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return Answer{Why: "http: " + plainError(err)}
		}
		// The rest is read, within the bound, so that the service does not log
		// a broken connection for every question.
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		switch code := resp.StatusCode; {
		case code == http.StatusSwitchingProtocols:
			return Answer{Alive: true, Why: "http: it switched protocols unasked"}
		case code < 200:
			continue
		case code < 300:
			return Answer{Alive: true, OK: true}
		default:
			return Answer{Alive: code < 500, Why: fmt.Sprintf("http: %s answered %d", p.Path, code)}
		}
	}
	return Answer{Why: "http: only interim answers came"}
}
