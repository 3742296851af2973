package control

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// protocol is the name that an exec request upgrades to. After the upgrade
// both sides send frames: one byte of kind, four bytes of length (big endian),
// the payload.
const protocol = "tarima-exec"

// Kinds of frames.
const (
	frameRequest byte = iota // client, first: Exec as JSON
	frameStdin               // client; an empty one ends the input
	frameResize              // client: Size as JSON
	frameStdout              // daemon
	frameStderr              // daemon
	frameExit                // daemon, last: exit code as JSON
	frameError               // daemon, last: Problem as JSON
)

// maxFrame bounds a payload in bytes.
const maxFrame = 1 << 20

func writeFrame(w io.Writer, kind byte, payload []byte) error {
	head := [5]byte{kind}
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

func readFrame(r io.Reader) (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("exec frame of %d bytes is over the limit of %d", size, maxFrame)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	return head[0], payload, nil
}

// frameWriter writes each chunk as one frame; several share one connection.
type frameWriter struct {
	mu   *sync.Mutex
	conn io.Writer
	kind byte
}

// Write implements io.Writer.
func (f frameWriter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxFrame)
		if err := writeFrame(f.conn, f.kind, rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != protocol {
		s.answer(w, nil, Invalid(nil, "exec needs an upgrade to %s", protocol))
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.answer(w, nil, fmt.Errorf("take over the connection: %w", err))
		return
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol); err != nil {
		return
	}
	// The request's context ends with a hijack's handler only; the command is
	// ended when its client hangs up.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	s.runExec(ctx, cancel, r.PathValue("service"), conn, buffered.Reader)
}

func (s *Server) runExec(ctx context.Context, hangUp func(), service string, conn net.Conn, r *bufio.Reader) {
	var mu sync.Mutex
	last := func(kind byte, value any) {
		payload, err := json.Marshal(value)
		if err != nil {
			s.log.Error("encode exec answer", "error", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if err := writeFrame(conn, kind, payload); err != nil {
			s.log.Debug("exec client went away", "error", err)
		}
	}
	kind, payload, err := readFrame(r)
	var request Exec
	if err == nil && kind == frameRequest {
		err = json.Unmarshal(payload, &request)
	}
	if err != nil || kind != frameRequest || len(request.Argv) == 0 {
		last(frameError, &Problem{Code: CodeInvalid, Message: "exec: the first frame must name a command"})
		return
	}
	stdin, input := io.Pipe()
	resizes := make(chan Size, 1)
	go func() {
		// It ends when the client hangs up; the command ends with it.
		_ = input.CloseWithError(readInput(r, input, resizes)) // always nil by the documentation of io
		hangUp()
	}()
	code, err := s.backend.Exec(ctx, service, request, Streams{
		Stdin:   stdin,
		Stdout:  frameWriter{&mu, conn, frameStdout},
		Stderr:  frameWriter{&mu, conn, frameStderr},
		Resizes: resizes,
	})
	_ = stdin.Close() // always nil by the documentation of io
	if err != nil {
		last(frameError, problem(err))
		return
	}
	last(frameExit, code)
}

// readInput copies the client's frames to the command until the client hangs
// up (io.EOF) or sends something else than it may.
func readInput(r io.Reader, stdin *io.PipeWriter, resizes chan Size) error {
	ended := false
	for {
		kind, payload, err := readFrame(r)
		if err != nil {
			return io.EOF
		}
		switch {
		case kind == frameStdin && len(payload) == 0:
			if err := stdin.Close(); err != nil {
				return err
			}
			ended = true
		case kind == frameStdin && !ended:
			if _, err := stdin.Write(payload); err != nil {
				ended = true // the command does not read any more: drop the rest
			}
		case kind == frameResize:
			var size Size
			if err := json.Unmarshal(payload, &size); err != nil {
				return fmt.Errorf("terminal size: %w", err)
			}
			select {
			case <-resizes: // only the newest size matters
			default:
			}
			resizes <- size
		}
	}
}
