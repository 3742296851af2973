//go:build e2e

package install

import (
	"debug/elf"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Debian sorts our versions as they follow each other.
func TestVersions(t *testing.T) {
	version := func(of, when string) string {
		t.Helper()
		out, err := exec.Command(filepath.Join(top, "packaging", "version"), of, when).Output()
		if err != nil {
			t.Fatalf("version of %q: %v", of, err)
		}
		made := strings.TrimSpace(string(out))
		if out, err := exec.Command("dpkg", "--validate-version", made+"-1").CombinedOutput(); err != nil {
			t.Errorf("%q became %q: %s", of, made, out)
		}
		return made
	}
	const day, later = "202601311159", "202602010000"
	ordered := [][2]string{
		{"f00d123", day},
		{"0bad456-dirty", later},
		{"v0.1.0-rc1", day},
		{"v0.1.0-rc1-4-gabcdef0", day},
		{"v0.1.0-rc2", day},
		{"v0.1.0", day},
		{"v0.1.0-3-g1a2b3c4", day},
		{"v0.1.0-3-g1a2b3c4-dirty", day},
		{"v0.1.0-12-g0000001", day},
		{"v0.1.1", day},
		{"v0.2.0-rc1", day},
		{"0.2.0", day},
		{"v0.10.0", day},
	}
	for i := range ordered[1:] {
		a, b := version(ordered[i][0], ordered[i][1]), version(ordered[i+1][0], ordered[i+1][1])
		if err := exec.Command("dpkg", "--compare-versions", a+"-1", "lt", b+"-1").Run(); err != nil {
			t.Errorf("%s (%s) does not come before %s (%s)", a, ordered[i][0], b, ordered[i+1][0])
		}
	}
}

// What lies in the package, of whom, and with which mode.
func TestContents(t *testing.T) {
	out, err := exec.Command("dpkg-deb", "--contents", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"./usr/bin/tarima":                                       "-rwxr-xr-x",
		"./usr/libexec/tarima/runc":                              "-rwxr-xr-x",
		"./usr/lib/systemd/system/tarima.service":                "-rw-r--r--",
		"./usr/lib/systemd/system/tarima-proxy.service":          "-rw-r--r--",
		"./usr/lib/systemd/system/tarima.slice":                  "-rw-r--r--",
		"./usr/lib/systemd/system/tarima-.slice.d/poweroff.conf": "-rw-r--r--",
		"./usr/lib/sysusers.d/tarima.conf":                       "-rw-r--r--",
		"./usr/share/tarima/tarima.toml":                         "-rw-r--r--",
		"./usr/share/doc/tarima/copyright":                       "-rw-r--r--",
		"./usr/share/doc/tarima/changelog.Debian.gz":             "-rw-r--r--",
		"./usr/share/man/man8/tarima.8.gz":                       "-rw-r--r--",
		"./usr/share/man/man8/tarima-status.8.gz":                "-rw-r--r--",
		"./usr/share/bash-completion/completions/tarima":         "-rw-r--r--",
		"./usr/share/zsh/vendor-completions/_tarima":             "-rw-r--r--",
		"./usr/share/fish/vendor_completions.d/tarima.fish":      "-rw-r--r--",
		"./etc/tarima/": "drwxr-xr-x",
	}
	var times []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		mode, owner, when, name := f[0], f[1], f[3]+" "+f[4], f[5]
		if owner != "root/root" {
			t.Errorf("%s belongs to %s", name, owner)
		}
		if expected, ok := want[name]; ok {
			if mode != expected {
				t.Errorf("%s has mode %s, not %s", name, mode, expected)
			}
			delete(want, name)
		}
		if strings.HasPrefix(name, "./etc/") && !strings.HasSuffix(name, "/") {
			t.Errorf("%s: no file of the administrator's is the package's", name)
		}
		if !slices.Contains(times, when) {
			times = append(times, when)
		}
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
	if len(times) != 1 {
		t.Errorf("the files have the times %v: only the commit's makes the same package again", times)
	}
}

// The programs run on any distribution.
func TestStatic(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "--extract", deb, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"usr/bin/tarima", "usr/libexec/tarima/runc"} {
		file, err := elf.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for _, p := range file.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s needs a dynamic linker", name)
			}
		}
	}
}
