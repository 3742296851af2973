package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// standInVariable makes this test binary a process that only waits for its
// input to end: what others see of it is its name, arguments and environment.
const standInVariable = "TARIMA_TEST_STAND_IN"

func standIn() {
	_, _ = os.Stdout.WriteString("up\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// startOther starts a process that looks like one of another Tarima.
func startOther(t *testing.T, dir string, env []string, flags uintptr, argv ...string) int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{
		Path: self, Args: argv, Dir: dir, Stderr: os.Stderr,
		Env:         append([]string{standInVariable + "=1"}, env...),
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil { // it has its own name and network by now
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestOtherTarimasAreFound(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own := newPaths(filepath.Join(base, "own"))
	root := func(name string) string {
		path := filepath.Join(base, name)
		if err := os.MkdirAll(newPaths(path).State, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Symlink(root("own"), filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	shimOf := func(name string) []string {
		return []string{"TARIMA_SHIM_LOG=" + filepath.Join(base, name, "run", "engine", "shim.log")}
	}
	want := map[int]string{ // role and root of those that are to be found
		startOther(t, "", nil, 0, "tarima", "daemon", "--root", root("flag")):                       "daemon flag",
		startOther(t, "", nil, 0, "/opt/tarima", "--lang", "es", "--root="+root("joined"), "proxy"): "proxy joined",
		startOther(t, "", []string{"TARIMA_ROOT=" + root("env")}, 0, "tarima", "daemon"):            "daemon env",
		startOther(t, base, nil, 0, "tarima", "daemon", "--root", "relative"):                       "daemon relative",
		startOther(t, "", shimOf("left"), 0, "/x/tarima-shim", "-namespace", "tarima"):              "tarima-shim left",
	}
	for _, argv := range [][]string{
		{"tarima", "daemon", "--root", own.State + "/.."},                   // our own place under another name
		{"tarima", "daemon", "--root", filepath.Join(base, "link")},         // and by a link
		{"tarima", "status", "--root", root("flag")},                        // a verb that ends by itself
		{"tarima", "exec", "lms", "--", "daemon", "--root", root("inside")}, // what is said to somebody else
		{"other", "daemon", "--root", root("otherprogram")},
		{"tarima-shim", "-id", "x"}, // of an external containerd, which tells no place
	} {
		startOther(t, "", nil, 0, argv...)
	}
	startOther(t, "", shimOf("flag"), 0, "tarima-shim") // its daemon runs and is told of
	startOther(t, "", shimOf("own"), 0, "tarima-shim")  // ours
	startOther(t, "", nil, syscall.CLONE_NEWNET, "tarima", "daemon", "--root", root("elsewhere"))

	for _, o := range findOthers(own) {
		name, ours := strings.CutPrefix(o.root, base+"/")
		if !ours {
			continue // somebody else uses this machine
		}
		if got := o.role + " " + name; got != want[o.pid] {
			t.Errorf("found %s (process %d), want %q", got, o.pid, want[o.pid])
		}
		delete(want, o.pid)
	}
	for pid, missing := range want {
		t.Errorf("%s (process %d) is not found", missing, pid)
	}
}

func TestWhatTwoTarimasShare(t *testing.T) {
	defaults := site.Defaults(site.Config{}, site.Host{})
	config := func(range4, http, https string) *site.Config {
		var c site.Config
		if err := c.Network.Range4.UnmarshalText([]byte(range4)); err != nil {
			t.Fatal(err)
		}
		c = site.Defaults(c, site.Host{})
		c.Proxy.HTTP, c.Proxy.HTTPS = http, https
		return &c
	}
	for name, in := range map[string]struct {
		other other
		want  []string
		fix   string
	}{
		"a daemon with the same": {
			other{role: daemonRole, root: "/x", pid: 7, site: "default", config: config("10.213.0.0/24", ":80", ":443")},
			[]string{`the site name "default"`, "addresses of 10.213.0.0/24"},
			"tarima --root /x stop --all, then end process 7",
		},
		"the daemon of the system": {other{role: daemonRole, site: "default"}, []string{`the site name "default"`}, "systemctl stop tarima"},
		"another site, a part of the range": {
			other{role: daemonRole, root: "/x", site: "b", config: config("10.213.0.128/25", ":80", ":443")},
			[]string{"addresses of 10.213.0.0/24"},
			"range4",
		},
		"another site": {other{role: daemonRole, root: "/x", site: "b", config: config("10.3.0.0/24", ":80", ":443")}, nil, ""},
		"a proxy with one port": {
			other{role: proxyRole, root: "/x", pid: 7, site: "default", config: config("10.213.0.0/24", "127.0.0.1:443", ":8443")},
			[]string{"port 443"},
			"end process 7",
		},
		"a proxy with other ports":           {other{role: proxyRole, site: "default", config: config("10.213.0.0/24", "", ":8443")}, nil, ""},
		"a proxy whose file nobody can read": {other{role: proxyRole, site: "default"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := shared(in.other, "default", defaults)
			if !slices.Equal(got, in.want) {
				t.Errorf("shared: %q, want %q", got, in.want)
			}
			if fix := remedy(in.other, got); len(got) > 0 && !strings.Contains(fix, in.fix) {
				t.Errorf("remedy: %s", fix)
			}
		})
	}
}

func TestNoStartBesideAnotherDaemon(t *testing.T) {
	a, logged := startingAppliance(t)
	base := t.TempDir()
	config := site.Defaults(site.Config{}, site.Host{})
	of := func(findings []control.Finding) []control.Finding {
		return slices.DeleteFunc(findings, func(f control.Finding) bool { return !strings.Contains(f.Text, base) })
	}
	startOther(t, "", []string{"TARIMA_SHIM_LOG=" + filepath.Join(base, "left/run/engine/shim.log")}, 0, "tarima-shim")
	if err := a.checkOthers(config); err != nil && strings.Contains(err.Error(), base) {
		t.Errorf("containers without a daemon keep this one from starting: %v", err)
	}
	if !strings.Contains(logged.String(), filepath.Join(base, "left")) {
		t.Errorf("nobody is told of them: %s", logged)
	}
	root := filepath.Join(base, "living")
	pid := startOther(t, "", nil, 0, "tarima", "daemon", "--root", root)
	err := a.checkOthers(config)
	if !errors.Is(err, errOther) {
		t.Fatalf("error: %v", err)
	}
	findings := of(examineOthers(a.paths, config))
	if len(findings) != 2 || findings[1].Level != levelError {
		t.Fatalf("findings: %+v", findings)
	}
	for _, text := range []string{findings[1].Text + findings[1].Fix} {
		for _, want := range []string{strconv.Itoa(pid), root, `"default"`, "stop --all"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in %s", want, text)
			}
		}
	}
}
