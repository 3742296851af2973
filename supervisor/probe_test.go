package supervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers one connection after the other with f, on loopback.
func serve(t testing.TB, f func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			f(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// says is a server that first sends a text and then reads what comes.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

// replies is a server that waits for the first bytes before it sends a text.
func replies(text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := c.Read(make([]byte, 4096)); err == nil {
			_, _ = io.WriteString(c, text)
		}
	}
}

func askAt(t testing.TB, at netip.AddrPort, p Probe) Answer {
	t.Helper()
	p.Port = at.Port()
	if p.Timeout == 0 {
		p.Timeout = 300 * time.Millisecond
	}
	if err := checkProbe(&p); err != nil {
		t.Fatal(err)
	}
	return ask(t.Context(), &p, target{Addr: at.Addr()})
}

func mysqlText(seq byte, payload string) string {
	var b bytes.Buffer
	_ = mysqlSend(&b, seq, []byte(payload))
	return b.String()
}

func mongoText(doc string) string {
	body := binary.LittleEndian.AppendUint32(nil, uint32(len(doc)+5)) //nolint:gosec // small
	body = append(append(body, doc...), 0)
	msg := binary.LittleEndian.AppendUint32(nil, uint32(21+len(body))) //nolint:gosec // small
	msg = append(msg, "\x07\x00\x00\x00\x01\x00\x00\x00\xdd\x07\x00\x00\x00\x00\x00\x00\x00"...)
	return string(append(msg, body...))
}

const (
	bsonOK      = "\x01ok\x00\x00\x00\x00\x00\x00\x00\xf0\x3f"
	bsonPrimary = "\x08isWritablePrimary\x00\x01"
	bsonNested  = "\x03topology\x00\x05\x00\x00\x00\x00\x04hosts\x00\x05\x00\x00\x00\x00\x02me\x00\x02\x00\x00\x00x\x00"
)

func TestProbeAnswers(t *testing.T) {
	greeting := mysqlText(0, "\x0a8.4.0\x00\x01\x00\x00\x0012345678\x00")
	denied := mysqlText(2, "\xff\x15\x04#28000Access denied")
	for name, c := range map[string]struct {
		kind      ProbeKind
		server    func(net.Conn)
		alive, ok bool
	}{
		"redis pong":                 {ProbeRedis, replies("+PONG\r\n"), true, true},
		"redis wants a password":     {ProbeRedis, replies("-NOAUTH Authentication required.\r\n"), true, true},
		"redis loads":                {ProbeRedis, replies("-LOADING Redis is loading the dataset in memory\r\n"), true, false},
		"redis refuses":              {ProbeRedis, replies("-MISCONF no disk\r\n"), true, false},
		"redis is no redis":          {ProbeRedis, replies("HTTP/1.1 400 Bad Request\r\n\r\n"), false, false},
		"redis silent":               {ProbeRedis, says(""), false, false},
		"redis without an end":       {ProbeRedis, says(strings.Repeat("x", 1<<20)), false, false},
		"mysql denied":               {ProbeMySQL, func(c net.Conn) { _, _ = io.WriteString(c, greeting); replies(denied)(c) }, true, true},
		"mysql too many connections": {ProbeMySQL, says(mysqlText(0, "\xff\x10\x04Too many connections")), true, false},
		"mysql shuts down":           {ProbeMySQL, says(mysqlText(0, "\xff\x1d\x04Server shutdown in progress")), true, false},
		"mysql blocked this host":    {ProbeMySQL, says(mysqlText(0, "\xff\x69\x04Host is blocked")), true, true},
		"mysql switches methods": {ProbeMySQL, func(c net.Conn) {
			_, _ = io.WriteString(c, greeting)
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, mysqlText(2, "\xfecaching_sha2_password\x0012345678901234567890\x00"))
			replies(mysqlText(4, "\xff\x15\x04#28000Access denied"))(c)
		}, true, true},
		"mysql lets everybody in": {ProbeMySQL, func(c net.Conn) {
			_, _ = io.WriteString(c, greeting)
			_, _ = c.Read(make([]byte, 4096))
			says(mysqlText(2, "\x00\x00\x00\x02\x00\x00\x00"))(c)
		}, true, true},
		"mysql greets and hangs":   {ProbeMySQL, says(greeting), false, false},
		"mysql silent":             {ProbeMySQL, says(""), false, false},
		"mysql is no mysql":        {ProbeMySQL, says("220 mail ESMTP\r\n220 and more and more"), false, false},
		"mysql half a packet":      {ProbeMySQL, func(c net.Conn) { _, _ = io.WriteString(c, greeting[:9]) }, false, false},
		"mysql error without code": {ProbeMySQL, says(mysqlText(0, "\xff")), false, false},
		"mongo primary":            {ProbeMongo, replies(mongoText(bsonNested + bsonPrimary + bsonOK)), true, true},
		"mongo no primary":         {ProbeMongo, replies(mongoText(bsonOK)), true, false},
		"mongo refuses":            {ProbeMongo, replies(mongoText(bsonPrimary)), true, false},
		"mongo broken document":    {ProbeMongo, replies(mongoText("\x99x\x00abc")), false, false},
		"mongo endless length":     {ProbeMongo, replies("\xff\xff\xff\x7f\x07\x00\x00\x00\x01\x00\x00\x00\xdd\x07\x00\x00\x00\x00\x00\x00\x00"), false, false},
		"mongo silent":             {ProbeMongo, says(""), false, false},
		"smtp banner":              {ProbeSMTP, says("220-mail\r\n220 mail ESMTP\r\n"), true, true},
		"smtp busy":                {ProbeSMTP, says("421 too busy\r\n"), true, false},
		"smtp is no mail server":   {ProbeSMTP, says("SSH-2.0-OpenSSH_9.2\r\n"), false, false},
		"smtp endless":             {ProbeSMTP, says(strings.Repeat("220-x\r\n", 1<<16)), false, false},
		"smtp silent":              {ProbeSMTP, says(""), false, false},
		"tcp":                      {ProbeTCP, says(""), false, true},
		"http ok":                  {ProbeHTTP, replies("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), true, true},
		"http without a body":      {ProbeHTTP, replies("HTTP/1.0 204 No Content\r\n\r\n"), true, true},
		"http redirects":           {ProbeHTTP, replies("HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n"), true, false},
		"http not found":           {ProbeHTTP, replies("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), true, false},
		"http 503":                 {ProbeHTTP, replies("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), false, false},
		"http interim first":       {ProbeHTTP, replies("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), true, true},
		"http interim only":        {ProbeHTTP, replies(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 50)), false, false},
		"http endless header":      {ProbeHTTP, says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), false, false},
		"http endless body":        {ProbeHTTP, replies("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20)), true, true},
		"http is no http":          {ProbeHTTP, says("-ERR unknown command\r\n"), false, false},
		"http silent":              {ProbeHTTP, says(""), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := askAt(t, serve(t, c.server), Probe{Kind: c.kind, Path: "/heartbeat"})
			if a.Alive != c.alive || a.OK != c.ok || a.OK == (a.Why != "") {
				t.Errorf("%+v, want alive %v, ok %v", a, c.alive, c.ok)
			}
			if strings.ContainsFunc(a.Why, func(r rune) bool { return r < ' ' || r > '~' }) || len(a.Why) > 300 {
				t.Errorf("unfit for a terminal: %q", a.Why)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []ProbeKind{ProbeHTTP, ProbeTCP, ProbeRedis, ProbeMySQL, ProbeMongo, ProbeSMTP} {
		if a := askAt(t, at, Probe{Kind: kind, Path: "/"}); a.Alive || a.OK || !strings.Contains(a.Why, "connection refused") {
			t.Errorf("%s: %+v", kind, a)
		}
	}
}

func TestHTTPProbeSendsItsHostAndPath(t *testing.T) {
	got := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- r.Host + " " + r.URL.RequestURI() + " " + r.Header.Get("Connection")
	}))
	defer server.Close()
	a := askAt(t, server.Listener.Addr().(*net.TCPAddr).AddrPort(), Probe{Kind: ProbeHTTP, Host: "lms.example.test", Path: "/heartbeat?x=1", Timeout: 5 * time.Second})
	if !a.OK {
		t.Errorf("%+v", a)
	}
	if line := <-got; line != "lms.example.test /heartbeat?x=1 close" {
		t.Errorf("asked with %q", line)
	}
}

func TestRedisProbeWithAPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := serve(t, func(c net.Conn) {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		if string(b[:n]) != "*2\r\n$4\r\nAUTH\r\n$6\r\ngeheim\r\n" {
			_, _ = io.WriteString(c, "-WRONGPASS invalid username-password pair\r\n")
			return
		}
		_, _ = io.WriteString(c, "+OK\r\n")
		replies("+PONG\r\n")(c)
	})
	if a := askAt(t, at, Probe{Kind: ProbeRedis, PasswordFile: file}); !a.OK {
		t.Errorf("%+v", a)
	}
	if err := os.WriteFile(file, []byte("falsch"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a := askAt(t, at, Probe{Kind: ProbeRedis, PasswordFile: file}); a.OK || !a.Alive || strings.Contains(a.Why, "falsch") {
		t.Errorf("%+v", a)
	}
	if a := askAt(t, at, Probe{Kind: ProbeRedis, PasswordFile: file + ".gone"}); a.OK || a.Alive {
		t.Errorf("%+v", a)
	}
}

func TestExecProbe(t *testing.T) {
	for _, c := range []struct {
		code int
		err  error
		ok   bool
	}{{0, nil, true}, {1, nil, false}, {0, errors.New("no such container"), false}} {
		target := target{ID: "default.x", exec: func(context.Context, string, []string) (int, []byte, error) {
			return c.code, []byte("out\x1b"), c.err
		}}
		a := ask(t.Context(), &Probe{Kind: ProbeExec, Exec: []string{"true"}}, target)
		if a.OK != c.ok || a.Alive != c.ok || strings.Contains(a.Why, "\x1b") {
			t.Errorf("%+v: %+v", c, a)
		}
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	at := serve(t, says(""))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	p := Probe{Kind: ProbeRedis, Port: at.Port(), Timeout: time.Hour}
	if a := ask(ctx, &p, target{Addr: at.Addr()}); a.OK { // hangs the test if it does not end
		t.Errorf("%+v", a)
	}
}

// FuzzProbes lets every probe read what a hostile service may send.
func FuzzProbes(f *testing.F) {
	for _, seed := range []string{
		"", "+PONG\r\n", "-LOADING\r\n", "220 x\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
		mysqlText(0, "\x0a8.4.0\x00\x01\x00\x00\x0012345678\x00"), mysqlText(0, "\xff\x15\x04x"), "\xff\xff\xff\x00",
		mongoText(bsonNested + bsonPrimary + bsonOK), mongoText("\x05b\x00\xff\xff\xff\x7f"),
	} {
		for kind := range 5 {
			f.Add(byte(kind), []byte(seed)) //nolint:gosec // below 5
		}
	}
	kinds := []ProbeKind{ProbeHTTP, ProbeRedis, ProbeMySQL, ProbeMongo, ProbeSMTP}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		here, there := net.Pipe()
		defer func() { _ = here.Close() }()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		go func() {
			_, _ = there.Write(data)
			_ = there.Close()
		}()
		_ = here.SetDeadline(time.Now().Add(5 * time.Second))
		var a Answer
		p := &Probe{Kind: kinds[int(kind)%len(kinds)], Path: "/"}
		switch p.Kind {
		case ProbeHTTP:
			a = askHTTP(here, p)
		case ProbeRedis:
			a = askRedis(here, p)
		case ProbeMySQL:
			a = askMySQL(here)
		case ProbeMongo:
			a = askMongo(here)
		case ProbeSMTP:
			a = askSMTP(here)
		}
		if a.OK && !a.Alive || a.OK == (a.Why != "") {
			t.Errorf("%+v contradicts itself", a)
		}
	})
}

func TestHostPressure(t *testing.T) {
	psi := func(full string) string {
		return "some avg10=50.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=" + full + " avg60=0.00 avg300=0.00 total=1\n"
	}
	meminfo := func(available string) string {
		return "MemTotal:        2000000 kB\nMemFree:  1 kB\nMemAvailable:    " + available + " kB\n"
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"calm":               {map[string]string{"pressure/memory": psi("0.00"), "pressure/io": psi("1.00"), "meminfo": meminfo("10")}, ""},
		"memory":             {map[string]string{"pressure/memory": psi("25.00"), "pressure/io": psi("0.00")}, "short of memory"},
		"disk":               {map[string]string{"pressure/memory": psi("0.00"), "pressure/io": psi("80.00")}, "disks"},
		"no figures, plenty": {map[string]string{"meminfo": meminfo("900000")}, ""},
		"no figures, little": {map[string]string{"meminfo": meminfo("9000")}, "short of memory"},
		"nothing at all":     {nil, ""},
		"rubbish":            {map[string]string{"pressure/memory": "full avg10=x\n", "meminfo": "MemTotal: a\nMemAvailable:\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := HostPressure(dir).Reason
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	if got := HostPressure("/proc"); strings.Contains(got.Reason, "%!") {
		t.Errorf("%q", got.Reason)
	}
}
