package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"golang.org/x/sys/unix"
)

// builder makes images below one output folder:
//
//	layout/        the OCI image layout that it is all for
//	stages/KEY/    a stage's tree (root) and its packed layer (layer.tar.gz, layer.json)
//	wheels/KEY/    compiled Python packages
//	programs/KEY/  compiled Go programs of other modules
//	apt/           Debian's package lists and packages, to be downloaded once
//	log/           what the commands of a stage said
type builder struct {
	out    string
	keys   keyer
	say    io.Writer // progress for people
	listed bool      // package lists are fresh in this run
}

// suite is the Debian release that everything is made of, from the mirror that
// mmdebstrap takes by itself.
const suite = "bookworm"

// build makes the images that are not there yet.
func (b *builder) build(images []*Image) error {
	path, err := openLayout(filepath.Join(b.out, "layout"))
	if err != nil {
		return err
	}
	have, err := recipesIn(path)
	if err != nil {
		return err
	}
	changed := false
	for _, image := range images {
		recipe, err := b.keys.image(image)
		if err != nil {
			return err
		}
		if have[image.Ref()] == recipe {
			fmt.Fprintf(b.say, "%-18s up to date\n", image.Ref())
			continue
		}
		start := time.Now()
		if err := b.image(path, image, recipe); err != nil {
			return fmt.Errorf("image %s: %w", image.Ref(), err)
		}
		changed = true
		fmt.Fprintf(b.say, "%-18s built in %s\n", image.Ref(), time.Since(start).Round(100*time.Millisecond))
	}
	if changed {
		return dropUnused(path)
	}
	return nil
}

func (b *builder) image(path layout.Path, image *Image, recipe string) error {
	var layers []packedLayer
	for _, s := range image.stages() {
		l, err := b.stage(s)
		if err != nil {
			return fmt.Errorf("stage %s: %w", s.Name, err)
		}
		layers = append(layers, l)
	}
	return putImage(path, image, recipe, layers)
}

// stage returns the stage's packed layer and makes it when it is not there.
func (b *builder) stage(s *Stage) (packedLayer, error) {
	key, err := b.keys.stage(s)
	if err != nil {
		return packedLayer{}, err
	}
	dir := filepath.Join(b.out, "stages", key)
	if l, err := readLayer(dir); err == nil {
		return l, nil
	}
	start := time.Now()
	fmt.Fprintf(b.say, "  %-16s …\n", s.Name)
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return packedLayer{}, err
	}
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return packedLayer{}, err
	}
	err = b.logged(s.Name, func(log io.Writer) error {
		if s.Parent == nil {
			return b.fromNothing(s, partial, log)
		}
		return b.onParent(s, partial, log)
	})
	if err != nil {
		return packedLayer{}, err
	}
	info, err := packLayer(filepath.Join(partial, "root"), filepath.Join(partial, "layer.tar.gz"))
	if err != nil {
		return packedLayer{}, err
	}
	raw, err := json.Marshal(info)
	if err != nil {
		return packedLayer{}, err
	}
	if err := os.WriteFile(filepath.Join(partial, "layer.json"), raw, 0o644); err != nil {
		return packedLayer{}, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return packedLayer{}, err
	}
	if err := os.Rename(partial, dir); err != nil {
		return packedLayer{}, err
	}
	fmt.Fprintf(b.say, "  %-16s %s, %d MB packed\n", s.Name, time.Since(start).Round(100*time.Millisecond), info.Size>>20)
	return readLayer(dir)
}

// readLayer opens the packed layer of a finished stage.
func readLayer(dir string) (packedLayer, error) {
	l := packedLayer{path: filepath.Join(dir, "layer.tar.gz")}
	raw, err := os.ReadFile(filepath.Join(dir, "layer.json"))
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(raw, &l.info); err != nil {
		return l, err
	}
	info, err := os.Stat(l.path)
	if err != nil {
		return l, err
	}
	if info.Size() != l.info.Size {
		return l, fmt.Errorf("%s has %d bytes in place of %d", l.path, info.Size(), l.info.Size)
	}
	return l, nil
}

// logged runs a step whose commands speak into a log file, and shows the last
// lines of it when the step fails.
func (b *builder) logged(name string, step func(io.Writer) error) error {
	path := filepath.Join(b.out, "log", name+".log")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	err = errors.Join(step(log), log.Close())
	if err == nil {
		return nil
	}
	raw, readErr := os.ReadFile(path)
	if readErr == nil && len(raw) > 0 {
		lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
		if len(lines) > 30 {
			lines = lines[len(lines)-30:]
		}
		fmt.Fprintf(b.say, "    | %s\n", strings.Join(lines, "\n    | "))
	}
	return fmt.Errorf("%w (full log: %s)", err, path)
}

// fromNothing makes a stage's tree with mmdebstrap.
func (b *builder) fromNothing(s *Stage, dir string, log io.Writer) error {
	tree := filepath.Join(dir, "root")
	args := []string{
		"--mode=root", "--variant=minbase", "--format=directory",
		"--include=" + strings.Join(s.Packages, ","),
		"--aptopt=APT::Install-Recommends \"false\"",
	}
	for _, path := range []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*"} {
		args = append(args, "--dpkgopt=path-exclude="+path)
	}
	args = append(args, suite, tree)
	cmd := exec.Command("mmdebstrap", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mmdebstrap: %w", err)
	}
	if s.Script == "" {
		return nil
	}
	r := &root{dir: tree, log: log}
	return r.run(s.Script, s.Env)
}

// onParent makes what a stage adds to its parents.
func (b *builder) onParent(s *Stage, dir string, log io.Writer) error {
	folders := []shown{}
	if s.Wheels != nil {
		wheels, err := b.wheels(s.Wheels)
		if err != nil {
			return fmt.Errorf("python packages %s: %w", s.Wheels.Name, err)
		}
		folders = append(folders, shown{wheels, "/run/wheels", true})
	}
	var programs []string
	for _, p := range s.Programs {
		path, err := b.program(p, log)
		if err != nil {
			return fmt.Errorf("program %s: %w", p.Target, err)
		}
		programs = append(programs, path)
	}
	return b.inRoot(s.Parent, dir, log, folders, func(r *root) error {
		if s.Before != "" {
			if err := r.run(s.Before, s.Env); err != nil {
				return err
			}
		}
		if err := b.install(r, s.Packages); err != nil {
			return err
		}
		for i, p := range s.Programs {
			target := filepath.Join(r.dir, p.Target)
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			if err := copyFile(programs[i], target, 0o755); err != nil {
				return err
			}
		}
		for _, files := range s.Files {
			if err := layOver(filepath.Join(b.keys.images, files), r.dir); err != nil {
				return fmt.Errorf("files %s: %w", files, err)
			}
		}
		if s.Script == "" {
			return nil
		}
		return r.run(s.Script, s.Env)
	})
}

// inRoot mounts an empty layer over parent and its parents and gives it to use.
// What use adds lies in dir/root afterwards.
func (b *builder) inRoot(parent *Stage, dir string, log io.Writer, folders []shown, use func(*root) error) (err error) {
	var lower []string
	for p := parent; p != nil; p = p.Parent {
		key, err := b.keys.stage(p)
		if err != nil {
			return err
		}
		if _, err := b.stage(p); err != nil {
			return fmt.Errorf("stage %s: %w", p.Name, err)
		}
		lower = append([]string{filepath.Join(b.out, "stages", key, "root")}, lower...)
	}
	work, mounted := filepath.Join(dir, "work"), filepath.Join(dir, "mounted")
	r, err := openRoot(lower, filepath.Join(dir, "root"), work, mounted, log)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, r.close())
		if err == nil {
			err = errors.Join(os.RemoveAll(work), os.RemoveAll(mounted))
		}
	}()
	if len(folders) == 0 {
		folders = []shown{}
	}
	for _, name := range []string{"lists", "archives"} {
		if err := os.MkdirAll(filepath.Join(b.out, "apt", name, "partial"), 0o755); err != nil {
			return err
		}
	}
	folders = append(folders,
		shown{filepath.Join(b.out, "apt/lists"), "/var/lib/apt/lists", false},
		shown{filepath.Join(b.out, "apt/archives"), "/var/cache/apt/archives", false})
	if err := r.prepare(folders); err != nil {
		return err
	}
	return use(r)
}

// install installs Debian packages without what they recommend and without
// starting anything, and leaves no trace of apt's work.
func (b *builder) install(r *root, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	// The downloads go to the shared cache; as root, because the user that apt
	// would give them to does not own that folder.
	const apt = "apt-get -q -o APT::Sandbox::User=root -o Binary::apt-get::APT::Keep-Downloaded-Packages=true -o Acquire::Retries=3 "
	if !b.listed {
		if err := r.run(apt+"update", nil); err != nil {
			return err
		}
		b.listed = true
	}
	return r.run(apt+"install --yes --no-install-recommends "+strings.Join(packages, " ")+`
rm -rf /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/fontconfig.log \
	/var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig /var/cache/apt/*.bin`, nil)
}

// wheels returns the folder with a set of compiled Python packages.
func (b *builder) wheels(w *Wheels) (string, error) {
	key, err := b.keys.wheels(w)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.out, "wheels", key)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	start := time.Now()
	fmt.Fprintf(b.say, "  %-16s …\n", w.Name)
	partial := dir + ".partial"
	scratch := dir + ".scratch"
	defer os.RemoveAll(scratch)
	if err := errors.Join(os.RemoveAll(partial), os.RemoveAll(scratch), os.MkdirAll(partial, 0o755)); err != nil {
		return "", err
	}
	err = b.logged(w.Name, func(log io.Writer) error {
		return b.inRoot(w.Parent, scratch, log, []shown{{partial, "/run/wheels", false}}, func(r *root) error {
			if err := b.install(r, w.Packages); err != nil {
				return err
			}
			if err := copyFile(filepath.Join(b.keys.images, w.Requirements), filepath.Join(r.dir, "tmp/requirements.txt"), 0o644); err != nil {
				return err
			}
			return r.run("python3 -m pip wheel --no-cache-dir --wheel-dir /run/wheels --requirement /tmp/requirements.txt", w.Env)
		})
	})
	if err != nil {
		return "", err
	}
	if err := copyFile(filepath.Join(b.keys.images, w.Requirements), filepath.Join(partial, "requirements.txt"), 0o644); err != nil {
		return "", err
	}
	if err := os.Rename(partial, dir); err != nil {
		return "", err
	}
	fmt.Fprintf(b.say, "  %-16s %s\n", w.Name, time.Since(start).Round(100*time.Millisecond))
	return dir, nil
}

// lock keeps a second builder away from the output folder until this process
// ends.
func lock(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(out, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	fd := int(f.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "another build works in %s; waiting for it\n", out)
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("lock %s: %w", out, err)
	}
	return nil
}
