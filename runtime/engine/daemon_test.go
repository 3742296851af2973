package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"

	"tarima/runtime/container"
)

// A daemon process of its own, for what happens when a daemon is killed: the
// test binary again, told by its environment to serve requests on its standard
// input.

// daemonConfig is the environment variable that makes the test binary a daemon.
const daemonConfig = "TARIMA_TEST_DAEMON"

// background is the context of a daemon that is ended only by a signal.
var background = context.Background()

type daemonFolders struct{ Root, State, Runtime, Logs, Cgroup string }

type daemonRequest struct {
	Do       string
	Spec     container.Spec
	Archive  []byte
	Site     string
	ID       string
	Argv     []string
	Blocking bool // start: stand still in attach
}

type daemonAnswer struct {
	Error  string
	Status container.Status
	List   []container.Status
	Code   int
}

func runTestDaemon() {
	var folders daemonFolders
	if err := json.Unmarshal([]byte(os.Getenv(daemonConfig)), &folders); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	answers := json.NewEncoder(os.Stdout)
	e, err := Open(background, Config{
		Root: folders.Root, State: folders.State, Runtime: folders.Runtime, Cgroup: folders.Cgroup,
		LogDir: func(site string) string { return filepath.Join(folders.Logs, site) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		_ = answers.Encode(daemonAnswer{Error: err.Error()})
		os.Exit(1)
	}
	_ = answers.Encode(daemonAnswer{})
	requests := json.NewDecoder(os.Stdin)
	for {
		var request daemonRequest
		if err := requests.Decode(&request); err != nil {
			_ = e.Close()
			os.Exit(0)
		}
		_ = answers.Encode(serve(e, request))
	}
}

func serve(e *Engine, request daemonRequest) daemonAnswer {
	var answer daemonAnswer
	var err error
	switch request.Do {
	case "load":
		_, err = e.LoadArchive(background, bytes.NewReader(request.Archive))
	case "start":
		var attach func(int) error
		if request.Blocking {
			attach = func(int) error {
				fmt.Fprintln(os.Stderr, "attaching")
				select {}
			}
		}
		answer.Status, err = e.Start(background, request.Spec, attach)
	case "list":
		answer.List, err = e.List(background, request.Site)
	case "exec":
		answer.Code, err = e.execute(background, request.ID, execution{
			argv: request.Argv, io: []cio.Opt{cio.WithStreams(nil, os.Stderr, os.Stderr)},
		})
	case "stop":
		err = e.Stop(background, request.ID, "", 0)
	default:
		err = fmt.Errorf("unknown request %q", request.Do)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	return answer
}

// testDaemon is a running daemon process.
type testDaemon struct {
	t       testing.TB
	command *exec.Cmd
	input   io.WriteCloser
	answers *json.Decoder
	stderr  *bufio.Reader
}

func startDaemon(t testing.TB, cfg Config) *testDaemon {
	t.Helper()
	folders, err := json.Marshal(daemonFolders{Root: cfg.Root, State: cfg.State, Runtime: cfg.Runtime, Logs: filepath.Dir(cfg.LogDir("x")), Cgroup: cfg.Cgroup})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := &testDaemon{t: t, command: exec.Command(self)}
	d.command.Env = append(os.Environ(), daemonConfig+"="+string(folders))
	if d.input, err = d.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := d.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	messages, err := d.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.answers, d.stderr = json.NewDecoder(output), bufio.NewReader(messages)
	if err := d.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.kill)
	d.answer()
	return d
}

// ask sends a request and returns the answer, which must not be an error.
func (d *testDaemon) ask(request daemonRequest) daemonAnswer {
	d.t.Helper()
	d.send(request)
	return d.answer()
}

func (d *testDaemon) send(request daemonRequest) {
	d.t.Helper()
	if err := json.NewEncoder(d.input).Encode(request); err != nil {
		d.t.Fatal(err)
	}
}

func (d *testDaemon) answer() daemonAnswer {
	d.t.Helper()
	var answer daemonAnswer
	if err := d.answers.Decode(&answer); err != nil {
		d.t.Fatalf("no answer of the daemon: %v", err)
	}
	if answer.Error != "" {
		d.t.Fatalf("the daemon answers: %s", answer.Error)
	}
	return answer
}

func (d *testDaemon) load() {
	d.t.Helper()
	d.ask(daemonRequest{Do: "load", Archive: testArchive(d.t)})
}

// kill ends the daemon as a crash would.
func (d *testDaemon) kill() {
	if d.command.ProcessState == nil {
		_ = d.command.Process.Kill()
		_ = d.command.Wait()
	}
}

// await reads what the daemon writes to its standard error up to a line.
func (d *testDaemon) await(wanted string) {
	d.t.Helper()
	for {
		line, err := d.stderr.ReadString('\n')
		if err != nil {
			d.t.Fatalf("waiting for %q of the daemon: %v", wanted, err)
		}
		if strings.TrimSpace(line) == wanted {
			return
		}
		d.t.Log(strings.TrimSpace(line))
	}
}
