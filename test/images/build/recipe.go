package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// formatVersion is part of every cache key. Raise it when the builder itself
// changes what a stage's recipe turns into.
const formatVersion = 2

// Stage is one layer of an image: what it adds to its parent's file system. The
// fields are applied in the order in which they stand here.
type Stage struct {
	Name   string
	Parent *Stage // nil: made from nothing by mmdebstrap

	Before   string    // shell lines run in the root before anything is installed
	Packages []string  // Debian packages, without what they recommend
	Wheels   *Wheels   // Python packages, shown at /run/wheels to Script
	Programs []Program // Go programs, compiled on the host
	Files    []string  // folders below test/images that are laid over the root
	Script   string    // shell lines run in the root at the end
	// Env is given to Before and Script as KEY=value.
	Env []string
}

// Program is a static Go program that a stage puts into the root.
type Program struct {
	Target string // absolute path in the root
	// Package is a folder of this module (./test/images/…), or, with Module, a
	// folder below that module's root.
	Package string
	Module  string // module@version; "" is this module
	// Write names files that are written into a copy of the module before it is
	// built. Some modules keep their version in a file that a release fills in.
	Write map[string]string
}

// Wheels are Python packages compiled in a throwaway root, so that no compiler
// comes into the image.
type Wheels struct {
	Name         string
	Parent       *Stage
	Packages     []string // Debian packages that the compilation needs
	Requirements string   // file below test/images
	Env          []string // KEY=value for the compilation
}

// Image is a list of layers with the configuration that a container gets.
type Image struct {
	Name, Tag string
	Top       *Stage
	Config    v1.Config
}

// Ref is the name under which the image stands in the layout.
func (i *Image) Ref() string { return i.Name + ":" + i.Tag }

// stages returns the image's stages, the lowest first.
func (i *Image) stages() []*Stage {
	var all []*Stage
	for s := i.Top; s != nil; s = s.Parent {
		all = append([]*Stage{s}, all...)
	}
	return all
}

// keyer computes cache keys of recipes against a source tree.
type keyer struct {
	images string // the folder test/images
	module string // the module's root
}

// stage returns the content hash of a stage: its recipe, the bytes of every
// file that it names, and its parent's hash.
func (k keyer) stage(s *Stage) (string, error) {
	h := sha256.New()
	if s.Parent != nil {
		parent, err := k.stage(s.Parent)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, "parent", parent)
	}
	recipe := struct {
		Format   int
		Name     string
		Before   string
		Packages []string
		Programs []Program
		Files    []string
		Script   string
		Env      []string
	}{formatVersion, s.Name, s.Before, s.Packages, s.Programs, s.Files, s.Script, s.Env}
	if err := json.NewEncoder(h).Encode(recipe); err != nil {
		return "", err
	}
	if s.Wheels != nil {
		wheels, err := k.wheels(s.Wheels)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, "wheels", wheels)
	}
	for _, p := range s.Programs {
		if p.Module != "" {
			continue // a module's version says what is in it
		}
		if err := hashTree(h, filepath.Join(k.module, p.Package), isProgramSource); err != nil {
			return "", fmt.Errorf("program %s: %w", p.Target, err)
		}
	}
	for _, dir := range s.Files {
		if err := hashTree(h, filepath.Join(k.images, dir), isImageFile); err != nil {
			return "", fmt.Errorf("files %s: %w", dir, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// wheels returns the content hash of a set of Python packages.
func (k keyer) wheels(w *Wheels) (string, error) {
	h := sha256.New()
	parent, err := k.stage(w.Parent)
	if err != nil {
		return "", err
	}
	fmt.Fprintln(h, "wheels", formatVersion, w.Name, parent)
	if err := json.NewEncoder(h).Encode([][]string{w.Packages, w.Env}); err != nil {
		return "", err
	}
	requirements, err := os.ReadFile(filepath.Join(k.images, w.Requirements))
	if err != nil {
		return "", fmt.Errorf("requirements of %s: %w", w.Name, err)
	}
	h.Write(requirements)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// image returns the content hash of an image: its layers and its configuration.
func (k keyer) image(i *Image) (string, error) {
	top, err := k.stage(i.Top)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", i.Ref(), err)
	}
	h := sha256.New()
	fmt.Fprintln(h, "image", i.Ref(), top)
	if err := json.NewEncoder(h).Encode(i.Config); err != nil { // sorted keys
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// isProgramSource says whether a file of a program's folder can change the
// program: tests cannot.
func isProgramSource(path string) bool {
	ok, _ := filepath.Match("*_test.go", filepath.Base(path))
	return !ok
}

// isImageFile leaves out what Python writes beside its sources when somebody
// runs them in the source tree.
func isImageFile(path string) bool {
	return filepath.Ext(path) != ".pyc" && filepath.Base(path) != "__pycache__"
}

// hashTree adds the names, kinds, permissions and bytes below root to h, in the
// order of their names.
func hashTree(h hash.Hash, root string, keep func(string) bool) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !keep(path) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %o\n", rel, info.Mode()&(fs.ModeType|0o111))
		switch {
		case info.Mode().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			fmt.Fprintln(h, info.Size())
			_, err = io.Copy(h, f)
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			fmt.Fprintf(h, "%q\n", target)
			return err
		}
		return nil
	})
}
