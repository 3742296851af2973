package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// A successor has this long to say that it serves.
	successorPatience = 30 * time.Second
	// After a handover the routes are read from the successor's memory, so
	// that requests which wait here go on as well.
	followEvery = 100 * time.Millisecond
)

// handOver starts a successor and gives it all sockets. It returns where to
// write how many requests are left here. On an error this
// process goes on as if nothing had been.
func (s *server) handOver(ctx context.Context, listeners []listener, datagrams *quicDoors, control *net.UnixListener) (last *testament, failure error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close() // the successor has its own
		}
	}()
	for _, l := range listeners {
		f, err := l.file()
		if err != nil {
			return nil, fmt.Errorf("hand over %s: %w", l.Addr(), err)
		}
		files = append(files, f)
	}
	udp, err := datagrams.files()
	if err != nil {
		return nil, err
	}
	files = append(files, udp...)
	f, err := socketFile(control)
	if err != nil {
		return nil, fmt.Errorf("hand over the control socket: %w", err)
	}
	files = append(files, f)
	sockets := len(files)
	ready, says, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("hand over: %w", err)
	}
	defer func() { _ = ready.Close() }() // read only
	files = append(files, says)

	// Before the successor is there, or it could take a service for drained.
	note, err := writeTestament(s.cfg.Dir, s.instance)
	if err != nil {
		return nil, fmt.Errorf("hand over: %w", err)
	}
	defer func() {
		if last == nil {
			note.close()
		}
	}()
	cmd, err := s.successor()
	if err != nil {
		return nil, fmt.Errorf("hand over: %w", err)
	}
	cmd.ExtraFiles = files
	cmd.Env = successorEnv(cmd.Environ(), sockets)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the successor: %w", err)
	}
	_ = says.Close() // the successor's end is what keeps the pipe open
	ended := make(chan error, 1)
	// When all goes well, this process ends before its child.
	go func() { ended <- cmd.Wait() }()

	if err := waitReady(ctx, ready, ended); err != nil {
		_ = cmd.Process.Kill() // it has ended or must not serve beside us
		return nil, fmt.Errorf("the successor does not serve: %w", err)
	}
	s.logger.Info("handed over", "successor", cmd.Process.Pid)
	s.cfg.Notify("MAINPID=" + strconv.Itoa(cmd.Process.Pid))
	return note, nil
}

func (s *server) successor() (*exec.Cmd, error) {
	if s.cfg.Successor != nil {
		return s.cfg.Successor(), nil
	}
	// After an upgrade the name leads to the new program, where
	// /proc/self/exe would lead to the old one.
	program, err := exec.LookPath(os.Args[0])
	if err != nil {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program, os.Args[1:]...) //nolint:gosec // this very program
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd, nil
}

// successorEnv leaves out what speaks of this process alone.
func successorEnv(env []string, sockets int) []string {
	out := []string{handoverEnv + "=" + strconv.Itoa(sockets)}
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		switch name {
		case handoverEnv, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID":
		default:
			out = append(out, e)
		}
	}
	return out
}

func waitReady(ctx context.Context, ready *os.File, ended <-chan error) error {
	said := make(chan error, 1)
	go func() {
		_, err := ready.Read(make([]byte, 1))
		said <- err
	}()
	timer := time.NewTimer(successorPatience)
	defer timer.Stop()
	var err error
	select {
	case err = <-said:
		if err == nil {
			return nil
		}
		err = errors.New("it closed its end")
	case e := <-ended:
		err = fmt.Errorf("it ended: %w", e)
		if e == nil {
			err = errors.New("it ended")
		}
	case <-timer.C:
		err = fmt.Errorf("nothing heard for %s", successorPatience)
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = ready.SetReadDeadline(time.Unix(1, 0)) // ends the read
	return err
}

// follow keeps the routes as the successor remembers them, and tells it how
// many requests are left here, until ctx ends.
func (s *server) follow(ctx context.Context, last *testament) {
	defer last.close()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var before os.FileInfo
	for {
		info, err := os.Stat(filepath.Join(s.cfg.Dir, snapshotFile))
		if err == nil && (before == nil || !os.SameFile(info, before) || !info.ModTime().Equal(before.ModTime())) {
			before = info
			if snapshot, err := loadSnapshot(s.cfg.Dir); err == nil {
				// An older one is what was served already.
				_, _ = s.board.apply(snapshot)
			}
		}
		if err := last.say(s.board.will()); err != nil {
			s.logger.Warn("the successor cannot be told of requests under way", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
