package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Answer is what one question brought.
type Answer struct {
	// Alive means that the application itself answered, whatever it said: the
	// kernel alone cannot give such an answer. Liveness asks for this.
	Alive bool
	// OK means that the service can do its work. Startup and readiness ask for
	// this.
	OK  bool
	Why string // when not OK, one sentence
}

// target is the container that is asked.
type target struct {
	ID   string
	Addr netip.Addr
	// exec runs a command in the container.
	exec func(ctx context.Context, id string, argv []string) (int, []byte, error)
}

// maxAnswer bounds what a probe reads, in bytes: a service that has been broken
// into may send for ever.
const maxAnswer = 64 << 10

// ask puts one question and waits for the answer at most the probe's time-out.
func ask(ctx context.Context, p *Probe, t target) Answer {
	ctx, cancel := context.WithTimeout(ctx, orDefault(p.Timeout, defaultTimeout))
	defer cancel()
	if p.Kind == ProbeExec {
		return askExec(ctx, p, t)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(t.Addr.String(), strconv.Itoa(int(p.Port))))
	if err != nil {
		return Answer{Why: fmt.Sprintf("port %d: %s", p.Port, plainError(err))}
	}
	defer func() { _ = conn.Close() }() // the answer is already known
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return Answer{Why: plainError(err)}
		}
	}
	// A daemon that stops must not wait for a probe's time-out.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	switch p.Kind {
	case ProbeHTTP:
		return askHTTP(conn, p)
	case ProbeRedis:
		return askRedis(conn, p)
	case ProbeMySQL:
		return askMySQL(conn)
	case ProbeMongo:
		return askMongo(conn)
	case ProbeSMTP:
		return askSMTP(conn)
	case ProbeTCP:
		return Answer{OK: true}
	default:
		return Answer{Why: fmt.Sprintf("unknown kind of probe %q", p.Kind)}
	}
}

// checkProbe refuses a probe that could never pass, or whose words could be
// taken for more than one line of a protocol.
func checkProbe(p *Probe) error {
	if p == nil {
		return nil
	}
	switch p.Kind {
	case ProbeExec:
		if len(p.Exec) == 0 {
			return errors.New("an exec probe needs a command")
		}
		return nil
	case ProbeHTTP:
		if !strings.HasPrefix(p.Path, "/") || !printable(p.Path) {
			return fmt.Errorf("the path %q of an http probe must begin with / and hold no blanks", p.Path)
		}
		if !printable(p.Host) {
			return fmt.Errorf("the host %q of an http probe is no host name", p.Host)
		}
	case ProbeTCP, ProbeRedis, ProbeMySQL, ProbeMongo, ProbeSMTP:
	default:
		return fmt.Errorf("unknown kind of probe %q", p.Kind)
	}
	if p.Port == 0 {
		return fmt.Errorf("a probe of kind %s needs a port", p.Kind)
	}
	return nil
}

// printable says whether s holds visible ASCII alone.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// plainError says in few words what a network error means.
func plainError(err error) string {
	var timeout interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer in time"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return strings.TrimPrefix(err.Error(), "connect: ")
}

// quoted shows at most a short piece of what a service sent, made harmless for
// a terminal.
func quoted(b []byte) string {
	const most = 80
	if len(b) > most {
		b = b[:most]
	}
	return strconv.QuoteToASCII(string(b))
}
