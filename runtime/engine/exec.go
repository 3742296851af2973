package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execOutput is how much of a command's output Exec returns, in bytes. The
// rest is read and thrown away, or the command would stand still.
const execOutput = 64 << 10

// execSeparator stands between container and command in the name of a folder.
const execSeparator = "@"

// drainPatience is how long the output of a command that has ended may take to
// come in.
const drainPatience = 2 * time.Second

// firstSizePatience is how long a terminal waits for its first size.
const firstSizePatience = 200 * time.Millisecond

// hangupPatience is how long a command may take to end after SIGHUP.
const hangupPatience = 3 * time.Second

// Exec runs a command in a running container, as its user and with its
// environment, and returns its exit code and the first 64 KiB of its two
// outputs together. When ctx ends first the command is killed; what it has
// started ends with it either way. In a container
// whose memory limit is reached it may fail to start at all.
func (e *Engine) Exec(ctx context.Context, id string, argv []string) (int, []byte, error) {
	output := &cappedBuffer{limit: execOutput}
	code, err := e.execute(ctx, id, execution{
		argv:  argv,
		io:    []cio.Opt{cio.WithStreams(nil, output, output)},
		alone: true,
	})
	return code, output.bytes(), err
}

// Size of a terminal in characters.
type Size struct{ Width, Height uint16 }

// Terminal is where an interactive command is typed and read.
type Terminal struct {
	In  io.Reader // its end is a hang-up
	Out io.Writer
	// Resize gives the size of the terminal, at first and whenever it changes.
	// May be nil.
	Resize <-chan Size
	// Term is the value of TERM; "" leaves the container's.
	Term string
}

// ExecTTY runs a command with a terminal in a running container and returns
// its exit code. When ctx ends, or In does, the terminal hangs up: the command
// gets SIGHUP and, if it goes on, SIGKILL. The code is then that of its end,
// and the error of a ctx that ended is returned.
func (e *Engine) ExecTTY(ctx context.Context, id string, argv []string, terminal Terminal) (int, error) {
	in := &hangupReader{reader: terminal.In, ended: make(chan struct{})}
	return e.execute(ctx, id, execution{
		argv:   argv,
		io:     []cio.Opt{cio.WithStreams(in, terminal.Out, nil), cio.WithTerminal},
		tty:    true,
		term:   terminal.Term,
		resize: terminal.Resize,
		hangup: in.ended,
	})
}

type execution struct {
	argv   []string
	io     []cio.Opt
	tty    bool
	term   string
	resize <-chan Size
	hangup <-chan struct{}
	// inputEnds, when closed, ends the command's input and not the command.
	inputEnds <-chan struct{}
	// alone ends what the command has started together with it.
	alone bool
}

func (e *Engine) execute(ctx context.Context, id string, x execution) (code int, err error) {
	defer func() {
		// The wire makes another error of the end of a context.
		if ended := ctx.Err(); err != nil && ended != nil && !errors.Is(err, ended) {
			err = errors.Join(ended, err)
		}
	}()
	if len(x.argv) == 0 {
		return -1, fmt.Errorf("%w: no command to run in %s", ErrSpec, id)
	}
	ctx = e.contextFor(ctx)
	c, err := e.client.LoadContainer(ctx, id)
	if err != nil {
		return -1, e.notFound(id, err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return -1, e.notRunning(id, err)
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return -1, fmt.Errorf("specification of %s: %w", id, err)
	}
	process := execProcess(spec.Process, x)
	process.ConsoleSize = firstSize(ctx, x.resize)

	// What tidies up must run even though ctx has ended.
	tidy := context.WithoutCancel(ctx)
	// The pipes have a folder for each command, removed with it. Its name tells
	// the next daemon which command lost its listener.
	execID := "exec-" + newRun()
	dir := filepath.Join(e.cfg.State, "fifo", id+execSeparator+execID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return -1, fmt.Errorf("pipes for a command in %s: %w", id, err)
	}
	abandoned := false // whoever waits for its start removes everything
	defer func() {
		if !abandoned {
			_ = os.RemoveAll(dir) // the next Open looks again
		}
	}()
	command, err := task.Exec(ctx, execID, process, cio.NewCreator(append(x.io, cio.WithFIFODir(dir))...))
	if err != nil {
		return -1, e.notRunning(id, err)
	}
	remove := func() {
		tidy, cancel := context.WithTimeout(tidy, cleanupTimeout)
		defer cancel()
		if _, err := command.Delete(tidy, containerd.WithProcessKill); err != nil && !isGone(err) {
			e.log.Warn("removing a command that has ended", "container", id, "error", err)
		}
	}
	drained := true
	defer func() {
		switch {
		case abandoned:
		case drained:
			remove()
		default:
			// The shim waits ten seconds for the rest of the output; the caller
			// has its answer, and the next Open would remove it too.
			go remove()
		}
	}()
	ended, err := command.Wait(tidy)
	if err != nil {
		return -1, e.notRunning(id, err)
	}
	rest := func() { endSession(memoryEventsOf(int(task.Pid())), int(command.Pid())) }
	// A start that is cut off goes on in the shim, and one whose pipes are gone
	// fails there with the command left running: so it has all it needs, and is
	// ended when it has come to run.
	started := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(tidy, createTimeout)
		defer cancel()
		started <- command.Start(ctx)
	}()
	select {
	case err = <-started:
	case <-ctx.Done():
		abandoned = true
		go func() {
			if <-started == nil {
				rest()
				_ = command.Kill(tidy, unix.SIGKILL) // gone already if it fails
			}
			command.IO().Cancel()
			remove()
			_ = os.RemoveAll(dir) // the next Open looks again
		}()
		return -1, fmt.Errorf("running %q in %s: %w", x.argv[0], id, ctx.Err())
	}
	if err != nil {
		command.IO().Cancel()
		return -1, fmt.Errorf("running %q in %s: %w", x.argv[0], id, err)
	}
	status, cause := attend(ctx, command, ended, x, rest)
	if x.alone {
		rest()
	}
	drained = drain(command.IO())
	result, _, err := status.Result()
	if cause != nil {
		err = cause
	}
	if err != nil {
		return int(result), fmt.Errorf("running %q in %s: %w", x.argv[0], id, err)
	}
	return int(result), nil
}

// drain waits until all output has been read. A process that the command left
// behind may hold the pipes open for ever; its output is not waited for.
func drain(pipes cio.IO) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pipes.Wait()
	}()
	timer := time.NewTimer(drainPatience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		pipes.Cancel()
		_ = pipes.Close() // what is still written goes nowhere
		return false
	}
}

// firstSize is the size that a terminal begins with, so that a command sees
// no other; nil where none comes at once.
func firstSize(ctx context.Context, resize <-chan Size) *specs.Box {
	if resize == nil {
		return nil
	}
	timer := time.NewTimer(firstSizePatience)
	defer timer.Stop()
	select {
	case size, ok := <-resize:
		if ok {
			return &specs.Box{Width: uint(size.Width), Height: uint(size.Height)}
		}
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// attend passes sizes on until the command has ended, and ends it when the
// context or the terminal does, with the rest of what it has started where it is
// killed for it. The returned error is the context's.
func attend(ctx context.Context, command containerd.Process, ended <-chan containerd.ExitStatus, x execution, rest func()) (containerd.ExitStatus, error) {
	tidy := context.WithoutCancel(ctx)
	done, hangup, resize, inputEnds := ctx.Done(), x.hangup, x.resize, x.inputEnds
	var cause error
	var patience <-chan time.Time
	for {
		select {
		case status := <-ended:
			return status, cause
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			// A command that is ending refuses; nothing depends on it.
			_ = command.Resize(tidy, uint32(size.Width), uint32(size.Height))
			continue
		case <-inputEnds:
			inputEnds = nil
			// The shim holds the input open until it is told; a command that
			// is ending refuses, and nothing depends on it.
			_ = command.CloseIO(tidy, containerd.WithStdinCloser)
			continue
		case <-done:
			cause = ctx.Err()
		case <-hangup:
		case <-patience:
			rest()
			_ = command.Kill(tidy, unix.SIGKILL) // gone already if it fails
			patience = nil
			continue
		}
		done, hangup = nil, nil
		if !x.tty {
			rest()
			_ = command.Kill(tidy, unix.SIGKILL)
			continue
		}
		_ = command.Kill(tidy, unix.SIGHUP)
		timer := time.NewTimer(hangupPatience)
		defer timer.Stop()
		patience = timer.C
	}
}

// execProcess is the container's own process with another command.
func execProcess(main *specs.Process, x execution) *specs.Process {
	process := *main
	process.Args = x.argv
	process.Terminal = x.tty
	process.Rlimits = slices.Clone(main.Rlimits)
	if x.tty && x.term != "" {
		process.Env = mergeEnv(main.Env, []string{"TERM=" + x.term})
	}
	return &process
}

func (e *Engine) notRunning(id string, err error) error {
	if isGone(err) {
		return fmt.Errorf("%w: %s does not run", ErrNotFound, id)
	}
	return fmt.Errorf("running a command in %s: %w", id, err)
}

// cappedBuffer keeps the beginning of what is written to it. Two outputs may
// write at once.
type cappedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
	limit  int
}

func (b *cappedBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := b.limit - b.buffer.Len()
	b.buffer.Write(text[:min(len(text), max(room, 0))])
	return len(text), nil
}

func (b *cappedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buffer.Bytes())
}

// hangupReader tells when its source ends.
type hangupReader struct {
	reader io.Reader
	ended  chan struct{}
	once   sync.Once
}

func (r *hangupReader) Read(buffer []byte) (int, error) {
	n, err := r.reader.Read(buffer)
	if err != nil {
		r.once.Do(func() { close(r.ended) })
		if !errors.Is(err, io.EOF) {
			err = io.EOF
		}
	}
	return n, err
}
