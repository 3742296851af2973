//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/vishvananda/netlink"

	"tarima/supervisor"
	"tarima/test/registry"
)

// An image that does not exist: the service goes on as it is, the status says
// what is wrong, and a right name heals it.
func TestImageThatDoesNotExist(t *testing.T) {
	before := site.mustBeReady(t)
	missing := site.registry + "/smpt:1"
	site.mustApply(t, fmt.Sprintf("[images.use]\nsmtp = %q\n", missing))
	t.Cleanup(func() { site.mustApply(t, "") })
	one := site.mustSee(t, time.Minute, "smtp", "its image is missing", func(s supervisor.ServiceStatus) bool {
		return strings.Contains(s.Why, missing) && strings.Contains(s.Why, "not")
	})
	if one.State != supervisor.StateReady || one.PID != service(before, "smtp").PID {
		t.Errorf("the present one does not go on: %+v", one)
	}
	site.mustApply(t, "")
	site.mustSee(t, time.Minute, "smtp", "well again", func(s supervisor.ServiceStatus) bool {
		return s.State == supervisor.StateReady && s.Why == ""
	})
	samePids(t, before, site.mustBeReady(t))
}

// A registry that refuses, is overrun, broken or cuts the connection: a clear
// error, and the next pull succeeds.
func TestRegistryFaults(t *testing.T) {
	before := site.mustBeReady(t)
	clean := site.inventory(t)
	// By its own name, so that nobody else is asked instead.
	repository := site.registry + "/campus"
	// These two take the whole patience of a pull, so they wait side by side.
	t.Run("for good", func(t *testing.T) {
		for repository, status := range map[string]int{"campus": 429, "mfe": 500} {
			t.Run(fmt.Sprint(status), func(t *testing.T) {
				t.Parallel()
				defer site.server.Inject(&registry.Fault{Kind: registry.Manifest, Repository: repository, Status: status})()
				image := site.registry + "/" + repository + ":2"
				code, _, stderr := site.run(t, "image", "pull", image)
				if code != 1 || !strings.Contains(stderr, fmt.Sprint(status)) || !strings.Contains(stderr, image) {
					t.Errorf("exit %d, want 1, the status and the image's name: %s", code, stderr)
				}
			})
		}
	})
	for _, one := range []struct {
		name  string
		fault *registry.Fault
		says  string // "": the pull is to succeed all the same
	}{
		{"login asked for", &registry.Fault{Kind: registry.Manifest, Status: 401}, "credentials"},
		{"too many requests once", &registry.Fault{Kind: registry.Manifest, Status: 429, RetryAfter: "1", Times: 1}, ""},
		{"broken for a moment", &registry.Fault{Kind: registry.Blob, Status: 500, Times: 1}, ""},
		{"cut once", &registry.Fault{Kind: registry.Blob, CutAfter: 1 << 20, Times: 1}, ""},
		{"not what was asked for", &registry.Fault{Kind: registry.Blob, Corrupt: true}, "digest"},
		{"no such image", nil, "not found"},
	} {
		t.Run(one.name, func(t *testing.T) {
			image := repository + ":2"
			if one.fault == nil {
				image = repository + ":never"
			} else {
				defer site.server.Inject(one.fault)()
			}
			code, out, stderr := site.run(t, "image", "pull", image)
			t.Logf("exit %d: %s", code, stderr)
			if one.says == "" {
				if code != 0 || !strings.Contains(out, image) {
					t.Errorf("exit %d: %s%s", code, out, stderr)
				}
			} else if code != 1 || !strings.Contains(stderr, one.says) || !strings.Contains(stderr, image) {
				t.Errorf("exit %d, want 1, %q and the image's name: %s", code, one.says, stderr)
			}
			if code, _, stderr := site.run(t, "image", "prune"); code != 0 {
				t.Error(stderr)
			}
		})
	}
	// With the registry well again nothing stands in the way, and what broken
	// pulls kept goes with the image.
	for _, args := range [][]string{{"image", "pull", repository + ":2"}, {"image", "prune"}} {
		if code, _, stderr := site.run(t, args...); code != 0 {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	samePids(t, before, site.mustBeReady(t))
	site.mustNotHaveLeaked(t, clean)
}

// An archive that is none, or is cut, changes nothing.
func TestCorruptArchive(t *testing.T) {
	before := site.mustBeReady(t)
	clean := site.inventory(t)
	tar := filepath.Join(site.root, "archive.tar")
	t.Cleanup(func() { _ = os.Remove(tar) })
	whole := archive(t, "smtp:1")
	for name, content := range map[string][]byte{
		"cut":     whole[:len(whole)/2],
		"rubbish": bytes.Repeat([]byte("no archive "), 1000),
		"empty":   nil,
	} {
		if err := os.WriteFile(tar, content, 0o644); err != nil {
			t.Fatal(err)
		}
		code, out, stderr := site.run(t, "image", "load", tar)
		if code != 1 || !strings.Contains(stderr, "archive.tar") || out != "" {
			t.Errorf("%s: exit %d, want 1 and the file's name: %s%s", name, code, out, stderr)
		}
		t.Logf("%s: %s", name, stderr)
	}
	// The same one whole is loaded, under its own name.
	if err := os.WriteFile(tar, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := site.run(t, "image", "load", tar); code != 0 || !strings.Contains(out, "sha256:") {
		t.Errorf("the whole one: exit %d: %s%s", code, out, stderr)
	}
	if code, _, stderr := site.run(t, "image", "load", filepath.Join(site.root, "nothing.tar")); code != 1 || !strings.Contains(stderr, "nothing.tar") {
		t.Errorf("no file: exit %d: %s", code, stderr)
	}
	if code, _, stderr := site.run(t, "image", "prune"); code != 0 {
		t.Error(stderr)
	}
	samePids(t, before, site.mustBeReady(t))
	site.mustNotHaveLeaked(t, clean)
}

// Wrong names and wrong command lines say what would be right, with the exit
// code of their kind.
func TestWrongWords(t *testing.T) {
	before := site.mustBeReady(t)
	for _, one := range []struct {
		args string
		code int
		says string
	}{
		{"restart lsm", 1, `did you mean "lms"`},
		{"stop mysq", 1, `did you mean "mysql"`},
		{"logs redis-cash", 1, `did you mean "redis-cache"`},
		{"restart", 2, "--all"},
		{"statsu", 2, "Did you mean stat"},
		{"status --jason", 2, "jason"},
		{"image pull", 2, "--help"},
		{"check /nowhere.toml", 1, "/nowhere.toml"},
	} {
		code, out, stderr := site.run(t, strings.Fields(one.args)...)
		if code != one.code || !strings.Contains(stderr, one.says) || out != "" {
			t.Errorf("tarima %s: exit %d, want %d and %q: %s%s", one.args, code, one.code, one.says, out, stderr)
		}
	}
	// A daemon that is not running has an exit code of its own.
	cmd := exec.Command(site.binary, "--root", filepath.Join(site.root, "nowhere"), "--lang", "en", "status")
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 3 || !strings.Contains(string(out), "not running") {
		t.Errorf("no daemon: exit %d, want 3: %s", code, out)
	}
	samePids(t, before, site.mustBeReady(t))
}

// A port in use: the second proxy says which, and who holds it.
func TestPortInUse(t *testing.T) {
	site.mustBeReady(t)
	root := filepath.Join(site.root, "second")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), site.binary, "--root", root, "proxy", "--http", "127.0.0.1:"+httpPort, "--https", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // the exit code is looked at
	for _, want := range []string{httpPort, fmt.Sprint(site.proxy.pid())} {
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), want) {
			t.Errorf("exit %d, want 1 and %q: %s", code, want, out.String())
		}
	}
	if code, _, err := site.get(t.Context(), host, "/heartbeat"); err != nil || code != 200 {
		t.Errorf("the first one: %d %v", code, err)
	}
}

// Without root there is a kind sentence, and nothing is touched.
func TestWithoutRoot(t *testing.T) {
	site.mustBeReady(t)
	// Where nobody may go: the tests' own folders may be closed to others.
	binary := filepath.Join(site.root, "tarima-for-nobody")
	t.Cleanup(func() { _ = os.Remove(binary) })
	if err := copyFile(site.binary, binary); err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct{ args, says string }{
		{"daemon", "root"},
		{"restart lms", "sudo"},
		{"status", "sudo"},
		{"exec lms id", "sudo"},
	} {
		cmd := exec.CommandContext(t.Context(), binary, append([]string{"--lang", "en", "--root", site.root}, strings.Fields(one.args)...)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput() // the exit code is looked at
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), one.says) || strings.Contains(string(out), "goroutine") {
			t.Errorf("%s: exit %d, want 1 and %q: %s", one.args, code, one.says, out)
		}
	}
}

// archive packs one of the images into an OCI archive.
func archive(t *testing.T, name string) []byte {
	t.Helper()
	index, err := layout.ImageIndexFromPath(filepath.Join("..", "..", "dist", "images", "layout"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	target, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range manifest.Manifests {
		if !strings.HasSuffix(d.Annotations[nameAnnotation], name) {
			continue
		}
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := target.AppendImage(image, layout.WithAnnotations(map[string]string{nameAnnotation: "registry.test/archived:1"})); err != nil {
			t.Fatal(err)
		}
		packed, err := exec.Command("tar", "-C", dir, "-c", "oci-layout", "index.json", "blobs").Output()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	t.Fatalf("there is no image %s", name)
	return nil
}

// nameAnnotation is where an OCI layout keeps an image's name.
const nameAnnotation = "org.opencontainers.image.ref.name"

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	return target.Close()
}

// A range of addresses that the host uses otherwise is named, and nothing is
// taken from the host; another range in the site file heals it.
func TestAddressesInUse(t *testing.T) {
	w := newSmallWorld(t, "range")
	const held = "10.214.0.7/25"
	err := w.inside(func() error {
		link := netlink.NewVeth(netlink.LinkAttrs{Name: "office0"})
		link.PeerName = "office1"
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		address, err := netlink.ParseAddr(held)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, address); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.writeSiteFile(onlyRedis); err != nil {
		t.Fatal(err)
	}
	w.mustStartDaemon(t)
	eventually(t, time.Minute, "the status names range and interface", func() error {
		now := w.status(t)
		text := strings.Join(now.Trouble, "\n")
		if !strings.Contains(text, "10.214.0.0/2") || !strings.Contains(text, "office0") {
			return fmt.Errorf("%s: %q; redis: %s", now.Overall, text, service(now, "redis").Why)
		}
		return nil
	})
	if code, out, stderr := w.run(t, "doctor"); !strings.Contains(out, "office0") {
		t.Errorf("doctor: exit %d: %s%s", code, out, stderr)
	}
	// Another range takes effect with the next start of the daemon.
	if err := w.write(strings.Replace(w.siteFile(onlyRedis), "10.214.0.0/24", "10.215.0.0/24", 1)); err != nil {
		t.Fatal(err)
	}
	w.restartDaemon(t)
	w.mustRun(t, 2*time.Minute, "redis", "redis-cache")
	err = w.inside(func() error {
		link, err := netlink.LinkByName("office0")
		if err != nil {
			return err
		}
		addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err == nil && (len(addresses) != 1 || addresses[0].IPNet.String() != held) {
			err = fmt.Errorf("the host's own address is now %v", addresses)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
