// Command build makes the images that the end-to-end tests and the demo run in
// place of the published ones. They honour the same contract (users, paths,
// commands, signals, environment, entrypoints) and are made of Debian, PyPI and
// Go packages only. It needs root, mmdebstrap and Go.
//
//	go run ./test/images/build -out DIR [name…]
//
// DIR/layout is an OCI image layout; every image in it carries the annotation
// org.opencontainers.image.ref.name with name:tag. An image whose recipe is in
// the layout already is not made again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// insideEnv marks the process that runs in a mount namespace of its own.
const insideEnv = "TARIMA_IMAGES_INSIDE"

func main() {
	if err := run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) { // the inner process has spoken already
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run() error {
	out := flag.String("out", "", "folder for the layout and the cache (required)")
	list := flag.Bool("list", false, "print the names of the images and end")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: build -out DIR [name…]\nnames: %s (none: all)\n", strings.Join(names(), " "))
		flag.PrintDefaults()
	}
	flag.Parse()
	if *list {
		fmt.Println(strings.Join(names(), "\n"))
		return nil
	}
	chosen, err := choose(flag.Args())
	if err != nil {
		return err
	}
	if *out == "" {
		return errors.New("-out DIR is missing: say where the images go")
	}
	dir, err := filepath.Abs(*out)
	if err != nil {
		return err
	}
	if err := checkHost(); err != nil {
		return err
	}
	if os.Getenv(insideEnv) == "" {
		return inside()
	}
	module, err := moduleRoot()
	if err != nil {
		return err
	}
	if err := lock(dir); err != nil {
		return err
	}
	b := &builder{out: dir, say: os.Stdout, keys: keyer{images: filepath.Join(module, "test/images"), module: module}}
	return b.build(chosen)
}

// inside runs this program again in a mount namespace of its own, so that its
// mounts vanish with it however it ends.
func inside() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig watches the thread
	return cmd.Run()
}

// checkHost says what is missing before anything is begun.
func checkHost() error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: it makes file systems with other users' files")
	}
	for tool, get := range map[string]string{"mmdebstrap": "apt-get install mmdebstrap", "go": "install Go 1.26"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing (%s)", tool, get)
		}
	}
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the images are amd64 and cannot be made on %s", runtime.GOARCH)
	}
	return nil
}

// moduleRoot finds the source tree above the working folder.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		raw, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(raw), "module tarima\n") {
			return d, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s does not lie in the source tree of tarima", dir)
		}
	}
}

// names lists the images, each once however many tags it has.
func names() []string {
	var all []string
	for _, i := range images() {
		if !slices.Contains(all, i.Name) {
			all = append(all, i.Name)
		}
	}
	return all
}

// choose returns the images of the given names; name or name:tag; none means
// all.
func choose(wanted []string) ([]*Image, error) {
	all := images()
	if len(wanted) == 0 {
		return all, nil
	}
	var chosen []*Image
	for _, w := range wanted {
		found := false
		for _, i := range all {
			if i.Name == w || i.Ref() == w {
				chosen, found = append(chosen, i), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no image %q; there are %s", w, strings.Join(names(), ", "))
		}
	}
	return chosen, nil
}
