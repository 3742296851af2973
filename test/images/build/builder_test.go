package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// workshop is a builder whose lowest stage is there already: a shell and
// nothing else, so that no test downloads anything.
func workshop(t *testing.T) (*builder, *Stage, *bytes.Buffer) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("must run as root: it mounts file systems")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing (apt-get install busybox-static)")
	}
	said := &bytes.Buffer{}
	b := &builder{out: t.TempDir(), keys: tree(t), say: said}
	base := &Stage{Name: "base"}
	key, err := b.keys.stage(base)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(b.out, "stages", key)
	bin := filepath.Join(dir, "root/bin")
	for _, d := range []string{bin, filepath.Join(dir, "root/etc")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyFile(busybox, filepath.Join(bin, "busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "rm", "id", "mkdir"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "root/etc/old"), "old", 0o644)
	info, err := packLayer(filepath.Join(dir, "root"), filepath.Join(dir, "layer.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "layer.json"), string(raw), 0o644)
	t.Cleanup(func() { noMounts(t, b.out) })
	return b, base, said
}

// noMounts fails when a mount below dir was left behind.
func noMounts(t *testing.T, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("mounts are left below %s", dir)
	}
}

func TestStageOnAParent(t *testing.T) {
	b, base, said := workshop(t)
	image := &Image{Name: "shop", Tag: "1", Top: &Stage{
		Name: "shop", Parent: base, Files: []string{"shop"}, Env: []string{"GREETING=hello"},
		Script: `
rm /etc/old
echo "$GREETING" >/etc/greeting
echo scratch >/tmp/scratch
test -c /dev/null
test -d /proc/self`,
	}}
	if err := b.build([]*Image{image}); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	key, err := b.keys.stage(image.Top)
	if err != nil {
		t.Fatal(err)
	}
	found := entries(t, filepath.Join(b.out, "stages", key, "layer.tar.gz"))
	for name, kind := range map[string]byte{
		"etc/.wh.old": tar.TypeReg, "etc/greeting": tar.TypeReg, "etc/shop.conf": tar.TypeReg,
	} {
		if h, ok := found[name]; !ok || h.Typeflag != kind {
			t.Errorf("%s: %+v", name, h)
		}
	}
	for name := range found {
		for _, foreign := range []string{"tmp/", "proc/", "dev/", "etc/resolv.conf", "etc/old"} {
			if strings.HasPrefix(name, foreign) && name != foreign {
				t.Errorf("%s of the build is in the image", name)
			}
		}
	}

	said.Reset()
	if err := b.build([]*Image{image}); err != nil {
		t.Fatal(err)
	}
	if got := said.String(); !strings.Contains(got, "up to date") || strings.Contains(got, "built") {
		t.Errorf("the second build says %q", got)
	}

	// Another file: only the stage that has it is made again.
	write(t, filepath.Join(b.keys.images, "shop/etc/shop.conf"), "open = false\n", 0o644)
	said.Reset()
	if err := b.build([]*Image{image}); err != nil {
		t.Fatal(err)
	}
	if got := said.String(); !strings.Contains(got, "shop:1") || !strings.Contains(got, "built") {
		t.Errorf("the build after a change says %q", got)
	}
}

func TestFailedStageLeavesNothingThatPassesForAStage(t *testing.T) {
	b, base, said := workshop(t)
	image := &Image{Name: "shop", Tag: "1", Top: &Stage{Name: "shop", Parent: base, Script: "echo the reason; false"}}
	if err := b.build([]*Image{image}); err == nil {
		t.Fatal("a failing command makes an image")
	}
	if !strings.Contains(said.String(), "the reason") {
		t.Errorf("what the command said is not shown: %q", said)
	}
	noMounts(t, b.out)
	image.Top.Script = "true"
	said.Reset()
	if err := b.build([]*Image{image}); err != nil {
		t.Fatalf("after the cause is gone: %v", err)
	}
}
