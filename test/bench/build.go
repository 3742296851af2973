package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// build measures the binary, and a build of everything with nothing compiled
// before but all modules here.
func (b *bench) build(ctx context.Context) error {
	info, err := os.Stat(filepath.Join(b.top, "bin", "tarima"))
	if err != nil {
		return err
	}
	b.add(figure{Name: "size of bin/tarima", Value: float64(info.Size()) / 1e6, Unit: "MB"}.atMost(40))
	cache := filepath.Join(b.root, "cache")
	cmd := exec.CommandContext(ctx, "make", "--always-make", "bin/tarima", "bin/runc")
	cmd.Dir = b.top
	cmd.Env = append(os.Environ(), "GOCACHE="+cache)
	before := loadAverage()
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make build: %w: %s", err, out)
	}
	b.add(figure{
		Name: "make build, modules here, nothing compiled before", Value: time.Since(began).Seconds(), Unit: "s",
		Note: fmt.Sprintf("load average before it %s; it used %s s of processor time", before,
			number((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())),
	}.atMost(60))
	return nil
}
