package supervisor

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// program finds an installed program; without it the test fails, since what it
// proves can be proved on the real thing only.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatalf("%s is needed (Debian packages redis-server and mariadb-server): %v", name, err)
		}
	}
	return path
}

// freePort is a port of addr that nobody listens on now.
func freePort(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return at
}

// launch starts a server, and ends it by its process id when the test is over.
func launch(t *testing.T, path string, args ...string) *os.Process {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", filepath.Base(path), out.String())
		}
	})
	return cmd.Process
}

// eventually asks until the answer fits, at most a minute.
func eventually(t *testing.T, at netip.AddrPort, p Probe, fits func(Answer) bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		a := askAt(t, at, p)
		if fits(a) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the last answer: %+v", a)
		}
		wait := time.NewTimer(20 * time.Millisecond)
		<-wait.C
	}
}

func ok(a Answer) bool   { return a.OK && a.Alive }
func dead(a Answer) bool { return !a.OK && !a.Alive }

func TestProbeOfARealRedis(t *testing.T) {
	t.Parallel()
	redis := program(t, "redis-server")
	for _, password := range []string{"", "geheim"} {
		at := freePort(t, "127.0.0.1")
		args := []string{"--port", strconv.Itoa(int(at.Port())), "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}
		if password != "" {
			args = append(args, "--requirepass", password)
		}
		process := launch(t, redis, args...)
		plain := Probe{Kind: ProbeRedis, Timeout: 500 * time.Millisecond}
		eventually(t, at, plain, ok)
		if password != "" {
			file := filepath.Join(t.TempDir(), "password")
			if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			with := plain
			with.PasswordFile = file
			if a := askAt(t, at, with); !ok(a) {
				t.Errorf("with the password: %+v", a)
			}
		}
		// A stopped process still accepts; only the application's answer tells.
		if err := process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, at, plain, dead)
		if a := askAt(t, at, Probe{Kind: ProbeTCP}); !a.OK {
			t.Errorf("a bare connect to a stopped process: %+v (this test expects that it passes)", a)
		}
		if err := process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		eventually(t, at, plain, ok)
	}
}

// ownNetwork gives the test's thread, and what it starts, a network of its own
// with one address besides loopback. The thread ends with the test.
func ownNetwork(t *testing.T, addr string) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: no other goroutine may get this thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("a network namespace is needed (run the test as root): %v", err)
	}
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", addr + "/32", "dev", "lo"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
}

// TestProbeOfARealMySQL asks a server many more times than max_connect_errors,
// from an address that it counts errors of: not loopback, and with a name.
func TestProbeOfARealMySQL(t *testing.T) {
	server, install, client := program(t, "mariadbd"), program(t, "mariadb-install-db"), program(t, "mariadb")
	dir := t.TempDir()
	if out, err := exec.Command(install, "--no-defaults", "--user=root", "--datadir="+dir, "--auth-root-authentication-method=normal", "--skip-test-db").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const host = "198.18.93.2"
	ownNetwork(t, host)
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+host+" prober.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(host + ":3306")
	socket := filepath.Join(dir, "sock")
	// Its own mount namespace, so that it finds the name in its own hosts file.
	process := launch(t, program(t, "unshare"), "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts,
		server, "--no-defaults", "--user=root", "--datadir="+dir, "--socket="+socket, "--pid-file="+filepath.Join(dir, "pid"),
		"--bind-address="+host, "--max-connect-errors=3", "--performance-schema=ON", "--innodb-buffer-pool-size=8M", "--host-cache-size=100")
	p := Probe{Kind: ProbeMySQL, Timeout: time.Second}
	eventually(t, at, p, ok)
	sql := func(query string) string {
		out, err := exec.Command(client, "--no-defaults", "--socket="+socket, "-uroot", "-N", "-e", query).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", query, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const held = "SELECT COALESCE(SUM(SUM_CONNECT_ERRORS + COUNT_HOST_BLOCKED_ERRORS), 0) FROM performance_schema.host_cache WHERE IP = '" + host + "'"
	// Without an account that may come from here the server refuses the host
	// before any handshake.
	sql("CREATE USER 'app'@'%' IDENTIFIED BY 'x'")
	for range 50 {
		if a := askAt(t, at, p); !ok(a) {
			t.Fatalf("%+v", a)
		}
	}
	if got := sql("SELECT COUNT(*) FROM performance_schema.host_cache WHERE HOST = 'prober.test' AND HOST_VALIDATED = 'YES' AND COUNT_AUTHENTICATION_ERRORS + COUNT_AUTH_PLUGIN_ERRORS >= 50"); got != "1" {
		t.Fatalf("the server does not keep account of this host: %s", sql("SELECT * FROM performance_schema.host_cache"))
	}
	if got := sql(held); got != "0" {
		t.Errorf("the server holds %s connect errors against this host", got)
	}
	// The control: a client that hangs up after the greeting is held against
	// its host, and soon refused. Without it the figure above proves nothing.
	for range 6 {
		conn, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _, _ = mysqlPacket(conn)
		_ = conn.Close()
	}
	eventually(t, at, p, func(Answer) bool { return sql(held) != "0" })
	// Even so the server works for others, and that is what is asked.
	if a := askAt(t, at, p); !ok(a) {
		t.Errorf("a server that blocked this host: %+v", a)
	}
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, at, p, dead)
	if err := process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, at, p, ok)
}
