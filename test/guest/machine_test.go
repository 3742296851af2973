//go:build guest

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bootPatience bounds a boot without hardware virtualization, which takes half
// a minute on a machine with nothing else to do.
const bootPatience = 8 * time.Minute

// acceleratorVariable set to kvm asks for hardware virtualization. It is not
// taken for granted where /dev/kvm is: within another virtual machine it may
// end qemu.
const acceleratorVariable = "TARIMA_GUEST_ACCELERATOR"

// machine is a virtual machine that runs.
type machine struct {
	root    rootImage
	port    int // of its ssh, on the loopback
	console string
	qemu    *exec.Cmd
	ended   chan struct{} // closed when qemu has ended, with err set
	err     error
}

// boot starts a machine from the root image, which stays as it is, with the
// payload as its second disk. The calling goroutine must stay on its thread:
// the kernel ends the machine with it.
func boot(ctx context.Context, root rootImage, payload, dir string) (*machine, error) {
	m := &machine{root: root, console: filepath.Join(dir, "console.log"), ended: make(chan struct{})}
	overlay := filepath.Join(dir, "disk.qcow2")
	if out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", root.disk(), overlay).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	var err error
	if m.port, err = freePort(); err != nil {
		return nil, err
	}
	accelerator, processor := "tcg,thread=multi", "max"
	if os.Getenv(acceleratorVariable) == "kvm" {
		accelerator, processor = "kvm", "host"
	}
	m.qemu = exec.Command("qemu-system-x86_64",
		"-accel", accelerator, "-cpu", processor, "-smp", "2", "-m", "2048",
		"-display", "none", "-no-reboot", "-serial", "file:"+m.console,
		"-kernel", root.kernel(), "-initrd", root.initrd(), "-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1",
		"-drive", "file="+overlay+",format=qcow2,if=virtio,cache=unsafe",
		"-drive", "file="+payload+",format=raw,if=virtio,readonly=on",
		"-netdev", fmt.Sprintf("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22", m.port),
		"-device", "virtio-net-pci,netdev=n0", "-device", "virtio-rng-pci")
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output strings.Builder
	m.qemu.Stdout, m.qemu.Stderr = &output, &output
	if err := m.qemu.Start(); err != nil {
		return nil, err
	}
	go func() {
		m.err = m.qemu.Wait()
		close(m.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	for {
		state, err := m.run(ctx, nil, "systemctl is-system-running --wait")
		switch {
		case err == nil:
			return m, nil
		case strings.TrimSpace(state) == "degraded":
			failed, _ := m.run(ctx, nil, "systemctl --failed --no-legend") // told with the error
			m.kill()
			return nil, fmt.Errorf("boot the guest: not all of its services start:\n%s", failed)
		}
		select {
		case <-m.ended:
			return nil, fmt.Errorf("boot the guest: qemu ended: %w: %s\n%s", m.err, output.String(), m.consoleTail())
		case <-ctx.Done():
			m.kill()
			return nil, fmt.Errorf("boot the guest: %w: %w\n%s", ctx.Err(), err, m.consoleTail())
		case <-time.After(time.Second):
		}
	}
}

// freePort finds a port of the loopback. Another process may take it before
// qemu does, which then ends and says so.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// run runs a line in the guest's shell. It returns what the line printed, and
// also writes it to a writer while it comes.
func (m *machine) run(ctx context.Context, also io.Writer, line string) (string, error) {
	cmd := exec.CommandContext(ctx, "ssh", "-i", m.root.key(), "-p", strconv.Itoa(m.port),
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "ConnectTimeout=60", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=10", "root@127.0.0.1", line)
	cmd.WaitDelay = time.Second
	var output strings.Builder
	cmd.Stdout = &output
	if also != nil {
		cmd.Stdout = io.MultiWriter(&output, also)
	}
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	return output.String(), err
}

func (m *machine) consoleTail() string {
	data, err := os.ReadFile(m.console)
	if err != nil {
		return err.Error()
	}
	return tail(string(data), 30)
}

// powerOff ends the guest as its administrator would.
func (m *machine) powerOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, _ = m.run(ctx, nil, "systemctl poweroff") // the connection may end with the guest
	select {
	case <-m.ended:
		return m.err
	case <-ctx.Done():
		m.kill()
		return errors.New("the guest does not power off:\n" + m.consoleTail())
	}
}

// kill ends the machine, however it is.
func (m *machine) kill() {
	_ = m.qemu.Process.Kill() // it may have ended
	<-m.ended
}
