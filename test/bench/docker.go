package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dockerCgroup is the cgroup of the peer's containers, so that nobody else's
// are touched.
const dockerCgroup = "tarima-bench-docker"

// docker is Debian's docker.io: a daemon of its own, with folders and a
// containerd of its own, in the network of the benchmark.
type docker struct {
	root   string
	socket string
	client string
	daemon *exec.Cmd
	ended  chan struct{}
}

// startDocker starts the peer and gives it the image.
func startDocker(ctx context.Context, root, archive string) (*docker, error) {
	d := &docker{root: root, socket: filepath.Join(root, "docker.sock"), client: "/usr/bin/docker", ended: make(chan struct{})}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, err
	}
	if err := inMemory(filepath.Join(root, "exec")); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(root, "dockerd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.daemon = exec.Command("dockerd", "--data-root", filepath.Join(root, "data"), "--exec-root", filepath.Join(root, "exec"),
		"--pidfile", filepath.Join(root, "pid"), "--host", "unix://"+d.socket, "--cgroup-parent", dockerCgroup)
	d.daemon.Stdout, d.daemon.Stderr = log, log
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.daemon.Start(); err != nil {
		return nil, fmt.Errorf("dockerd: %w; apt install docker.io", err)
	}
	go func() {
		_ = d.daemon.Wait() // how it ends is in its log
		close(d.ended)
	}()
	err = poll(time.Minute, "dockerd answers", func() error {
		_, err := d.run(ctx, "version")
		return err
	})
	if err == nil {
		_, err = d.run(ctx, "load", "--quiet", "--input", archive)
	}
	if err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// run runs the command line client.
func (d *docker) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.client, append([]string{"--host", "unix://" + d.socket}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// version of the peer.
func (d *docker) version(ctx context.Context) string {
	v, err := d.run(ctx, "version", "--format", "docker.io {{.Server.Version}}")
	if err != nil {
		return err.Error()
	}
	return v
}

// idle starts a number of containers that do nothing.
func (d *docker) idle(ctx context.Context, count int) error {
	for i := range count {
		if _, err := d.run(ctx, "run", "--detach", "--name", fmt.Sprintf("idle%d", i), imageName); err != nil {
			return err
		}
	}
	return nil
}

// clear removes all containers.
func (d *docker) clear(ctx context.Context) error {
	ids, err := d.run(ctx, "ps", "--all", "--quiet")
	if err != nil || ids == "" {
		return err
	}
	_, err = d.run(ctx, append([]string{"rm", "--force"}, strings.Fields(ids)...)...)
	return err
}

// processes are all of the peer that are not a container: dockerd, its
// containerd, shims, and proxies of published ports, were there any.
func (d *docker) processes() ([]processInfo, error) {
	all, err := having(d.root)
	if err != nil {
		return nil, err
	}
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	for _, p := range table {
		if p.parent == d.daemon.Process.Pid && strings.Contains(p.line, "docker-proxy") {
			all = append(all, p)
		}
	}
	return all, nil
}

// stop ends the daemon and everything that it left.
func (d *docker) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := d.clear(ctx)
	_ = d.daemon.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.ended:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("dockerd (process %d) does not end", d.daemon.Process.Pid))
	}
	err = errors.Join(err, wreck(d.root))
	removeCgroups(dockerCgroup)
	return err
}

// pid of the main process of a container.
func (d *docker) pid(ctx context.Context, name string) (int, error) {
	text, err := d.run(ctx, "inspect", "--format", "{{.State.Pid}}", name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}
