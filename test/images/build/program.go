package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// program compiles a static Go program and returns its path.
func (b *builder) program(p Program, log io.Writer) (string, error) {
	if p.Module == "" {
		// The compiler's own cache knows best whether anything changed.
		path := filepath.Join(b.out, "programs", filepath.Base(p.Target))
		return path, b.compile(b.keys.module, p.Package, path, log)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	dir := filepath.Join(b.out, "programs", hex.EncodeToString(sum[:]))
	path := filepath.Join(dir, filepath.Base(p.Target))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(b.say, "    compiling %s\n", p.Module)
	source := dir + ".source"
	if err := os.RemoveAll(source); err != nil {
		return "", err
	}
	defer os.RemoveAll(source)
	if err := b.unpackModule(p.Module, source, log); err != nil {
		return "", err
	}
	for name, text := range p.Write {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if err := b.compile(source, p.Package, path+".partial", log); err != nil {
		return "", err
	}
	return path, os.Rename(path+".partial", path)
}

// unpackModule puts a writable copy of a module's source at dir: the module
// cache itself is read only.
func (b *builder) unpackModule(module, dir string, log io.Writer) error {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = os.TempDir() // outside any module
	cmd.Stderr = log
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("download %s: %w: %s", module, err, out)
	}
	var answer struct{ Dir string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return fmt.Errorf("download %s: %w", module, err)
	}
	return filepath.WalkDir(answer.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(answer.Dir, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return copyFile(path, to, 0o644)
	})
}

func (b *builder) compile(dir, pkg, out string, log io.Writer) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w", pkg, err)
	}
	return nil
}
