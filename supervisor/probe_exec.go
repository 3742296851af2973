package supervisor

import (
	"bytes"
	"context"
	"fmt"
)

// askExec runs a command in the container: the last choice, since every
// question costs a process.
func askExec(ctx context.Context, p *Probe, t target) Answer {
	code, out, err := t.exec(ctx, t.ID, p.Exec)
	switch {
	case err != nil:
		return Answer{Why: "exec: " + plainError(err)}
	case code != 0:
		return Answer{Why: fmt.Sprintf("exec: %s ended with exit code %d: %s", p.Exec[0], code, quoted(bytes.TrimSpace(out)))}
	}
	return Answer{Alive: true, OK: true}
}
