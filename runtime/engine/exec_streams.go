package engine

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/pkg/cio"
)

// ExecStreams runs a command in a running container without a terminal, its
// input and outputs apart, and returns its exit code. stdin may be nil; its
// end is the end of the command's input. When ctx ends first the command is
// killed, together with what it has started.
func (e *Engine) ExecStreams(ctx context.Context, id string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	x := execution{argv: argv}
	if stdin != nil {
		in := &hangupReader{reader: stdin, ended: make(chan struct{})}
		x.inputEnds = in.ended
		stdin = in
	}
	x.io = []cio.Opt{cio.WithStreams(stdin, stdout, stderr)}
	return e.execute(ctx, id, x)
}
